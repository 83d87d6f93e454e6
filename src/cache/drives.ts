import { setTimeout as sleep } from 'node:timers/promises';
import { sep } from 'node:path';
import { DrError } from '../model/errors.js';
import type { CacheDrive } from '../model/host.js';
import { allowedDevices, isAllowed, isClaimed, listBlockDevices, probeSignature, type BlockDevice } from '../system/block-devices.js';
import { within } from '../system/deadline.js';
import { makeDirectory } from '../system/durable.js';
import { guestDevices } from '../system/guest-disks.js';
import { log } from '../system/log.js';
import { deviceNumber, listMounts, LOOKABLE, lookAt, lookInto, type Mount } from '../system/mounts.js';
import { openersOf } from '../system/processes.js';
import { stateDirectory } from '../system/state.js';

/**
 * Finding cache drives: file systems with the signature file in their root. One that is mounted is used where it is; one that is not is
 * looked into read-only, and only if nobody else has any claim to its device.
 */

export interface Where {
  /** Only these devices are looked at, as in `/etc/dr/devices`; undefined: all. Default: what that file says. */
  readonly allowed?: readonly string[] | undefined;
  /** The libvirt whose guests' disks are never touched. */
  readonly uri?: string;
}

/** Throws `config-invalid` unless the signature is a plain file name. */
function checkSignature(signature: string): void {
  if (signature === '' || signature === '.' || signature === '..' || /[/\0\n]/.test(signature)) {
    throw new DrError('config-invalid', `${JSON.stringify(signature)} can't be the name of a signature file`, 'Use a plain file name such as .dr_cache.');
  }
}

/** Where our own mounts of cache drives are. */
export function ownMounts(): string {
  return stateDirectory('mnt');
}

const DRIVE_MS = 45_000;

/** All usable cache drives of this host, largest first, equal ones by device path. A drive that does not answer is passed over. */
export async function findCacheDrives(signature: string, where: Where = {}): Promise<CacheDrive[]> {
  checkSignature(signature);
  const allowed = 'allowed' in where ? where.allowed : await allowedDevices();
  const devices = (await listBlockDevices()).filter(({ path, sizeBytes }) => sizeBytes > 0 && isAllowed(path, allowed));
  const mounts = await mountsByDevice(devices);
  const found: CacheDrive[] = [];
  const free: (BlockDevice & { readonly uuid: string; readonly fsType: string })[] = [];
  const guests = memoized(async () => deviceNumbers(await guestDevices(where.uri ?? 'qemu:///system')));

  for (const device of devices) {
    const at = mounts.get(device.number) ?? [];
    try {
      if (at.length > 0) {
        const drive = await within(DRIVE_MS, device.path, lookAtMounted(device, at, signature));
        if (drive !== undefined) found.push(drive);
      } else {
        const why = await within(DRIVE_MS, device.path, notFree(device, guests));
        if (why !== undefined) {
          log.debug('not looked into', { device: device.path, why });
          continue;
        }
        const superblock = await within(DRIVE_MS, device.path, probeSignature(device.path));
        if (superblock?.usage !== 'filesystem' || !LOOKABLE.includes(superblock.type)) continue;
        free.push({ ...device, uuid: superblock.uuid, fsType: superblock.type });
      }
    } catch (error) {
      log.warn('a drive was passed over', { device: device.path, error: DrError.from(error).message });
    }
  }
  for (const device of free) {
    try {
      const drive = await within(DRIVE_MS, device.path, lookAtUnmounted(device, [...free, ...found.map(({ device: path, uuid }) => ({ path, uuid }))], signature));
      if (drive !== undefined) found.push(drive);
    } catch (error) {
      log.warn('a drive was passed over', { device: device.path, error: DrError.from(error).message });
    }
  }
  return found.sort((a, b) => b.sizeBytes - a.sizeBytes || (a.device < b.device ? -1 : 1));
}

/** Mounts by the number of the device they are of; those of anything else are left out. */
async function mountsByDevice(devices: readonly BlockDevice[]): Promise<Map<string, Mount[]>> {
  const known = new Set(devices.map(({ number }) => number));
  const found = new Map<string, Mount[]>();
  for (const mount of await listMounts()) {
    // btrfs has a number of its own; its source leads to the device.
    const number = known.has(mount.device) ? mount.device : await deviceNumber(mount.source);
    if (number !== undefined) found.set(number, [...(found.get(number) ?? []), mount]);
  }
  return found;
}

