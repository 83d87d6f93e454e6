import { DrError } from '../model/errors.js';
import type { Space, SpacePart } from '../model/host.js';
import { volumeGroupProblem, volumeProblem } from '../model/volume-names.js';

/** What a store of logical volumes decides: where a new volume goes, how large it is, and whether all that is planned fits. Pure. */

/** `VG`, where images are plain volumes, or `VG/POOL`, where they are thin ones. */
export interface Place {
  readonly vg: string;
  readonly pool?: string;
}

/** Reads `vg:a,b/pool`. Throws `config-invalid`. */
export function parsePlaces(ref: string): readonly Place[] {
  const places = ref.replace(/^vg:/, '').split(',').map((entry): Place => {
    const [vg = '', pool, ...rest] = entry.split('/');
    if (rest.length > 0 || volumeGroupProblem(vg) !== undefined || (pool !== undefined && volumeProblem(vg, pool) !== undefined)) throw notAStore(ref);
    return pool === undefined ? { vg } : { vg, pool };
  });
  if (!ref.startsWith('vg:') || new Set(places.map(({ vg }) => vg)).size < places.length) throw notAStore(ref);
  return places;
}

function notAStore(ref: string): DrError {
  return new DrError('config-invalid', `the store ${JSON.stringify(ref)} is not vg:VG[,VG…], with each volume group once`, 'Write for example vg:dr01_vg0,dr01_vg1, or vg:dr01_vg0/pool for thin volumes.');
}

export function placeName({ vg, pool }: Place): string {
  return pool === undefined ? vg : `${vg}/${pool}`;
}

/** The size of the volume that holds so many bytes: whole extents, and at least one. */
export function volumeBytes(bytes: number, extentBytes: number): number {
  return Math.max(1, Math.ceil(bytes / extentBytes)) * extentBytes;
}

/** Where new volumes are tried, best first: the most free space, ties in alphabetical order of the volume group. Only parts with room for it. */
export function choose<T extends SpacePart>(parts: readonly T[], bytes: number): readonly T[] {
  return parts.filter((part) => volumeBytes(bytes, part.extentBytes) <= part.freeBytes)
    .sort((a, b) => b.freeBytes - a.freeBytes || (a.name < b.name ? -1 : 1));
}

/** One change that takes or gives space. */
export type Demand =
  | { readonly kind: 'allocate'; readonly bytes: number }
  /** An image that is there, of `has` bytes with its slack, in that part of the store. */
  | { readonly kind: 'resize'; readonly part: string; readonly has: number; readonly bytes: number }
  | { readonly kind: 'remove'; readonly part: string; readonly has: number };

/** The parts after all demands were met in order; `lacking`: the first that finds no room. */
export function meet(parts: readonly SpacePart[], demands: readonly Demand[]): { readonly left: readonly SpacePart[]; readonly lacking?: Demand } {
  let left = parts;
  for (const demand of demands) {
    const part = demand.kind === 'allocate' ? choose(left, demand.bytes)[0] : left.find(({ name }) => name === demand.part);
    const size = demand.kind === 'remove' || part === undefined ? 0 : volumeBytes(demand.bytes, part.extentBytes);
    const taken = size - (demand.kind === 'allocate' ? 0 : demand.has);
    if (part === undefined ? demand.kind !== 'remove' : taken > part.freeBytes) return { left, lacking: demand };
    left = left.map((one) => one === part ? { ...one, freeBytes: one.freeBytes - taken } : one);
  }
  return { left };
}

/** How much of the free space images of these sizes can really have: all of it if they fit, each into one part, else less than they need. */
export function freeFor({ freeBytes, parts }: Space, sizes: readonly number[]): number {
  if (parts === undefined || meet(parts, sizes.map((bytes) => ({ kind: 'allocate', bytes }))).lacking === undefined) return freeBytes;
  return Math.max(0, Math.min(freeBytes, sizes.reduce((sum, bytes) => sum + bytes, 0) - 1));
}

/** Whether a volume that holds so many bytes can be longer than they are, in any part of the store. */
export function hasSlack(parts: readonly SpacePart[], bytes: number): boolean {
  return parts.some(({ extentBytes }) => bytes % extentBytes !== 0);
}
