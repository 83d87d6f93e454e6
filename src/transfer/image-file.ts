import type { BigIntStats } from 'node:fs';
import { constants } from 'node:fs';
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import { hasCode } from '../system/durable.js';
import { thinChunkBytes } from '../system/zero-range.js';

/** Opening what is read and what is written: regular files and block devices, past the page cache where that is possible. */
export interface OpenedFile extends AsyncDisposable {
  readonly path: string;
  readonly fd: number;
  /** Whether reads and writes go past the page cache. */
  readonly direct: boolean;
  readonly kind: 'file' | 'device';
  /** Tells the file or device from any other: what a name leads to can change. */
  readonly identity: string;
  /** Time of the last write in nanoseconds, decimal; says nothing of a device. */
  readonly mtime: string;
  readonly bytes: number;
  readonly allocatedBytes: number;
  /** Of a thin volume: bytes of a chunk, the unit in which its pool takes space back. */
  readonly chunkBytes?: number;
}

/** Opens for reading. Without O_DIRECT where it is not wanted or refused (some FUSE exports). */
export async function openToRead(path: string, direct: boolean): Promise<OpenedFile> {
  return describe(path, await openDirect(path, constants.O_RDONLY, direct));
}

/** An image opened to be written: past the page cache, and beside that through it for the rest of a last sector. */
export interface OpenedImage extends OpenedFile {
  readonly tailFd: number;
  sync(): Promise<void>;
}

/**
 * Opens an existing regular file or block device for writing; never creates. A block device that is mounted or otherwise claimed is refused
 * by the kernel. Throws `state-changed` if there is nothing.
 */
export async function openToWrite(path: string): Promise<OpenedImage> {
  const opened = await openDirect(path, constants.O_RDWR, true);
  const image = await describe(path, opened);
  let tail: FileHandle;
  try {
    tail = await open(path, constants.O_RDWR);
  } catch (error) {
    await opened.handle.close();
    throw error;
  }
  try {
    const again = await tail.stat({ bigint: true });
    if (identityOf(again) !== image.identity) throw changed(path, 'it was replaced while it was opened');
    if (image.kind === 'device') {
      // O_EXCL on a block device: only if nobody has mounted or claimed it. The descriptor is not kept.
      await (await open(path, constants.O_RDONLY | constants.O_EXCL)).close();
    }
  } catch (error) {
    await opened.handle.close();
    await tail.close();
    throw hasCode(error, 'EBUSY') ? new DrError('image-in-use', `${path} is mounted or claimed by something else. Nothing was written.`, 'Find out what holds it: lsblk, dmsetup ls.') : error;
  }
  return {
    ...image,
    tailFd: tail.fd,
    sync: async () => {
      await opened.handle.datasync();
      await tail.datasync();
    },
    [Symbol.asyncDispose]: async () => {
      await opened.handle.close();
      await tail.close();
    },
  };
}

/** What a path leads to, for a ticket. Throws `state-changed` if it leads to nothing that can hold an image. */
export async function identify(path: string): Promise<{ readonly identity: string; readonly mtime: string; readonly bytes: number }> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => { throw missing(path, error); });
  await using file = await describe(path, { handle, direct: false });
  return { identity: file.identity, mtime: file.mtime, bytes: file.bytes };
}

interface Opened {
  readonly handle: FileHandle;
  readonly direct: boolean;
}

async function openDirect(path: string, flags: number, direct: boolean): Promise<Opened> {
  // O_NONBLOCK: a FIFO under that name must not hang us; regular files and block devices do not mind.
  const common = flags | constants.O_NONBLOCK;
  try {
    return { handle: await open(path, direct ? common | constants.O_DIRECT : common), direct };
  } catch (error) {
    if (direct && hasCode(error, 'EINVAL', 'EOPNOTSUPP')) return { handle: await open(path, common), direct: false };
    throw missing(path, error);
  }
}

async function describe(path: string, { handle, direct }: Opened): Promise<OpenedFile> {
  try {
    const status = await handle.stat({ bigint: true });
    if (!status.isFile() && !status.isBlockDevice()) throw changed(path, 'it is neither a regular file nor a block device');
    const sysfs = status.isBlockDevice() ? sysfsOf(status) : undefined;
    const chunkBytes = sysfs === undefined ? undefined : await thinChunkBytes(sysfs);
    return {
      path, fd: handle.fd, direct, ...(chunkBytes === undefined ? {} : { chunkBytes }),
      kind: status.isFile() ? 'file' : 'device',
      identity: identityOf(status),
      mtime: String(status.mtimeNs),
      bytes: sysfs === undefined ? Number(status.size) : await deviceBytes(sysfs),
      allocatedBytes: Number(status.blocks) * 512,
      // Whoever writes syncs before; a FUSE export whose daemon has died even fails to be closed.
      [Symbol.asyncDispose]: () => handle.close().catch(() => undefined),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function identityOf(status: BigIntStats): string {
  return status.isBlockDevice() ? `device ${String(status.rdev)}` : `file ${String(status.dev)}:${String(status.ino)}`;
}

/** Where the kernel describes a block device. */
function sysfsOf(status: BigIntStats): string {
  const number = status.rdev;
  const major = ((number >> 8n) & 0xfffn) | ((number >> 32n) & ~0xfffn);
  const minor = (number & 0xffn) | ((number >> 12n) & ~0xffn & 0xffffffffn);
  return `/sys/dev/block/${String(major)}:${String(minor)}`;
}

/** A block device's size is not in its status; the kernel says it in units of 512 bytes, whatever the sector. */
async function deviceBytes(sysfs: string): Promise<number> {
  return Number((await readFile(`${sysfs}/size`, 'utf8')).trim()) * 512;
}

function missing(path: string, error: unknown): unknown {
  return hasCode(error, 'ENOENT', 'ENOTDIR') ? changed(path, 'it does not exist') : error;
}

function changed(path: string, why: string): DrError {
  return new DrError('state-changed', `${path} can't be used: ${why}. Nothing was written.`, 'Run the job again; it looks at everything afresh.');
}
