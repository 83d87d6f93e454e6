import { readFile, stat } from 'node:fs/promises';
import { deviceCounters } from '../system/lvm.js';
import { deviceNumber, deviceOf, listMounts } from '../system/mounts.js';
import { openersOf } from '../system/processes.js';

/** Evidence that nobody wrote to the sources of a cold capture while they were read. */

interface Trace {
  readonly path: string;
  /** Device and inode, or the device's number and which activation of it this is. */
  readonly identity: string;
  /** Bytes and modification time in nanoseconds, or what the kernel counted of writes to the device. */
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
    const device = deviceOf(status.rdev);
    const number = `${String(device.major)}:${String(device.minor)}`;
    const counted = await deviceCounters(device);
    return { path, identity: `device ${number} ${counted?.device ?? ''}`, state: counted?.writes ?? await sectorsWritten(number) };
  }));
}

/** On kernels that do not number activations (Documentation/block/stat.rst: the seventh number); `unknown` where a device has no statistics: the other evidence must do. */
async function sectorsWritten(number: string): Promise<string> {
  const text = await readFile(`/sys/dev/block/${number}/stat`, 'utf8').catch(() => '');
  return text.trim().split(/\s+/)[6] ?? 'unknown';
}

/** Who has one of the paths open for writing or mounted, for people; undefined if nobody. Processes that only read do no harm. */
export async function writerOf(paths: readonly string[]): Promise<string | undefined> {
  const writer = (await openersOf(paths)).find((opener) => opener.writing);
  if (writer !== undefined) return `${writer.command} (process ${String(writer.pid)}) has ${writer.path} open for writing`;
  const mounts = (await listMounts()).filter(({ readOnly }) => !readOnly); // the kernel's own opening is in no process
  for (const path of paths) {
    const number = await deviceNumber(path);
    const mount = mounts.find(({ device }) => device === number);
    if (mount !== undefined) return `${path} is mounted at ${mount.mountPoint}`;
  }
  return undefined;
}

/** What has changed since the traces were taken; undefined if nothing has. */
export async function disturbance(before: Traces): Promise<string | undefined> {
  for (const trace of before) {
    const now = (await traceOf([trace.path]).catch(() => []))[0]; // gone, or can't be asked: no longer the same
    if (now === undefined) return `${trace.path} is gone`;
    if (now.identity !== trace.identity) return `${trace.path} is another file or device than before`;
    if (now.state !== trace.state) return `${trace.path} was written to meanwhile`;
  }
  return writerOf(before.map((trace) => trace.path));
}
