import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import { alignedBuffer } from '../system/aligned.js';

/** The rest of a volume behind its image: nobody's, and zeros in every volume that counts as proven. */

/** O_DIRECT wants whole sectors; 4096 is a multiple of every device's. */
const SECTOR = 4096;
const CHUNK = 1024 * 1024;

/**
 * Makes what was written to a device durable, and what lies between `from` and `to` (its end) read as zeros, past the page cache; writes only
 * where it does not yet. Throws `io` if it still does not afterwards.
 */
export async function settleDevice(path: string, from: number, to: number): Promise<void> {
  const device = await open(path, constants.O_RDWR | constants.O_DIRECT);
  try {
    await device.datasync();
    if (from >= to || await clear(device, from, to, 'look')) return;
    await clear(device, from, to, 'write');
    await device.datasync();
    if (!await clear(device, from, to, 'look')) throw new DrError('io', `${path} does not read as zeros behind its image though they were written`, 'Check the disk below it (kernel log).');
  } finally {
    await device.close();
  }
}

/** Whether all of the range was zero already. */
async function clear(device: FileHandle, from: number, to: number, what: 'look' | 'write'): Promise<boolean> {
  const buffer = Buffer.from(alignedBuffer(CHUNK).buffer, 0, CHUNK);
  let clean = true;
  for (let at = from - from % SECTOR; at < to; at += CHUNK) {
    const length = Math.min(CHUNK, to - at);
    const { bytesRead } = await device.read(buffer, 0, length, at);
    if (bytesRead !== length) throw new DrError('io', `only ${String(bytesRead)} of ${String(length)} bytes could be read at ${String(at)}`);
    const rest = buffer.subarray(Math.max(0, from - at), length);
    if (rest.every((byte) => byte === 0)) continue;
    clean = false;
    if (what === 'look') return false;
    rest.fill(0);
    await device.write(buffer, 0, length, at);
  }
  return clean;
}
