import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { StoredImage } from '../model/image-set.js';
import { hasCode } from '../system/durable.js';
import { loopDevices } from '../system/loop-devices.js';
import { lvmState } from '../system/lvm.js';
import { openersOf, type Opener } from '../system/processes.js';

/** udev looks into every volume that was written or changed, for a moment; it is waited for so long, in milliseconds. */
const GLANCE_MS = 5_000;
const AGAIN_MS = 200;

/**
 * Who has images open: `key` of the image → who, for people. Counts processes (a running or paused domain's QEMU among them, also where the image
 * is only the backing file of another) and loop devices, under whatever name or path they know the image; of volumes also mounts and other
 * devices, and whatever device-mapper counts. This process is left out: it only ever looks.
 */
export async function usersOf(images: readonly StoredImage[]): Promise<ReadonlyMap<string, string>> {
  const users = new Map<string, string>();
  if (images.length === 0) return users;
  const keys = new Map(images.map((image) => [image.path, image.key]));
  const openers = await lastingOpeners([...keys.keys()]);
  for (const opener of openers) {
    const key = keys.get(opener.path);
    if (key !== undefined && opener.pid !== process.pid) users.set(key, `${opener.command} (process ${String(opener.pid)})`);
  }
  const volumes = images.filter(({ touched }) => 'volume' in touched);
  const files = new Map(images.map((image) => [image.key, image.key]));
  for (const volume of volumes) files.set(await nodeKey(volume.path), volume.key);
  for (const loop of await loopDevices()) {
    const key = files.get(loop.key);
    if (key !== undefined) users.set(key, loop.device);
  }
  for (const volume of volumes.filter(({ key }) => !users.has(key))) {
    if (await isClaimed(volume.path)) users.set(volume.key, 'a mount or another device on top of it (lsblk shows it)');
  }
  const ours = new Set(openers.map(({ path }) => keys.get(path)));
  for (const key of await stillOpen(volumes.filter((volume) => volume.open === true && !users.has(volume.key) && !ours.has(volume.key)))) {
    users.set(key, 'something that no process of this host shows (dmsetup info counts who has it open)');
  }
  return users;
}

/** Without those that only glance, as udev does, unless they stay. */
async function lastingOpeners(paths: readonly string[]): Promise<Opener[]> {
  for (let waited = 0; ; waited += AGAIN_MS) {
    const openers = await openersOf(paths);
    if (waited >= GLANCE_MS || !openers.some(glances)) return openers;
    await sleep(AGAIN_MS);
  }
}

function glances({ command, writing }: Opener): boolean {
  return !writing && /^\(?udev-worker\)?$|^systemd-udevd$|^udevd$|^blkid$/.test(command);
}

/** A loop device knows the device node by its place in the file system of devices. */
async function nodeKey(path: string): Promise<string> {
  const node = await stat(path, { bigint: true }).catch(() => undefined); // not active: nobody has it open
  return node === undefined ? path : `${String(node.dev)}:${String(node.ino)}`;
}

/** Whether the kernel lets nobody else have the device: it is mounted, or part of another. */
async function isClaimed(path: string): Promise<boolean> {
  try {
    await (await open(path, constants.O_RDONLY | constants.O_EXCL | constants.O_NONBLOCK)).close();
    return false;
  } catch (error) {
    if (hasCode(error, 'EBUSY')) return true;
    if (hasCode(error, 'ENOENT', 'ENXIO', 'ENODEV', 'EIO')) return false; // not active, or dead: nobody uses it
    throw error;
  }
}

/** Those that device-mapper still counts an opener of after a while. */
async function stillOpen(volumes: readonly StoredImage[]): Promise<readonly string[]> {
  let open = volumes.map(({ key }) => key);
  for (let waited = 0; open.length > 0 && waited < GLANCE_MS; waited += GLANCE_MS / 5) {
    const now = (await lvmState()).volumes;
    open = open.filter((key) => now.some((volume) => volume.uuid === key && volume.open));
    if (open.length > 0) await sleep(GLANCE_MS / 5);
  }
  return open;
}
