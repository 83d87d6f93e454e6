import { run } from './run.js';

/**
 * Making a range of an image read as zeros without writing it, through fallocate(1) and blkdiscard(8). `path` may be
 * `/proc/<pid>/fd/<n>`, so that it is the open file that is meant, whatever has happened to its name.
 * Both throw `program-failed` where the file system or device can't, and `program-missing`.
 */
export async function punchHole(path: string, offset: number, length: number): Promise<void> {
  await run('fallocate', ['--punch-hole', '--keep-size', '--offset', String(offset), '--length', String(length), path]);
}

/** On devices that can't do it by themselves the kernel writes the zeros. */
export async function zeroDevice(path: string, offset: number, length: number): Promise<void> {
  await run('blkdiscard', ['--zeroout', '--offset', String(offset), '--length', String(length), path], { timeoutMs: 600_000 });
}

/** Asks the kernel to drop a file's clean pages from the page cache. Advice: what is in use or dirty stays. */
export async function dropPages(path: string): Promise<void> {
  await run('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}
