import { access, chmod, chown, mkdir, readFile, realpath, stat, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { DrError } from '../model/errors.js';
import { hasCode } from '../system/durable.js';
import { listMounts } from '../system/mounts.js';
import type { Holdings } from './holdings.js';

/**
 * The scratch place: where QEMU keeps what the guest overwrites while a live capture is open. If it fills up or goes away the guest
 * suffers, so it is never on a cache drive, and has a reserve.
 */

export interface ScratchRequest {
  readonly scratch: string;
  /** What must be free to begin; when only half of it is left the capture is given up. */
  readonly scratchReserveBytes: number;
  /** The file that marks a cache drive. */
  readonly signature: string;
}

/** The socket's name in a capture's scratch directory. */
export const SOCKET = 'nbd';

/** The kernel's limit for the path of a UNIX socket, in bytes. */
const LONGEST_SOCKET = 107;

/** Free bytes for an ordinary user of the file system that `path` is on. */
export async function freeBytes(path: string): Promise<number> {
  const space = await statfs(path);
  return space.bavail * space.bsize;
}

/**
 * Makes the directory of one capture, which only QEMU's user can enter, and returns its path; owed before it is made.
 * Throws `refused` (a cache drive, or a place that QEMU can't reach) and `space`.
 */
export async function makeScratch(holdings: Holdings, request: ScratchRequest, capture: string, server: string, qemuPid: number): Promise<string> {
  await refuseCacheDrive(await willBe(request.scratch), request.signature);
  await makeEnterable(request.scratch);
  const root = await realpath(request.scratch);
  const free = await freeBytes(root);
  if (free < request.scratchReserveBytes) {
    throw new DrError('space', `${server} can't be captured live: the scratch place ${root} has ${String(free)} bytes free, its reserve is ${String(request.scratchReserveBytes)}. Nothing was touched.`,
      'Free space there, choose another place with scratch:, or capture it with capture: shutdown.');
  }
  const directory = join(root, `dr-engine-${capture}`);
  if (Buffer.byteLength(join(directory, SOCKET)) > LONGEST_SOCKET) {
    throw new DrError('refused', `the path of the scratch place ${root} is too long for a socket in it. Nothing was touched.`, 'Choose a shorter one with scratch:.');
  }
  const user = await userOf(qemuPid);
  await refuseUnreachable(root, user, server);
  await holdings.hold({ kind: 'remove', path: directory });
  await mkdir(directory, { mode: 0o700 });
  await chown(directory, user.uid, user.gid);
  return directory;
}

/** Where a path leads, as far as it exists. */
async function willBe(path: string): Promise<string> {
  for (let at = resolve(path); ; at = dirname(at)) {
    try {
      return await realpath(at);
    } catch (error) {
      if (!hasCode(error, 'ENOENT') || at === '/') throw error;
    }
  }
}

/** Missing directories are made so that QEMU's user can pass through them; those that exist stay as they are. */
async function makeEnterable(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true });
  if (first === undefined) return;
  for (let made = path; made.length >= first.length; made = dirname(made)) await chmod(made, 0o711);
}

async function refuseCacheDrive(root: string, signature: string): Promise<void> {
  const mount = (await listMounts()).filter((each) => root === each.mountPoint || root.startsWith(each.mountPoint === '/' ? '/' : `${each.mountPoint}/`))
    .reduce((longest, each) => each.mountPoint.length >= longest.length ? each.mountPoint : longest, '/');
  try {
    await access(join(mount, signature));
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return;
    throw error;
  }
  throw new DrError('refused', `the scratch place ${root} is on the cache drive at ${mount}; a cache drive may vanish, and then the guest's writes would fail. Nothing was touched.`,
    'Choose a place on the node\'s own reliable storage with scratch:.');
}

interface User {
  readonly uid: number;
  readonly gid: number;
}

/** Whom a process touches files as. */
async function userOf(pid: number): Promise<User> {
  const status = await readFile(`/proc/${String(pid)}/status`, 'utf8');
  const last = (key: string): number => Number(new RegExp(`^${key}:.*\\s(\\d+)$`, 'm').exec(status)?.[1] ?? '0');
  return { uid: last('Uid'), gid: last('Gid') };
}

/** QEMU must be able to pass through every directory above, or it answers "Permission denied" when the backup begins. */
async function refuseUnreachable(root: string, user: User, server: string): Promise<void> {
  if (user.uid === 0) return;
  for (let at = root; ; at = dirname(at)) {
    const status = await stat(at);
    const bit = status.uid === user.uid ? 0o100 : status.gid === user.gid ? 0o010 : 0o001;
    if ((status.mode & bit) === 0) {
      throw new DrError('refused', `QEMU's user (uid ${String(user.uid)}) can't enter ${at}, so the scratch place ${root} is of no use to ${server}. Nothing was touched.`,
        `chmod o+x ${at}, or choose another place with scratch:.`);
    }
    if (at === '/') return;
  }
}
