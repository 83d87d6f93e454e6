import type { CacheDrive } from '../model/host.js';

/** Which image goes to which cache drive. Pure. */

export interface ServerToPlace {
  readonly server: string;
  readonly disks: readonly DiskToPlace[];
}

export interface DiskToPlace {
  readonly disk: string;
  readonly bytes: number;
  /** All its targets hold an earlier copy whose blocks are known, so that only what differs need lie on a drive. */
  readonly partial?: boolean;
}

/** A disk's name to the cache drive's device path. */
export type Placement = Readonly<Record<string, string>>;

export type Places =
  /** Everything fits at the same time. */
  | { readonly kind: 'all-at-once'; readonly placements: Readonly<Record<string, Placement>> }
  /** Each of these servers fits when it has the drives to itself; one that is absent does not fit at all. */
  | { readonly kind: 'one-at-a-time'; readonly placements: Readonly<Record<string, Placement>> };

type Drive = Pick<CacheDrive, 'device' | 'freeBytes' | 'sizeBytes' | 'fsType'>;

/** Largest file of a FAT file system. */
const FAT_FILE_BYTES = 2 ** 32 - 1;
/** Per file: inode, extents, directory blocks. */
const FILE_OVERHEAD_BYTES = 2 ** 20;

/** What may be placed on a drive: its free space less what the file system itself may want while it is filled. */
export function usableBytes({ freeBytes }: Pick<Drive, 'freeBytes'>): number {
  return Math.max(0, Math.floor(freeBytes - Math.max(16 * 2 ** 20, freeBytes / 100)));
}

/**
 * What is expected to differ from a copy that is some runs old, as a share of the disk. A guess: where it is too small the drive becomes full, and that server goes straight to
 * its targets, after those that wait.
 */
const PARTIAL_SHARE = 0.25;

/** How much of a disk is expected to be written to a cache drive, in bytes. */
export function expectedBytes({ bytes, partial }: Pick<DiskToPlace, 'bytes' | 'partial'>): number {
  return partial === true ? Math.ceil(bytes * PARTIAL_SHARE) : bytes;
}

/** Whether a file on the drive takes only the room of what was written to it. */
export function canHaveHoles({ fsType }: Pick<Drive, 'fsType'>): boolean {
  return !/^(vfat|msdos|exfat)$/.test(fsType);
}

/**
 * Places all servers at once if they fit, largest server first, over all drives, largest drive first; ties are alphabetical. A server's
 * disks may lie on different drives. If they do not fit, each server is placed as if it were alone. Images are taken to be as large as
 * their disks, since how much of them is zero is not known before they are read; only if that is too much, as what is expected of them.
 */
export function placeImages(servers: readonly ServerToPlace[], drives: readonly Drive[]): Places {
  const sorted = [...servers].sort((a, b) => total(b) - total(a) || compare(a.server, b.server));
  const order = [...drives].sort((a, b) => b.sizeBytes - a.sizeBytes || compare(a.device, b.device));
  const place = (some: readonly ServerToPlace[]): Record<string, Placement> | undefined => placeTogether(some, order, ({ bytes }) => bytes) ?? placeTogether(some, order, expectedBytes);
  const all = place(sorted);
  if (all !== undefined) return { kind: 'all-at-once', placements: all };
  const alone = sorted.flatMap((server) => Object.entries(place([server]) ?? {}));
  return { kind: 'one-at-a-time', placements: Object.fromEntries(alone) };
}

function placeTogether(servers: readonly ServerToPlace[], drives: readonly Drive[], room: (disk: DiskToPlace) => number): Record<string, Placement> | undefined {
  const left = drives.map((drive) => ({ device: drive.device, fat: /^(vfat|msdos)$/.test(drive.fsType), holes: canHaveHoles(drive), bytes: usableBytes(drive) }));
  const placements = new Map<string, Placement>();
  for (const { server, disks } of servers) {
    const placement = new Map<string, string>();
    for (const disk of [...disks].sort((a, b) => b.bytes - a.bytes || compare(a.disk, b.disk))) {
      const needs = (on: { readonly holes: boolean }): number => (on.holes ? room(disk) : disk.bytes) + FILE_OVERHEAD_BYTES;
      const drive = left.find((each) => each.bytes >= needs(each) && !(each.fat && disk.bytes > FAT_FILE_BYTES));
      if (drive === undefined) return undefined;
      drive.bytes -= needs(drive);
      placement.set(disk.disk, drive.device);
    }
    placements.set(server, Object.fromEntries(placement));
  }
  return Object.fromEntries(placements);
}

function total({ disks }: ServerToPlace): number {
  return disks.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** By code units, as device paths are compared everywhere: `/dev/sdb` before `/dev/sdc`. */
function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
