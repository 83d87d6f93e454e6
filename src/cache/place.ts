import type { CacheDrive } from '../model/host.js';

/** Which image goes to which cache drive. Pure. */

export interface ServerToPlace {
  readonly server: string;
  readonly disks: readonly { readonly disk: string; readonly bytes: number }[];
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
 * Places all servers at once if they fit, largest server first, over all drives, largest drive first; ties are alphabetical. A server's
 * disks may lie on different drives. If they do not fit, each server is placed as if it were alone. Images are taken to be as large as
 * their disks: how much of them is zero is not known before they are read.
 */
export function placeImages(servers: readonly ServerToPlace[], drives: readonly Drive[]): Places {
  const sorted = [...servers].sort((a, b) => total(b) - total(a) || compare(a.server, b.server));
  const order = [...drives].sort((a, b) => b.sizeBytes - a.sizeBytes || compare(a.device, b.device));
  const all = placeTogether(sorted, order);
  if (all !== undefined) return { kind: 'all-at-once', placements: all };
  const alone = sorted.flatMap((server) => Object.entries(placeTogether([server], order) ?? {}));
  return { kind: 'one-at-a-time', placements: Object.fromEntries(alone) };
}

function placeTogether(servers: readonly ServerToPlace[], drives: readonly Drive[]): Record<string, Placement> | undefined {
  const left = drives.map((drive) => ({ device: drive.device, fat: /^(vfat|msdos)$/.test(drive.fsType), bytes: usableBytes(drive) }));
  const placements = new Map<string, Placement>();
  for (const { server, disks } of servers) {
    const placement = new Map<string, string>();
    for (const { disk, bytes } of [...disks].sort((a, b) => b.bytes - a.bytes || compare(a.disk, b.disk))) {
      const needs = bytes + FILE_OVERHEAD_BYTES;
      const drive = left.find((each) => each.bytes >= needs && !(each.fat && bytes > FAT_FILE_BYTES));
      if (drive === undefined) return undefined;
      drive.bytes -= needs;
      placement.set(disk, drive.device);
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
