import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { DrError, type ErrorCode } from '../model/errors.js';
import { hasCode } from './durable.js';
import { run } from './run.js';

/**
 * Logical volumes, through the wrapper scripts in lvm/ and never otherwise: directly as root, else with sudo. They see only the
 * volume groups that /etc/dr/vgs names, and change only volumes that carry the tag `dr-engine` or `dr-engine-snapshot`, which they
 * give to what they make. All functions throw `store-unusable` when a volume group is not allowed or not there, or when the
 * wrappers can't be run; those that change something `not-ours` when the volume was not made by dr-engine and `state-changed` when
 * it is gone or another one has its name; else `program-failed`.
 */

export interface VolumeGroup {
  readonly name: string;
  readonly uuid: string;
  readonly sizeBytes: number;
  readonly freeBytes: number;
  readonly extentBytes: number;
  /** A physical volume of it is missing. */
  readonly missing: boolean;
}

export interface Volume {
  readonly vg: string;
  readonly name: string;
  readonly uuid: string;
  readonly bytes: number;
  readonly tags: readonly string[];
  /** `snapshot`: one that is no thin volume; a thin snapshot is `thin` and has an origin. `other`: parts of volumes, cache and VDO pools, … */
  readonly kind: 'plain' | 'thin' | 'pool' | 'snapshot' | 'other';
  /** By device-mapper's UUID: stays through renames and reboots. There is a device only while the volume is active. */
  readonly path: string;
  readonly active: boolean;
  readonly open: boolean;
  /** Present while it is active. */
  readonly device?: { readonly major: number; readonly minor: number };
  readonly pool?: string;
  readonly origin?: string;
  /** How full a snapshot or pool is, or how much of a thin volume is allocated; absent while it is not active. */
  readonly dataPercent?: number;
  readonly metadataPercent?: number;
  /** A snapshot that ran full or is otherwise invalid, or a thin volume or pool that has failed. */
  readonly overrun: boolean;
  /** Pools, and thin volumes of them: what is newly allocated reads as zeros. */
  readonly zeroes?: boolean;
  /** The number by which its pool knows a thin volume. */
  readonly thinId?: number;
  /** A part of it is on a physical volume that is missing. */
  readonly partial: boolean;
}

export interface LvmState {
  /** Those of the allowed groups that are there. */
  readonly groups: readonly VolumeGroup[];
  readonly volumes: readonly Volume[];
  readonly allowed: readonly string[];
}

type Named = Pick<Volume, 'vg' | 'name' | 'uuid'>;

const number = z.string().regex(/^-?\d+(\.\d+)?$/).transform(Number);
/** Empty while the volume is not active. */
const percent = z.string().regex(/^(\d+(\.\d+)?)?$/).transform((text) => text === '' ? undefined : Number(text));
const LISTING = z.object({
  allowed: z.array(z.string()),
  lvm: z.object({ report: z.array(z.object({
    vg: z.array(z.object({ vg_name: z.string(), vg_uuid: z.string(), vg_size: number, vg_free: number, vg_extent_size: number, vg_missing_pv_count: number })),
    lv: z.array(z.object({
      lv_name: z.string(), lv_uuid: z.string(), lv_size: number, lv_tags: z.string(), lv_layout: z.string(), lv_role: z.string(), lv_active: z.string(),
      lv_device_open: number, lv_kernel_major: number, lv_kernel_minor: number, pool_lv: z.string(), origin: z.string(),
      data_percent: percent, metadata_percent: percent, lv_snapshot_invalid: number, lv_health_status: z.string(),
    })),
    seg: z.array(z.object({ lv_uuid: z.string(), thin_id: z.string(), zero: number })),
  })) }),
});
type Report = z.infer<typeof LISTING>['lvm']['report'][number];

/** How the path of every volume begins. */
export const VOLUME_LINK = '/dev/disk/by-id/dm-uuid-LVM-';

/** Everything in the allowed volume groups of this host, in one look. */
export async function lvmState(): Promise<LvmState> {
  return parseLvmState(await wrapper('list', []));
}

/** Reads what lvm/list printed. */
export function parseLvmState(json: string): LvmState {
  let listing: z.infer<typeof LISTING>;
  try {
    listing = LISTING.parse(JSON.parse(json));
  } catch (error) {
    throw new DrError('program-failed', 'what LVM printed was not understood', 'Compare: lvm fullreport --reportformat json', { cause: error });
  }
  const reports = listing.lvm.report.filter(({ vg }) => vg.length > 0); // groups that are not allowed are empty
  const groups = reports.flatMap(({ vg }) => vg.map((row): VolumeGroup => ({
    name: row.vg_name, uuid: row.vg_uuid, sizeBytes: row.vg_size, freeBytes: row.vg_free, extentBytes: row.vg_extent_size, missing: row.vg_missing_pv_count > 0,
  })));
  return { allowed: listing.allowed, groups, volumes: reports.flatMap(volumesOf) };
}

