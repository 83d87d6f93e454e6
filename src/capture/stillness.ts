import { readFile, stat } from 'node:fs/promises';
import { openersOf } from '../system/processes.js';

/** Evidence that nobody wrote to the sources of a cold capture while they were read. */

interface Trace {
  readonly path: string;
  /** Device and inode, or the device's number. */
  readonly identity: string;
  /** Bytes and modification time in nanoseconds, or the device's count of sectors written. */
  readonly state: string;
}

export type Traces = readonly Trace[];

/** What the files and devices of a capture are before they are read. */
export async function traceOf(paths: readonly string[]): Promise<Traces> {
  return Promise.all(paths.map(async (path) => {
    const status = await stat(path, { bigint: true });
    if (!status.isBlockDevice()) {
      return { path, identity: `file ${String(status.dev)}:${String(status.ino)}`, state: `${String(status.size)} bytes, modified ${String(status.mtimeNs)}` };
    }
    return { path, identity: `device ${String(status.rdev)}`, state: `${await sectorsWritten(status.rdev)} sectors written` };
  }));
}

/** From the kernel's statistics (Documentation/block/stat.rst: the seventh number); `unknown` where a device has none. */
async function sectorsWritten(rdev: bigint): Promise<string> {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  const text = await readFile(`/sys/dev/block/${String(major)}:${String(minor)}/stat`, 'utf8').catch(() => ''); // no statistics: the other evidence must do
  return text.trim().split(/\s+/)[6] ?? 'unknown';
}

/** Who has one of the paths open for writing, for people; undefined if nobody. Processes that only read do no harm. */
export async function writerOf(paths: readonly string[]): Promise<string | undefined> {
  const writer = (await openersOf(paths)).find((opener) => opener.writing);
  return writer === undefined ? undefined : `${writer.command} (process ${String(writer.pid)}) has ${writer.path} open for writing`;
}

/** What has changed since the traces were taken; undefined if nothing has. */
export async function disturbance(before: Traces): Promise<string | undefined> {
  for (const trace of before) {
    const now = (await traceOf([trace.path]).catch(() => []))[0]; // gone, or can't be asked: no longer the same
    if (now === undefined) return `${trace.path} is gone`;
    if (now.identity !== trace.identity) return `${trace.path} is another file than before`;
    if (now.state !== trace.state) return `${trace.path} was written to meanwhile`;
  }
  return writerOf(before.map((trace) => trace.path));
}
