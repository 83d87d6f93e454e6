import { constants } from 'node:fs';
import { open, realpath } from 'node:fs/promises';
import { z } from 'zod';
import { DrError } from '../model/errors.js';
import { hasCode, readIfThere } from './durable.js';
import { run } from './run.js';

/** This host's block devices, by lsblk(8) and blkid(8). Everything here only reads. */

export interface BlockDevice {
  readonly path: string;
  /** `disk`, `part`, `loop`, `lvm`, `crypt`, `raid1`, `rom`, … */
  readonly type: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** `major:minor` */
  readonly number: string;
  /** The device that this is a part of or lies on, outermost first. */
  readonly ancestors: readonly string[];
  /** Types of the devices made of this one: partitions, or whoever holds it. */
  readonly childTypes: readonly string[];
}

interface Row {
  readonly path: string;
  readonly type: string;
  readonly size: number;
  readonly ro: boolean;
  readonly 'maj:min': string;
  readonly children?: readonly Row[] | undefined;
}

const ROW: z.ZodType<Row> = z.object({
  path: z.string(), type: z.string(), size: z.number(), ro: z.boolean(), 'maj:min': z.string(),
  get children() {
    return z.array(ROW).optional();
  },
});
const LISTING = z.object({ blockdevices: z.array(ROW) });

/** All block devices. Throws `program-failed` if lsblk fails: an empty answer must not be taken for a host without drives. */
export async function listBlockDevices(): Promise<BlockDevice[]> {
  const { stdout } = await run('lsblk', ['--json', '--bytes', '--tree', '--output', 'PATH,TYPE,SIZE,RO,MAJ:MIN']);
  return parseBlockDevices(stdout);
}

/** Reads what `lsblk --json --bytes --tree` printed. */
export function parseBlockDevices(json: string): BlockDevice[] {
  let listing: z.infer<typeof LISTING>;
  try {
    listing = LISTING.parse(JSON.parse(json));
  } catch (error) {
    throw new DrError('program-failed', 'what lsblk printed was not understood', 'Compare: lsblk --json --bytes --tree --output PATH,TYPE,SIZE,RO,MAJ:MIN', { cause: error });
  }
  const found = new Map<string, BlockDevice>();
  const walk = (rows: readonly Row[], ancestors: readonly string[]): void => {
    for (const row of rows) {
      const before = found.get(row.path); // a RAID shows up below each of its members
      found.set(row.path, {
        path: row.path, type: row.type, sizeBytes: row.size, readOnly: row.ro, number: row['maj:min'],
        ancestors: [...new Set([...(before?.ancestors ?? []), ...ancestors])], childTypes: (row.children ?? []).map(({ type }) => type),
      });
      walk(row.children ?? [], [...ancestors, row.path]);
    }
  };
  walk(listing.blockdevices, []);
  return [...found.values()];
}

export interface Signature {
  /** `filesystem`, `raid`, `crypto`, `other` (swap, an LVM PV, …) */
  readonly usage: string;
  /** `ext4`, `LVM2_member`, … */
  readonly type: string;
  readonly uuid: string;
}

/** What the superblocks on a device say, read from the device itself and not from a cache. Undefined if nothing, or nothing clear, is there. */
export async function probeSignature(path: string): Promise<Signature | undefined> {
  // 2: nothing found, or it can't be read; 8: several contradict each other
  const { stdout, exitCode } = await run('blkid', ['--probe', '--output', 'export', '--', path], { okExit: [0, 2, 8], timeoutMs: 20_000 });
  if (exitCode !== 0) return undefined;
  const field = (name: string): string => new RegExp(`^${name}=(.*)$`, 'm').exec(stdout)?.[1] ?? '';
  return { usage: field('USAGE'), type: field('TYPE'), uuid: field('UUID') };
}

/**
 * Whether the kernel lets nobody else have it: it is mounted (here or in any namespace), swap, a member of a RAID or a device-mapper device.
 * A device that can't be opened at all counts as claimed.
 */
export async function isClaimed(path: string): Promise<boolean> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_EXCL | constants.O_NONBLOCK); // on a block device O_EXCL asks for a claim
    await handle.close();
    return false;
  } catch (error) {
    if (hasCode(error, 'EBUSY', 'EPERM', 'EACCES', 'ENOENT', 'ENXIO', 'ENOMEDIUM', 'EIO', 'ENODEV')) return true;
    throw error;
  }
}

/**
 * Which devices may be looked at, one to a line of `/etc/dr/devices`: paths, links to devices (`/dev/disk/by-id/…`), or patterns of paths as lsblk
 * shows them with `*` for anything but `/`; `#` begins a comment. Undefined if there is no such file: then all may. An empty file allows none.
 */
export async function allowedDevices(file = '/etc/dr/devices'): Promise<readonly string[] | undefined> {
  const text = await readIfThere(file);
  if (text === undefined) return undefined;
  const lines = text.split('\n').map((line) => line.replace(/#.*/, '').trim()).filter((line) => line !== '');
  return Promise.all(lines.map((line) => realpath(line).catch(() => line))); // a pattern, or a drive that is not plugged in
}

export function isAllowed(path: string, allowed: readonly string[] | undefined): boolean {
  return allowed === undefined || allowed.some((pattern) =>
    new RegExp(`^${pattern.split('*').map((part) => part.replace(/[\\^$.+?()[\]{}|]/g, '\\$&')).join('[^/]*')}$`).test(path));
}
