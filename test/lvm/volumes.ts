import { open, realpath, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { run } from '../../src/system/run.js';

/** Hands of an admin on volumes. */

/** Writes past nobody: through the page cache, and durably. */
export async function writeAt(path: string, offset: number, bytes: Uint8Array): Promise<void> {
  const device = await open(path, 'r+');
  try {
    await device.write(bytes, 0, bytes.length, offset);
    await device.sync();
  } finally {
    await device.close();
  }
}

export async function readAt(path: string, offset: number, length: number): Promise<Buffer> {
  const device = await open(path, 'r');
  try {
    const buffer = Buffer.alloc(length);
    await device.read(buffer, 0, length, offset);
    return buffer;
  } finally {
    await device.close();
  }
}

/** Pulls a disk out of the machine; what is given back plugs it in again. Nothing on it may be active. */
export async function pullOut(disk: string): Promise<() => Promise<void>> {
  const name = (await realpath(disk)).replace('/dev/', '');
  const device = dirname(await realpath(join('/sys/block', name, 'device')));
  await writeFile(join(device, 'remove'), '1');
  await run('udevadm', ['settle']);
  return async () => {
    await writeFile('/sys/bus/pci/rescan', '1');
    await run('udevadm', ['settle']);
  };
}