function volumesOf({ vg: [group], lv, seg }: Report): Volume[] {
  if (group === undefined) return [];
  return lv.map((row): Volume => {
    const layout = row.lv_layout.split(',');
    const role = row.lv_role.split(',');
    const segment = seg.find(({ lv_uuid }) => lv_uuid === row.lv_uuid);
    return {
      vg: group.vg_name, name: row.lv_name.replace(/^\[(.*)\]$/, '$1'), uuid: row.lv_uuid, bytes: row.lv_size,
      tags: row.lv_tags.split(',').filter((tag) => tag !== ''),
      kind: kindOf(layout, role),
      path: `${VOLUME_LINK}${group.vg_uuid.replaceAll('-', '')}${row.lv_uuid.replaceAll('-', '')}`,
      active: row.lv_active !== '', open: row.lv_device_open === 1,
      ...(row.lv_kernel_major < 0 ? {} : { device: { major: row.lv_kernel_major, minor: row.lv_kernel_minor } }),
      ...(row.pool_lv === '' ? {} : { pool: row.pool_lv }),
      ...(row.origin === '' ? {} : { origin: row.origin }),
      ...(row.data_percent === undefined ? {} : { dataPercent: row.data_percent }),
      ...(row.metadata_percent === undefined ? {} : { metadataPercent: row.metadata_percent }),
      overrun: row.lv_snapshot_invalid === 1 || row.lv_health_status === 'failed',
      ...(segment === undefined || segment.zero < 0 ? {} : { zeroes: segment.zero === 1 }),
      ...(segment === undefined || segment.thin_id === '' ? {} : { thinId: Number(segment.thin_id) }),
      partial: row.lv_health_status === 'partial',
    };
  });
}

function kindOf(layout: readonly string[], role: readonly string[]): Volume['kind'] {
  if (layout.includes('thin') && layout.includes('pool')) return 'pool';
  if (role.includes('private')) return 'other';
  if (layout.includes('thin')) return 'thin';
  if (role.includes('thicksnapshot')) return 'snapshot';
  return ['linear', 'striped', 'raid', 'mirror', 'cache', 'writecache'].some((each) => layout.includes(each)) ? 'plain' : 'other';
}

export interface PhysicalVolume {
  readonly path: string;
  /** Empty when it belongs to no group. */
  readonly vg: string;
  /** `major:minor` */
  readonly number: string;
}

const PHYSICAL = z.object({ report: z.array(z.object({ pv: z.array(z.object({ pv_name: z.string(), vg_name: z.string(), pv_major: number, pv_minor: number })) })) });

/** All devices that LVM on this host takes for physical volumes, in whatever group; those that are missing are absent. */
export async function physicalVolumes(): Promise<PhysicalVolume[]> {
  const { report } = PHYSICAL.parse(JSON.parse(await wrapper('devices', [])));
  return report.flatMap(({ pv }) => pv.flatMap((row) => row.pv_major < 0 ? [] : [{ path: row.pv_name, vg: row.vg_name, number: `${String(row.pv_major)}:${String(row.pv_minor)}` }]));
}

/** Makes a volume of at least so many bytes, thin if a pool is named. Throws `exists`, and `no-space` when the group is full. */
export async function createVolume(volume: { readonly vg: string; readonly pool?: string | undefined; readonly name: string; readonly bytes: number; readonly tags: readonly string[] }): Promise<void> {
  await wrapper('create', [volume.vg, volume.name, String(volume.bytes), ...volume.tags, ...(volume.pool === undefined ? [] : ['--pool', volume.pool])]);
}

/**
 * Makes a read-only snapshot of any volume: with so many bytes for what changes meanwhile, or `thin` in the origin's own pool; a thin one
 * is not active before `activateVolume`. Throws `exists` and `no-space`.
 */
export async function snapshotVolume(volume: { readonly vg: string; readonly origin: string; readonly name: string; readonly bytes: number | 'thin'; readonly tags: readonly string[] }): Promise<void> {
  await wrapper('snapshot', [volume.vg, volume.origin, volume.name, String(volume.bytes), ...volume.tags]);
}

/** Makes a volume as large as that, rounded up to extents. Throws `no-space`. */
export async function resizeVolume(volume: Named & Pick<Volume, 'bytes'>, bytes: number): Promise<void> {
  if (bytes === volume.bytes) return;
  await wrapper(bytes > volume.bytes ? 'extend' : 'reduce', [volume.vg, volume.name, volume.uuid, String(bytes)]);
}

/** Throws `exists` when the name is taken. */
export async function renameVolume(volume: Named, to: string): Promise<void> {
  await wrapper('rename', [volume.vg, volume.name, to, volume.uuid]);
}

/** Removes a volume that nobody has open and that has no snapshots; one that is gone is fine. */
export async function removeVolume(volume: Named): Promise<void> {
  await wrapper('remove', [volume.vg, volume.name, volume.uuid]);
}

/** Adds and removes tags in one step. They begin with `dr.`. */
export async function tagVolume(volume: Named, change: { readonly add: readonly string[]; readonly remove: readonly string[] }): Promise<void> {
  if (change.add.length + change.remove.length === 0) return;
  await wrapper('tag', [volume.vg, volume.name, volume.uuid, ...change.add.map((tag) => `+${tag}`), ...change.remove.map((tag) => `-${tag}`)]);
}

