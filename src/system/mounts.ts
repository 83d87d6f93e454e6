import { readFile, stat } from 'node:fs/promises';
import { hasCode } from './durable.js';
import { run } from './run.js';

/** What is mounted where, as this process sees it, and mounting. mount(8) and umount(8) are reached only from here. */

export interface Mount {
  readonly mountPoint: string;
  /** As the kernel shows it: a device path, or whatever a FUSE server called itself. */
  readonly source: string;
  readonly fsType: string;
  /** `major:minor` of the file system; 0:… for btrfs, FUSE and the like. */
  readonly device: string;
  /** Which directory of the file system is mounted; `/` unless it is a bind mount or a subvolume. */
  readonly root: string;
  readonly readOnly: boolean;
}

/** All mounts, oldest first: of several at one mount point the last is on top. */
export async function listMounts(): Promise<Mount[]> {
  return parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
}

/** Reads the format of proc_pid_mountinfo(5); lines it does not understand are passed over. */
export function parseMountInfo(text: string): Mount[] {
  return text.split('\n').flatMap((line): Mount[] => {
    const [before, after] = line.split(' - ');
    const [, , device, root, mountPoint, options] = (before ?? '').split(' ');
    const [fsType, source, superOptions] = (after ?? '').split(' ');
    if (device === undefined || root === undefined || mountPoint === undefined || options === undefined || fsType === undefined || source === undefined) return [];
    const readOnly = [...options.split(','), ...(superOptions ?? '').split(',')].includes('ro');
    return [{ mountPoint: unescape(mountPoint), source: unescape(source), fsType, device, root: unescape(root), readOnly }];
  });
}

/** The kernel writes blanks, tabs, newlines and backslashes in octal; UTF-8 stays as it is. */
function unescape(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}

/** What is on top at exactly this mount point; undefined if nothing is mounted there. */
export async function mountAt(mountPoint: string): Promise<Mount | undefined> {
  return (await listMounts()).filter((each) => each.mountPoint === mountPoint).at(-1);
}

/** Whether two mount sources are the same: by name, or, for block devices, whatever they are called. */
export async function sameSource(one: string, other: string): Promise<boolean> {
  if (one === other) return true;
  const [a, b] = [await deviceNumber(one), await deviceNumber(other)];
  return a !== undefined && a === b;
}

/** The two numbers of a device in what stat(2) says of it. */
export function deviceOf(rdev: bigint): { readonly major: number; readonly minor: number } {
  return { major: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n)), minor: Number((rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n)) };
}

/** `major:minor` of a block device; undefined for anything else. */
export async function deviceNumber(path: string): Promise<string | undefined> {
  if (!path.startsWith('/')) return undefined;
  try {
    const status = await stat(path, { bigint: true });
    if (!status.isBlockDevice()) return undefined;
    const { major, minor } = deviceOf(status.rdev);
    return `${String(major)}:${String(minor)}`;
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES', 'ENXIO', 'ENODEV')) return undefined; // a drive that was pulled is no device
    throw error;
  }
}

/** Mounts a device; options as for mount(8). Throws `program-failed` with what mount said. */
export async function mountDevice(device: string, fsType: string, mountPoint: string, options: readonly string[]): Promise<void> {
  await run('mount', ['--types', fsType, '--options', options.join(','), '--source', device, '--target', mountPoint]);
}

/** Unmounts what is on top at a mount point. `lazy` takes it out of sight at once and lets go when its last user does. */
export async function unmount(mountPoint: string, how: { readonly lazy: boolean }): Promise<void> {
  await run('umount', [...(how.lazy ? ['--lazy'] : []), '--no-canonicalize', '--', mountPoint], { timeoutMs: 30_000 });
}

export interface Look {
  readonly sizeBytes: number;
  readonly freeBytes: number;
  /** The regular file that was looked for is in the file system's root. */
  readonly found: boolean;
}

/** Read-only without replaying a journal; the first list of options that the kernel takes is used. */
const LOOKING: Readonly<Record<string, readonly (readonly string[])[]>> = {
  ext2: [['ro', 'noload'], ['ro']],
  ext3: [['ro', 'noload']],
  ext4: [['ro', 'noload']],
  xfs: [['ro', 'norecovery']],
  btrfs: [['ro', 'rescue=nologreplay'], ['ro', 'nologreplay']],
  vfat: [['ro']],
  exfat: [['ro']],
  ntfs: [['ro']],
};

/** File systems that can be looked into without changing a bit. */
export const LOOKABLE: readonly string[] = Object.keys(LOOKING);

/** `$4` where, `$5` what: a regular file, not a link. */
const LOOK = 'stat --file-system --format "%S %b %a" -- "$4" || exit 1; cd -- "$4" || exit 1; if test -f "./$5" && ! test -h "./$5"; then echo found; fi';

/**
 * Mounts in a mount namespace of its own, which nobody else sees and which vanishes with this one process however it ends: nothing
 * is left to undo. `$1` type, `$2` options, `$3` device.
 */
const MOUNT_AND_LOOK = `mount --types "$1" --options "$2" --source "$3" --target "$4" || exit 75; ${LOOK}; cd /; umount -- "$4"`;

/**
 * Looks into an unmounted file system for a regular file in its root without changing anything on the device. Undefined if it can't be
 * mounted that way. `mountPoint` is any empty directory. `file` is a plain name.
 */
export async function lookInto(device: string, fsType: string, mountPoint: string, file: string): Promise<Look | undefined> {
  for (const options of LOOKING[fsType] ?? []) {
    const all = [...options, 'nosuid', 'nodev', 'noexec'].join(',');
    const { exitCode, stdout } = await run('unshare', ['--mount', '--propagation', 'private', '--', 'sh', '-c', MOUNT_AND_LOOK, 'look', fsType, all, device, mountPoint, file],
      { okExit: [0, 1, 32, 75], timeoutMs: 30_000 });
    if (exitCode !== 75) return readLook(stdout);
  }
  return undefined;
}

/** The same for a file system that is mounted. Undefined if it can't be read. */
export async function lookAt(mountPoint: string, file: string): Promise<Look | undefined> {
  const { stdout } = await run('sh', ['-c', LOOK, 'look', '', '', '', mountPoint, file], { okExit: [0, 1], timeoutMs: 30_000 });
  return readLook(stdout);
}

function readLook(stdout: string): Look | undefined {
  const match = /^(\d+) (\d+) (\d+)\n(found\n)?/.exec(stdout);
  if (match === null) return undefined;
  const block = Number(match[1]);
  return { sizeBytes: block * Number(match[2]), freeBytes: block * Number(match[3]), found: match[4] !== undefined };
}
