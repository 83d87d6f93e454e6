import type { SetId } from '../../src/model/image-set.js';
import { parseImageName, type Slot } from '../../src/model/names.js';
import type { MemoryImage, World } from './memory-store.js';
import { SERVER } from './rotation-notation.js';

/** What must hold of a server's images: in every world, from each world to the next, and over a run. All judge by the truth about the blocks. */

export class Violation extends Error {}

export function insist(holds: boolean, law: string): void {
  if (!holds) throw new Violation(law);
}

/** The sets that are whole, written to the last block and unchanged since, newest first. */
export function goodSets(world: World): readonly SetId[] {
  const known = remembered.get(world.images);
  if (known?.manifests === world.manifests) return known.good;
  const intact = new Set([...world.images.values()].flatMap((image) =>
    image.identity !== undefined && image.modified === undefined && image.content === `${image.identity.set}/${image.identity.disk}` ? [image.content] : []));
  const good = [...world.manifests.values()].filter(({ set, disks }) => disks.every(({ disk }) => intact.has(`${set}/${disk}`)))
    .sort((a, b) => b.generation - a.generation).map(({ set }) => set);
  remembered.set(world.images, { manifests: world.manifests, good });
  return good;
}
/** Most changes are to names only. */
const remembered = new WeakMap<World['images'], { readonly manifests: World['manifests']; readonly good: readonly SetId[] }>();

/** Whether `current` leads, disk by disk, to one good set. */
export function linkIsGood(world: World): boolean {
  const link = world.current.get(SERVER);
  const manifest = link === undefined ? undefined : world.manifests.get(link.set);
  if (link === undefined || manifest === undefined || !goodSets(world).includes(link.set)) return false;
  return manifest.disks.every(({ disk }) => imageBehind(world, link.leads[disk])?.content === `${link.set}/${disk}`);
}

function imageBehind(world: World, lead: string | undefined): MemoryImage | undefined {
  return lead === undefined ? undefined : world.images.get(world.names.get(lead) ?? lead);
}

/** P3, by the identities. */
export function lawsOfWorld(world: World): void {
  const sets = new Map<number, SetId>();
  for (const [name, key] of world.names) {
    const slot = slotOf(name);
    const set = world.images.get(key)?.identity?.set;
    if (slot === 'incomplete' || set === undefined) continue;
    insist((sets.get(slot) ?? set) === set, `P3: slot ${String(slot)} has images of two captures`);
    sets.set(slot, set);
  }
}

/** What one durable change may not do. */
export function lawsOfChange(before: World, after: World): void {
  for (const [name, key] of before.names) {
    insist((after.names.get(name) ?? key) === key, `a name was overwritten: ${name}`);
  }
  lawsOfWorld(after);
  for (const [key, image] of before.images) {
    if (image.identity !== undefined && image.modified === undefined && image.inUse === undefined) continue;
    insist(after.images.get(key) === image, `an image that is not ours to touch was changed: ${key}`);
    insist(namesOf(before, key) === namesOf(after, key), `an image that is not ours to touch was renamed: ${key}`);
  }
  const [was, is] = [before.current.get(SERVER)?.set, after.current.get(SERVER)?.set];
  // A link to a set that an admin spoilt may follow that set until there is a better one.
  insist(is === undefined || linkIsGood(after) || (was === is && !linkIsGood(before)), 'current was led to what is no whole proven set');
}

export interface RunPolicy {
  readonly copies: number;
  /** Whether there is room for one set more. */
  readonly roomy: boolean;
  readonly overwrite: boolean;
  /** What the server has when it is captured; by default all disks, at their usual size. */
  readonly captured?: { readonly disks: readonly string[]; readonly bytes: number };
}

/** P1: how many good sets must be left at the worst moment before the new one is proven. */
export function floorOf(start: World, { copies, roomy, overwrite }: RunPolicy): number {
  const good = goodSets(start);
  if (copies === 1 && overwrite && !roomy) return 0;
  // After a run that failed while writing there is an image to write over: another failure costs nothing more.
  const leftover = [...start.names].some(([name, key]) => {
    const set = start.images.get(key)?.identity?.set;
    return slotOf(name) === 'incomplete' && set !== undefined && !good.includes(set);
  });
  const keep = Math.min(good.length, Math.max(copies - 1, 1));
  return leftover ? good.length : Math.max(keep, good.length - 1);
}

/** What an undisturbed run ends with: the new set and the newest of the good ones, as many as wanted, in order, and nothing half done. */
export function lawsOfEnd(start: World, end: World, set: SetId, { copies }: RunPolicy): void {
  const wanted = [set, ...goodSets(start).slice(0, copies - 1)];
  insist(goodSets(end).join() === wanted.join(), `the run ended with ${String(goodSets(end).length)} good sets, ${String(wanted.length)} of them expected`);
  const link = end.current.get(SERVER);
  insist(link?.set === set && link.slot === 1 && linkIsGood(end), 'current does not lead to the new set');
  const slots = wanted.map((one) => slotsOf(end, one));
  insist(slots.every((own) => own.length === 1 && own[0] !== 'incomplete'), 'a good set has no number, or several');
  insist(slots.every((own, index) => index === 0 ? own[0] === 1 : Number(own[0]) > Number(slots[index - 1]?.[0])), 'numbers are not in the order of age');
  const occupied = new Set([...end.names].flatMap(([name, key]) => end.images.get(key)?.identity === undefined ? [] : [slotOf(name)]));
  insist(!occupied.has('incomplete'), 'something is left in incomplete');
  insist(occupied.size <= copies, 'surplus was not pruned');
}

/** What the images occupy. */
export function allocatedBytes(world: World): number {
  return [...world.images.values()].reduce((sum, image) => sum + (image.content === 'zeros' ? 0 : image.bytes), 0);
}

export function slotsOf(world: World, set: SetId): Slot[] {
  return [...new Set([...world.names].flatMap(([name, key]) => world.images.get(key)?.identity?.set === set ? [slotOf(name)] : []))];
}

export function slotOf(name: string): Slot {
  return parseImageName(name)?.slot ?? 'incomplete';
}

function namesOf(world: World, key: string): string {
  return [...world.names].flatMap(([name, of]) => of === key ? [name] : []).sort().join();
}

/**
 * Whether somebody's act forbids to touch the server's images. A foreign file counts where its name is in the way: any, or if `wanted` is given
 * those of disks that are there or wanted, up to one slot above the highest.
 */
export function isMarked(world: World, wanted?: { readonly disks: readonly string[]; readonly copies: number }): boolean {
  const ours = [...world.names].flatMap(([name, key]) => {
    const disk = world.images.get(key)?.identity?.disk;
    return disk === undefined ? [] : [{ disk, slot: Number(slotOf(name)) || 0 }];
  });
  const highest = Math.max(wanted?.copies ?? Infinity, ...ours.map(({ slot }) => slot)) + 1;
  const inTheWay = (name: string): boolean => wanted === undefined
    || ([...wanted.disks, ...ours.map(({ disk }) => disk)].some((disk) => name.includes(`_${disk}_`)) && (Number(slotOf(name)) || 0) <= highest);
  return world.activated.has(SERVER) || [...world.names].some(([name, key]) => {
    const image = world.images.get(key);
    return image?.identity === undefined ? inTheWay(name) : image.modified !== undefined || image.inUse !== undefined;
  });
}
