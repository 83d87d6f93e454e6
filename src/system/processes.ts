import { readFileSync, readlinkSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { hasCode } from './durable.js';

/** Facts about processes from /proc. */

/** Tells a process from a later one with the same number: the kernel's start time in clock ticks; undefined if it is gone. */
export async function startTime(pid: number): Promise<string | undefined> {
  try {
    const text = await readFile(`/proc/${String(pid)}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ESRCH')) return undefined;
    throw error;
  }
}

/** Changes with every boot of this host. */
export async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

/** Whether a process has all these words among its arguments: a program that a dead agent started may still be at work. */
export async function isRunningWith(words: readonly string[]): Promise<boolean> {
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const args = (await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')).split('\0'); // ended meanwhile
    if (words.every((word) => args.includes(word))) return true;
  }
  return false;
}

export interface Opener {
  readonly pid: number;
  readonly command: string;
  /** The path that was asked for. */
  readonly path: string;
  /** Whether it is open for writing. */
  readonly writing: boolean;
}

/**
 * Which processes hold one of the paths open, compared by device and inode (or by the device itself for block devices),
 * so that other names and links of the same file count. Paths that do not exist are passed over.
 */
export async function openersOf(paths: readonly string[]): Promise<Opener[]> {
  const wanted = new Map<string, string>();
  const inodes = new Set<string>();
  for (const path of paths) {
    const key = await identityOf(path);
    if (key === undefined) continue;
    wanted.set(key, path);
    if (key.startsWith('f')) inodes.add(key.slice(key.lastIndexOf(':') + 1));
  }
  if (wanted.size === 0) return [];
  const devices = [...wanted.keys()].some((key) => key.startsWith('b')); // else /dev/null and its like, which every process has open, are not asked about
  const found: Opener[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const seen = new Map<string, boolean>();
    for (const fd of await readdir(`/proc/${entry}/fd`).catch(() => [])) { // the process has just ended, or is a kernel thread
      const opened = openedAs(entry, fd);
      if (opened === undefined || !((devices && opened.device) || opened.inode === undefined || inodes.has(opened.inode))) continue;
      const key = await identityOf(`/proc/${entry}/fd/${fd}`);
      const path = key === undefined ? undefined : wanted.get(key);
      if (path !== undefined) seen.set(path, opened.writing || seen.get(path) === true);
    }
    if (seen.size === 0) continue;
    const command = await readFile(`/proc/${entry}/comm`, 'utf8').catch(() => 'unknown'); // ended meanwhile
    for (const [path, writing] of seen) found.push({ pid: Number(entry), command: command.trim(), path, writing });
  }
  return found;
}

/**
 * What /proc says of a descriptor without asking the file itself, which could be served by a hung daemon; undefined for sockets, pipes
 * and the like. `inode` is missing on kernels before 5.14. Synchronous, since nothing in /proc can keep us waiting and there are many to read.
 */
function openedAs(pid: string, fd: string): { readonly device: boolean; readonly inode: string | undefined; readonly writing: boolean } | undefined {
  try {
    const target = readlinkSync(`/proc/${pid}/fd/${fd}`);
    if (!target.startsWith('/')) return undefined;
    const info = readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8');
    const flags = /^flags:\s+([0-7]+)/m.exec(info)?.[1] ?? '0'; // octal; the lowest two bits are the access mode, 0 for reading only
    return { device: target.startsWith('/dev/'), inode: /^ino:\s+(\d+)/m.exec(info)?.[1], writing: (parseInt(flags.slice(-1), 8) & 3) !== 0 };
  } catch {
    return undefined; // closed meanwhile, or not ours to see
  }
}

async function identityOf(path: string): Promise<string | undefined> {
  try {
    const status = await stat(path, { bigint: true });
    if (status.isBlockDevice()) return `b${String(status.rdev)}`;
    return status.isFile() ? `f${String(status.dev)}:${String(status.ino)}` : undefined;
  } catch {
    return undefined; // closed or removed between listing and looking
  }
}
