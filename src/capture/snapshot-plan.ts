import type { SnapshotSize } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { Volume, VolumeGroup } from '../system/lvm.js';
import { asTag, SNAPSHOT_TAG } from './pay-snapshot.js';

/** Which snapshots a live capture by LVM makes, and whether there is room for them. Pure. */

export interface PlannedSnapshot {
  readonly target: string;
  readonly origin: Volume;
  /** What is set aside for what the guest overwrites; a thin snapshot takes it from its pool. */
  readonly bytes: number | 'thin';
  /** It has room for every block of its origin, so it can't run full. */
  readonly covers: boolean;
}

/** A disk to take, with the number of the device that its path is, `major:minor`. */
export interface SnapshotDisk {
  readonly target: string;
  readonly path: string;
  readonly device: string | undefined;
}

interface Seen {
  readonly groups: readonly VolumeGroup[];
  readonly volumes: readonly Volume[];
  readonly allowed: readonly string[];
}

const MIB = 2 ** 20;
const LEAST_BYTES = 64 * MIB;

/** A capture is given up when a snapshot or its pool is this full, and not begun when the pool is. */
export const FULL_PERCENT = 90;

/** What holds every block of a disk: each 4 KiB chunk costs 16 bytes more, in blocks of such entries, and there is a header. */
export function coveringBytes(disk: number): number {
  return disk + Math.ceil(disk / 256) + 4 * MIB;
}

/** The size of a plain snapshot of a disk, by the job's policy. */
export function snapshotBytes(disk: number, size: SnapshotSize): number {
  const wanted = 'percent' in size ? (size.percent >= 100 ? Infinity : disk * size.percent / 100) : size.bytes;
  return Math.round(Math.min(Math.max(wanted, LEAST_BYTES), coveringBytes(disk)));
}

/**
 * A snapshot for each disk of a server. Throws `disk-unsupported` for a disk that is no volume of an allowed volume group or of a kind that has
 * no snapshots, `space` if they do not fit; `host` is for the message.
 */
export function planSnapshots(server: string, disks: readonly SnapshotDisk[], seen: Seen, size: SnapshotSize): PlannedSnapshot[] {
  const planned = disks.map((disk) => planSnapshot(server, disk, seen, size));
  for (const group of seen.groups) refuseWithoutRoom(server, group, planned.filter(({ origin }) => origin.vg === group.name));
  for (const pool of seen.volumes.filter(({ kind }) => kind === 'pool')) {
    if (!planned.some(({ origin }) => origin.vg === pool.vg && origin.pool === pool.name)) continue;
    const bases = [...basesOf(server, seen.volumes).values()].flat().filter((base) => base.vg === pool.vg && base.pool === pool.name);
    if (bases.length === 0) refuseFullPool(server, pool); // else these go first, and give their space back
  }
  return planned;
}

/** A snapshot is kept as a base only while its pool is no fuller than this: it holds on to what the server overwrites. */
export const KEEP_BELOW_PERCENT = 80;

/** The tag of the snapshot that a disk's next capture is compared with. */
export function baseTag(server: string, target: string): string {
  return `dr.base=${asTag(server)}/${asTag(target)}`;
}

/** The snapshots that are kept as bases of a server's disks, by their tag. */
export function basesOf(server: string, volumes: readonly Volume[]): Map<string, Volume[]> {
  const bases = new Map<string, Volume[]>();
  for (const volume of volumes) {
    const tag = volume.tags.find((each) => each.startsWith(baseTag(server, '')) && !each.slice(baseTag(server, '').length).includes('/'));
    if (tag === undefined || volume.kind !== 'thin' || !volume.tags.includes(SNAPSHOT_TAG)) continue;
    bases.set(tag, [...bases.get(tag) ?? [], volume]);
  }
  return bases;
}

function planSnapshot(server: string, { target, path, device }: SnapshotDisk, seen: Seen, size: SnapshotSize): PlannedSnapshot {
  const origin = device === undefined ? undefined : seen.volumes.find((volume) => volume.device !== undefined && numberOf(volume.device) === device);
  const refuse = (why: string, hint: string): DrError => new DrError('disk-unsupported', `cannot capture ${server} with live: lvm: its disk ${target} (${path}) ${why}. Nothing was touched.`, hint);
  if (origin === undefined) {
    const allowed = seen.allowed.length === 0 ? 'none is' : `allowed: ${seen.allowed.join(', ')}`;
    throw refuse(`is no logical volume in a volume group that this node allows (${allowed})`,
      'Write its volume group into /etc/dr/vgs on that node, or use live: backup, which takes any disk.');
  }
  if (origin.kind === 'thin') return { target, origin, bytes: 'thin', covers: false };
  if (origin.kind !== 'plain') throw refuse(origin.kind === 'snapshot' ? 'is itself a snapshot' : 'is of a kind that is not snapshotted here', 'Use live: backup or capture: shutdown for this server.');
  const bytes = snapshotBytes(origin.bytes, size);
  return { target, origin, bytes, covers: bytes >= coveringBytes(origin.bytes) };
}

function numberOf({ major, minor }: { readonly major: number; readonly minor: number }): string {
  return `${String(major)}:${String(minor)}`;
}

function refuseWithoutRoom(server: string, group: VolumeGroup, planned: readonly PlannedSnapshot[]): void {
  if (planned.length === 0) return;
  if (group.missing) throw new DrError('refused', `cannot capture ${server} with live: lvm: a disk of the volume group ${group.name} is missing. Nothing was touched.`, `Look at: vgs ${group.name}; pvs.`);
  const needed = planned.reduce((sum, { bytes }) => sum + (bytes === 'thin' ? 0 : Math.ceil(bytes / group.extentBytes) * group.extentBytes), 0);
  if (needed <= group.freeBytes) return;
  throw new DrError('space', `cannot capture ${server} with live: lvm: the snapshots of its disks need ${mib(needed)} MiB in the volume group ${group.name}, which has ${mib(group.freeBytes)} MiB free. Nothing was touched.`,
    'Free space in that volume group or extend it (vgextend), lower snapshot_size, or use live: backup.');
}

function refuseFullPool(server: string, pool: Volume): void {
  const full = fullOf(pool);
  if (full < FULL_PERCENT) return;
  throw new DrError('space', `cannot capture ${server} with live: lvm: the thin pool ${pool.vg}/${pool.name} of its disks is ${full.toFixed(0)} % full; what the guest writes during the capture needs room there. Nothing was touched.`,
    `Extend the pool (lvextend ${pool.vg}/${pool.name}; its metadata with --poolmetadatasize), or use live: backup.`);
}

/** How full a snapshot or a pool is, data or metadata, whichever is worse; percent. */
export function fullOf({ dataPercent = 0, metadataPercent = 0 }: Pick<Volume, 'dataPercent' | 'metadataPercent'>): number {
  return Math.max(dataPercent, metadataPercent);
}

function mib(bytes: number): string {
  return String(Math.ceil(bytes / MIB));
}