/** Activates a volume, also a thin snapshot; one that is active is fine. Its device is there when this returns. */
export async function activateVolume(volume: Named): Promise<void> {
  await wrapper('activate', [volume.vg, volume.name, volume.uuid]);
}

/** Where two thin volumes of ours in one pool differ: ranges in bytes, in order. Both ought to be snapshots, which nobody writes to. */
export async function thinDelta(volumes: { readonly vg: string; readonly pool: string; readonly from: string; readonly to: string }): Promise<readonly { readonly begin: number; readonly length: number }[]> {
  return parseThinDelta(await wrapper('delta', [volumes.vg, volumes.pool, volumes.from, volumes.to]));
}

/** Reads thin_delta's XML: blocks of `data_block_size` sectors. */
export function parseThinDelta(xml: string): { readonly begin: number; readonly length: number }[] {
  const sectors = Number(/<superblock [^>]*data_block_size="(\d+)"/.exec(xml)?.[1]);
  if (!(sectors > 0) || !/<\/superblock>\s*$/.test(xml)) {
    throw new DrError('program-failed', 'what thin_delta printed was not understood, or is not whole', 'Look at it: lvm/delta VG POOL FROM TO');
  }
  const ranges: { begin: number; length: number }[] = [];
  for (const [, begin, length] of xml.matchAll(/<(?:different|left_only|right_only) begin="(\d+)" length="(\d+)"\/>/g)) {
    const range = { begin: Number(begin) * sectors * 512, length: Number(length) * sectors * 512 };
    const last = ranges.at(-1);
    if (last !== undefined && last.begin + last.length === range.begin) last.length += range.length;
    else ranges.push(range);
  }
  return ranges;
}

/**
 * What the kernel counted on a block device: which activation of it this is, and its writes and discards. Two equal answers: nobody has
 * written between them, save what is still in the page cache. Undefined when there is no such device, or the kernel is too old to tell.
 */
export async function deviceCounters(device: { readonly major: number; readonly minor: number }): Promise<{ readonly device: string; readonly writes: string } | undefined> {
  const directory = `/sys/dev/block/${String(device.major)}:${String(device.minor)}`;
  try {
    const [sequence, stat] = await Promise.all([readFile(`${directory}/diskseq`, 'utf8'), readFile(`${directory}/stat`, 'utf8')]);
    const fields = stat.trim().split(/\s+/).map(BigInt);
    // Documentation/block/stat.rst: write sectors and discard sectors. The numbers of I/Os count flushes too, which write nothing.
    const counted = [6, 13].map((index) => fields[index] ?? 0n);
    return { device: sequence.trim(), writes: String(counted.reduce((sum, each) => sum + each, 0n)) };
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENODEV', 'ENXIO')) return undefined;
    throw error;
  }
}

/** Exit statuses of the wrappers (lvm/lib.sh). */
const CODES: Readonly<Record<number, ErrorCode>> = { 3: 'store-unusable', 4: 'exists', 5: 'no-space', 6: 'not-ours', 7: 'state-changed' };
const HINTS: Readonly<Partial<Record<ErrorCode, string>>> = {
  'store-unusable': 'vgs shows the volume groups; /etc/dr/vgs names those that dr-engine may use, one to a line, and must belong to root.',
  'exists': 'lvs shows it. Rename or remove it by hand if it is not needed.',
  'no-space': 'Free space in the volume group (vgs), or add a disk to it (vgextend).',
  'not-ours': 'If dr-engine is to have it, root may say so: lvchange --addtag dr-engine VG/LV',
  'state-changed': 'Run the job again: it looks afresh.',
};

async function wrapper(verb: string, args: readonly string[]): Promise<string> {
  const path = fileURLToPath(new URL(`../../../lvm/${verb}`, import.meta.url));
  const asRoot = process.geteuid?.() === 0;
  const [program, words] = asRoot ? [path, args] : ['sudo', ['-n', '--', path, ...args]] as const;
  const { stdout, stderr, exitCode } = await run(program, words, { okExit: Array.from({ length: 256 }, (_, status) => status), timeoutMs: 120_000 }).catch((error: unknown) => {
    if (!(error instanceof DrError) || error.code !== 'program-missing') throw error;
    throw new DrError('store-unusable', `${program} is not there: LVM can't be reached`, asRoot ? 'Install dr-engine whole, with its directory lvm/.' : 'Install the package sudo, and lvm/sudoers.sample.');
  });
  if (exitCode === 0) return stdout;
  const line = stderr.trim().split('\n').at(-1) ?? '';
  const said = /^dr-lvm: \w+: (.*)$/.exec(line)?.[1];
  if (said === undefined && !asRoot) {
    throw new DrError('store-unusable', `sudo does not let this user run ${path}: ${line}`, 'Install lvm/sudoers.sample as /etc/sudoers.d/dr-engine, with the path of this installation.');
  }
  const code = CODES[exitCode] ?? 'program-failed';
  throw new DrError(code, `LVM: ${verb} ${args.slice(0, 2).join('/')}: ${said ?? line}`, HINTS[code] ?? '');
}
