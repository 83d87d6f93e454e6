import { readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { hasCode } from '../system/durable.js';

export interface InletWork {
  readonly fd: number;
  /** What blocks are read into. */
  readonly memory: SharedArrayBuffer;
  /** What anything else is read into. */
  readonly ahead: Uint8Array;
  /** Counts the reads that brought something. */
  readonly heard: Int32Array;
}

/** How long a descriptor that has nothing and does not wait is left alone, in milliseconds: whoever started us may have made it so. */
const NOTHING_YET_MS = 2;

/**
 * The body of the thread that reads from a link. A message names a range of the memory, which is filled, or none: then what comes next is read ahead, as much as is there. Each
 * is answered by how many bytes there were, fewer only at the end, or by an error's message.
 */
const { fd, memory, ahead, heard } = workerData as InletWork;
const sleeper = new Int32Array(new SharedArrayBuffer(4));

function read(target: Uint8Array): number {
  for (;;) {
    try {
      const got = readSync(fd, target);
      if (got > 0) Atomics.add(heard, 0, 1);
      return got;
    } catch (error) {
      if (!hasCode(error, 'EAGAIN')) throw error;
      Atomics.wait(sleeper, 0, 0, NOTHING_YET_MS);
    }
  }
}

function fill(target: Uint8Array): number {
  let filled = 0;
  while (filled < target.length) {
    const got = read(target.subarray(filled));
    if (got === 0) break;
    filled += got;
  }
  return filled;
}

parentPort?.on('message', (where: { readonly at: number; readonly length: number } | undefined) => {
  try {
    parentPort?.postMessage(where === undefined ? read(ahead) : fill(new Uint8Array(memory, where.at, where.length)));
  } catch (error) {
    parentPort?.postMessage(error instanceof Error ? error.message : String(error));
  }
});
