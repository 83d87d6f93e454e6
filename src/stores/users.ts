import type { StoredImage } from '../model/image-set.js';
import { loopDevices } from '../system/loop-devices.js';
import { openersOf } from '../system/processes.js';

/**
 * Who has images open: `key` of the image → who, for people. Counts processes (a running or paused domain's QEMU among them, also where the image
 * is only the backing file of another) and loop devices, under whatever name or path they know the image. This process is left out: it
 * only ever looks.
 */
export async function usersOf(images: readonly StoredImage[]): Promise<ReadonlyMap<string, string>> {
  const users = new Map<string, string>();
  if (images.length === 0) return users;
  const keys = new Map(images.map((image) => [image.path, image.key]));
  for (const opener of await openersOf([...keys.keys()])) {
    const key = keys.get(opener.path);
    if (key !== undefined && opener.pid !== process.pid) users.set(key, `${opener.command} (process ${String(opener.pid)})`);
  }
  const wanted = new Set(keys.values());
  for (const loop of await loopDevices()) {
    if (wanted.has(loop.key)) users.set(loop.key, loop.device);
  }
  return users;
}
