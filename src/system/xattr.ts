import { DrError } from '../model/errors.js';
import { run } from './run.js';

/** Extended attributes, through getfattr(1) and setfattr(1) of the package `attr`. Symbolic links are never followed. */

/** So many files are asked about at once; their names fit any system's limit on arguments. */
const AT_ONCE = 500;

/**
 * The attributes whose names begin with `prefix` (`user.dr.`) of files in one directory: file name → attribute → value.
 * Files that do not exist, and those without such attributes, are absent. `names` must be plain: no `/`, `\` or line breaks.
 */
export async function readAttributes(directory: string, names: readonly string[], prefix: string): Promise<Map<string, ReadonlyMap<string, string>>> {
  const found = new Map<string, ReadonlyMap<string, string>>();
  const pattern = `^${prefix.replaceAll('.', '\\.')}`;
  for (let from = 0; from < names.length; from += AT_ONCE) {
    const some = names.slice(from, from + AT_ONCE).map((name) => `./${name}`);
    const { stdout, stderr } = await run('getfattr', ['--no-dereference', '--dump', '--encoding=base64', `--match=${pattern}`, '--', ...some],
      { cwd: directory, okExit: [0, 1] });
    for (const line of stderr.split('\n')) {
      if (line.trim() === '' || line.endsWith('No such file or directory')) continue; // removed since it was listed
      throw attributeError(directory, line.trim());
    }
    parseDump(stdout, found);
  }
  return found;
}

/** Reads what `getfattr --dump --encoding=base64` prints for paths like `./name`. */
export function parseDump(text: string, into: Map<string, ReadonlyMap<string, string>> = new Map()): Map<string, ReadonlyMap<string, string>> {
  let current: Map<string, string> | undefined;
  for (const line of text.split('\n')) {
    const file = /^# file: (?:\.\/)?(.*)$/.exec(line)?.[1];
    if (file !== undefined) {
      current = new Map();
      into.set(file, current);
      continue;
    }
    const [, name, value] = /^([^=]+)=0s(.*)$/.exec(line) ?? [];
    if (name !== undefined && value !== undefined) current?.set(name, Buffer.from(value, 'base64').toString('utf8'));
  }
  return into;
}

/** Sets one attribute. Not durable before the file is synced. Throws `no-space` or `io`. */
export async function setAttribute(path: string, name: string, value: string): Promise<void> {
  const encoded = `0s${Buffer.from(value, 'utf8').toString('base64')}`;
  const { exitCode, stderr } = await run('setfattr', ['--no-dereference', `--name=${name}`, `--value=${encoded}`, '--', path], { okExit: [0, 1] });
  if (exitCode !== 0) throw attributeError(path, stderr.trim());
}

/** Removes one attribute; one that is not there is fine. Not durable before the file is synced. */
export async function removeAttribute(path: string, name: string): Promise<void> {
  const { exitCode, stderr } = await run('setfattr', ['--no-dereference', `--remove=${name}`, '--', path], { okExit: [0, 1] });
  if (exitCode !== 0 && !stderr.includes('No such attribute')) throw attributeError(path, stderr.trim());
}

function attributeError(path: string, said: string): DrError {
  if (/No space left|Disk quota exceeded/.test(said)) {
    return new DrError('no-space', `there is no space left for an extended attribute on ${path}`, 'Free space on the store.');
  }
  if (/Operation not supported/.test(said)) {
    return new DrError('store-unusable', `${path} is on a file system without user extended attributes, which bind each image to its proof`,
      'Keep the store on ext4, xfs or btrfs.');
  }
  return new DrError('io', `extended attributes of ${path} could not be read or changed: ${said}`);
}