/**
 * A drive that is mounted. Where it was mounted by another run of ours, which unmounts it when it ends, it is not used there but mounted once
 * more: then the answer has no mount point.
 */
async function lookAtMounted(device: BlockDevice, mounts: readonly Mount[], signature: string): Promise<CacheDrive | undefined> {
  const ours = (mount: Mount): boolean => mount.mountPoint.startsWith(ownMounts() + sep);
  for (const mount of [...mounts].sort((a, b) => Number(ours(a)) - Number(ours(b)))) {
    if (mount.readOnly || mount.root !== '/') continue;
    const look = await lookAt(mount.mountPoint, signature);
    if (look?.found !== true) continue;
    const superblock = await probeSignature(device.path);
    return {
      device: device.path, uuid: superblock?.uuid ?? '', fsType: mount.fsType, sizeBytes: device.sizeBytes, freeBytes: look.freeBytes,
      ...(ours(mount) ? {} : { mountPoint: mount.mountPoint }),
    };
  }
  return undefined;
}

async function lookAtUnmounted(device: BlockDevice & { readonly uuid: string; readonly fsType: string },
  all: readonly { readonly path: string; readonly uuid: string }[], signature: string): Promise<CacheDrive | undefined> {
  const twin = all.find(({ path, uuid }) => path !== device.path && uuid === device.uuid && uuid !== '');
  if (twin !== undefined) {
    log.warn('not looked into: two devices show the same file system', { device: device.path, other: twin.path });
    return undefined;
  }
  const mountPoint = stateDirectory('probe');
  await makeDirectory(mountPoint);
  const look = await lookInto(device.path, device.fsType, mountPoint, signature);
  if (look?.found !== true) return undefined;
  return { device: device.path, uuid: device.uuid, fsType: device.fsType, sizeBytes: device.sizeBytes, freeBytes: look.freeBytes };
}

/** Kinds of devices that are drives or parts of drives; all others are made of something that is owned by somebody. */
const DRIVES: readonly string[] = ['disk', 'part', 'loop'];
/** Devices that look like drives and are not: DRBD, network and RAM disks, volumes of ZFS and Ceph, media that come and go. */
const NO_DRIVES = /^\/dev\/(drbd|nbd|rbd|zd|zram|ram|sr|fd|md|dm-|mapper\/)/;

/** Why a device can't be looked into; undefined if nobody else has a claim to it. */
async function notFree(device: BlockDevice, guests: () => Promise<ReadonlySet<string>>): Promise<string | undefined> {
  if (!DRIVES.includes(device.type) || NO_DRIVES.test(device.path) || device.ancestors.some((path) => NO_DRIVES.test(path))) return `it is a ${device.type} device`;
  if (device.readOnly) return 'it is read-only';
  if (device.childTypes.length > 0) return `it holds ${device.childTypes.join(', ')}`;
  if (await isClaimed(device.path)) {
    await sleep(300); // another run of ours may be looking into it at this moment
    if (await isClaimed(device.path)) return 'the kernel says that it is in use';
  }
  const whole = [device.path, ...device.ancestors];
  const opener = await openerOf(whole);
  if (opener !== undefined) return `${opener} has it open`;
  const numbers = await deviceNumbers(whole);
  const disks = await guests();
  return [...numbers].some((number) => disks.has(number)) ? 'it is a disk of a server' : undefined;
}

/** Who has a device open; programs that look at every new device for a moment (udev) are waited for. */
async function openerOf(paths: readonly string[]): Promise<string | undefined> {
  for (let attempt = 0; ; attempt += 1) {
    const opener = (await openersOf(paths)).find(({ pid }) => pid !== process.pid);
    if (opener === undefined) return undefined;
    if (attempt === 3) return `${opener.command} (PID ${String(opener.pid)})`;
    await sleep(200);
  }
}

async function deviceNumbers(paths: readonly string[]): Promise<ReadonlySet<string>> {
  return new Set((await Promise.all(paths.map(deviceNumber))).filter((number) => number !== undefined));
}

function memoized<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}
