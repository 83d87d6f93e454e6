import { readdir, readFile } from 'node:fs/promises';
import { hasCode } from './durable.js';
import { runLean } from './run.js';

/**
 * Making a range of an image read as zeros without writing it, through fallocate(1) and blkdiscard(8). `path` may be
 * `/proc/<pid>/fd/<n>`, so that it is the open file that is meant, whatever has happened to its name.
 * They throw `program-failed` where the file system or device can't, and `program-missing`.
 */
export async function punchHole(path: string, offset: number, length: number): Promise<void> {
  await runLean('fallocate', ['--punch-hole', '--keep-size', '--offset', String(offset), '--length', String(length), path]);
}

/** Zeros whole sectors of 512 bytes. On devices that can't do it by themselves the kernel writes the zeros; on a thin volume that takes space for all of them. */
export async function zeroDevice(path: string, offset: number, length: number): Promise<void> {
  const whole = length - length % 512;
  if (whole > 0) await runLean('blkdiscard', ['--zeroout', '--offset', String(offset), '--length', String(whole), path], { timeoutMs: 600_000 });
}

/**
 * Gives the pool of a thin volume back the chunks that lie wholly in a range. They usually read as zeros then; that is for the caller to see,
 * as a discard promises nothing.
 */
export async function discardChunks(path: string, chunkBytes: number, offset: number, length: number): Promise<void> {
  const from = Math.ceil(offset / chunkBytes) * chunkBytes;
  const until = Math.floor((offset + length) / chunkBytes) * chunkBytes;
  if (until > from) await runLean('blkdiscard', ['--offset', String(from), '--length', String(until - from), path], { timeoutMs: 600_000 });
}

/**
 * Bytes of a chunk, if the block device described by this directory of sysfs is a thin volume of LVM: it alone lies on a thin pool, and
 * the kernel shows that to everyone. On other devices a discard says nothing of what is read afterwards, today or tomorrow.
 */
export async function thinChunkBytes(sysfs: string): Promise<number | undefined> {
  const below = await readdir(`${sysfs}/slaves`).catch(unlessGone([]));
  for (const name of below) {
    const uuid = await readFile(`${sysfs}/slaves/${name}/dm/uuid`, 'utf8').catch(unlessGone(''));
    if (!/^LVM-.*-tpool$/.test(uuid.trim())) continue;
    const bytes = Number((await readFile(`${sysfs}/queue/discard_granularity`, 'utf8')).trim());
    return bytes > 0 ? bytes : undefined; // the pool ignores discards
  }
  return undefined;
}

function unlessGone<T>(otherwise: T): (error: unknown) => T {
  return (error) => {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return otherwise; // a partition has no directory of what lies below it
    throw error;
  };
}

/** Asks the kernel to drop a file's clean pages from the page cache. Advice: what is in use or dirty stays. */
export async function dropPages(path: string): Promise<void> {
  await runLean('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}
