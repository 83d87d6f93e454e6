import { readdir, readFile, realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { physicalVolumes } from './lvm.js';
import { volumeOf } from './mapped-device.js';

/**
 * Volume groups inside volumes. A guest that uses LVM has a volume group inside its disk, which is a volume of this host; when the host scans it, it may
 * activate it beside the guest, and names may clash. What lies on what is read from sysfs.
 */

export interface NestedGroup {
  /** The volume group inside. */
  readonly vg: string;
  /** Where it lies: a volume of this host, as `VG/name`; or a device of which the host can't say more (DRBD, a loop device, a network disk). */
  readonly inside: { readonly volume: string } | { readonly device: string };
  /** `seen`: LVM finds it when it scans. `active`: volumes of it are active on this host. */
  readonly how: 'seen' | 'active';
}

interface Mapped {
  readonly volume: string;
  readonly vg: string;
  readonly groupUuid: string;
}

/** Everything of that kind on this host. Throws as `physicalVolumes` does. */
export async function nestedGroups(): Promise<NestedGroup[]> {
  return [...await activeInside(), ...await seenInside()];
}

async function seenInside(): Promise<NestedGroup[]> {
  const found = await Promise.all((await physicalVolumes()).map(async ({ path, vg, number }): Promise<NestedGroup[]> => {
    const device = await realpath(`/sys/dev/block/${number}`);
    const [volume] = [await mapped(device) ?? [], await volumesBelow(device)].flat();
    if (volume !== undefined) return [{ vg, inside: { volume: volume.volume }, how: 'seen' }];
    return /\/(drbd|loop|nbd|rbd)[^/]*(\/[^/]*)?$/.test(device) ? [{ vg, inside: { device: path }, how: 'seen' }] : [];
  }));
  return found.flat();
}

/** Of volumes stacked within one group (thin pools, snapshots) each is the other's part; only another group's is a stranger. */
async function activeInside(): Promise<NestedGroup[]> {
  const found = new Map<string, NestedGroup>();
  for (const name of await readdir('/sys/block')) {
    const device = join('/sys/block', name);
    const volume = await mapped(device);
    if (volume === undefined) continue;
    const host = (await volumesBelow(device)).find(({ groupUuid }) => groupUuid !== volume.groupUuid);
    if (host !== undefined) found.set(`${volume.groupUuid} ${host.volume}`, { vg: volume.vg, inside: { volume: host.volume }, how: 'active' });
  }
  return [...found.values()];
}

/** The volume that a device is, if it is one. */
async function mapped(device: string): Promise<Mapped | undefined> {
  const about = (what: string): Promise<string> => readFile(join(device, 'dm', what), 'utf8').catch(() => ''); // no mapped device, or it has just gone
  const uuid = await about('uuid');
  const names = volumeOf((await about('name')).trim());
  return uuid.startsWith('LVM-') && names !== undefined ? { volume: `${names.vg}/${names.name}`, vg: names.vg, groupUuid: uuid.slice(4, 36) } : undefined;
}

/** All volumes that a device lies on, whatever is between: partitions, encryption, RAID. */
async function volumesBelow(device: string): Promise<Mapped[]> {
  const slaves = await readdir(join(device, 'slaves')).catch(() => []); // a partition has none
  const whole = dirname(await realpath(device));
  const below = [...slaves.map((name) => join('/sys/block', name)), ...basename(dirname(whole)) === 'block' ? [whole] : []];
  const found = await Promise.all(below.map(async (each) => [await mapped(each) ?? [], await volumesBelow(each)].flat()));
  return found.flat();
}
