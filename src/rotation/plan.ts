import type { SetIntent } from '../model/image-set.js';
import type { ImageSeen, RotationPlan, RotationStep, ServerOnTarget } from '../model/rotation.js';
import { expendableFirst, highestNumber, Layout, newestProven, type PlacedSet } from './layout.js';

/**
 * Plans what happens to the images of one server on one target. Nothing is remembered between plans: what is there decides alone, so a
 * run that died anywhere is put right by the same rules as one that ended well. See docs/architecture.md, "On a target".
 */

type Refusal = Extract<RotationPlan, { kind: 'refusal' }>;

export interface Wanted {
  /** The set that is going to be written, with its disks. Its generation is above all before. */
  readonly intent: SetIntent;
  readonly copies: number;
  /** With `copies: 1`: whether the only set may be given up before the new one is proven, if there is no room for both. */
  readonly overwriteOnlyCopy: boolean;
  /** Free in the store; decides with `copies: 1` only. */
  readonly freeBytes: number;
}

/** Puts right what a death left: interrupted moves, a proven set that is still named `incomplete`, a link that leads elsewhere. */
export function planRepair(seen: ServerOnTarget): RotationPlan {
  const layout = new Layout(seen);
  const refusal = leftAlone(seen, seen.images) ?? muddled(seen, layout);
  if (refusal !== undefined) return refusal;
  repair(layout);
  return { kind: 'plan', steps: layout.steps, needsBytes: 0 };
}

/**
 * Everything up to the first byte: repair, then room. Afterwards each wanted disk has an `incomplete` image of its size that is bound to
 * the new set, slot 1 is vacant (with `copies: 1` only the completion sees to that), and at least `copies - 1` good sets are left.
 */
export function planBegin(seen: ServerOnTarget, wanted: Wanted): RotationPlan {
  const layout = new Layout(seen);
  const refusal = leftAlone(seen, seen.images) ?? muddled(seen, layout) ?? outdated(seen, wanted.intent);
  if (refusal !== undefined) return refusal;
  repair(layout);
  const cramped = makeRoom(layout, seen, wanted);
  if (cramped !== undefined) return cramped;
  const { steps, needsBytes } = fill(layout, wanted.intent);
  return { kind: 'plan', steps: [...layout.steps, ...steps], needsBytes };
}

/**
 * After the manifest: the set becomes number 1, `current` points at it, surplus is pruned. A set that somebody uses is no hindrance as
 * long as it need not move, and is never pruned.
 */
export function planComplete(seen: ServerOnTarget, set: string, copies: number): RotationPlan {
  const layout = new Layout(seen);
  const concerned = seen.images.filter((image) => image.state === 'foreign' || [set, seen.current?.set].includes(image.identity?.set));
  const refusal = leftAlone(seen, concerned) ?? muddled(seen, layout);
  if (refusal !== undefined) return refusal;
  repair(layout);
  const complete = layout.sets.find((one) => one.set === set);
  if (complete === undefined || newestProven(layout.numbered())?.set !== set) {
    return refuse('state-changed', `the set ${set} of ${seen.server} is not its newest proven set`, seen, 'Run the job again; it will look anew.');
  }
  prune(layout, copies);
  const moved = new Set(layout.steps.map((step) => 'set' in step ? step.set : undefined));
  return leftAlone(seen, seen.images.filter((image) => image.identity !== undefined && moved.has(image.identity.set)))
    ?? { kind: 'plan', steps: layout.steps, needsBytes: 0 };
}

/** Finishes what is under way. Every set ends in one slot, and the newest proven one has a number and the link. */
function repair(layout: Layout): void {
  if (!layout.sets.some((set) => set.whole && set.set === layout.current?.set)) layout.pointCurrent(null);

  // A set between two slots belongs in the one with the number: back, when it was on its way to being recycled (it will be chosen again).
  for (const set of layout.numbered()) layout.move(set.set, highestNumber(set));

  const finished = newestProven(layout.at('incomplete'));
  if (finished !== undefined && finished === newestProven(layout.sets)) {
    layout.vacateFirst();
    layout.move(finished.set, 1);
  }

  // A link to a whole set whose proof is lost is better than none.
  const unproven = layout.sets.find((set) => set.whole && set.set === layout.current?.set && set.slots[0] === layout.current.slot);
  layout.pointCurrent(newestProven(layout.numbered()) ?? unproven ?? null);
}

/** Sees to it that `incomplete` holds what may be written over, or nothing, and that slot 1 is vacant. */
function makeRoom(layout: Layout, seen: ServerOnTarget, { intent, copies, overwriteOnlyCopy, freeBytes }: Wanted): Refusal | undefined {
  // A good set that a dead run took for recycling is kept after all if fewer than copies - 1 others are left (`copies` was raised).
  const taken = newestProven(layout.at('incomplete'));
  if (taken !== undefined && layout.numbered().filter((set) => set.proven).length < copies - 1) {
    layout.move(taken.set, highestOf(layout) + 1);
  }

  if (layout.at('incomplete').length === 0) {
    const sets = layout.numbered();
    const [last] = expendableFirst(sets);
    const bytes = intent.disks.reduce((sum, disk) => sum + disk.bytes, 0);
    const only = copies === 1 && sets.length === 1;
    if (last !== undefined && (only ? bytes > freeBytes : sets.length >= Math.max(copies, 2))) {
      if (only && last.whole && !overwriteOnlyCopy) {
        return refuse('only-copy', `the store has ${gib(freeBytes)} free and a second set of ${seen.server} takes up to ${gib(bytes)}, so its only copy would be overwritten before the new one is proven`,
          seen, 'Free space or enlarge the store, give the target a cache drive, or set overwrite_only_copy: true in the job.');
      }
      layout.move(last.set, 'incomplete');
    }
  }

  if (copies > 1) layout.vacateFirst();
  if (layout.at('incomplete').some((set) => set.set === layout.current?.set)) layout.pointCurrent(null);
  return undefined;
}

/** The steps that make what lies in `incomplete` into the images of the new set. */
function fill(layout: Layout, intent: SetIntent): { readonly steps: readonly RotationStep[]; readonly needsBytes: number } {
  const old = layout.at('incomplete').flatMap(({ set, images }) => [...images.values()].map((image) => ({ set, disk: image.disk, image })));
  const wanted = new Map(intent.disks.map((disk) => [disk.disk, disk]));
  const recycle = old.filter(({ disk }) => wanted.has(disk));
  const vanished = old.filter(({ disk }) => !wanted.has(disk));
  const resized = recycle.filter(({ disk, image }) => wanted.get(disk)?.bytes !== image.bytes);
  const fresh = intent.disks.filter(({ disk }) => !recycle.some((image) => image.disk === disk));

  const growth = recycle.map(({ disk, image }) => Math.max(0, (wanted.get(disk)?.bytes ?? 0) - image.allocatedBytes));
  const freed = vanished.map(({ image }) => -image.allocatedBytes); // removed before anything is allocated or written
  const needsBytes = [...fresh.map(({ bytes }) => bytes), ...growth, ...freed].reduce((sum, bytes) => sum + bytes, 0);
  return {
    steps: [
      { kind: 'begin', intent, recycle: recycle.map(({ disk, set }) => ({ disk, set })) },
      ...vanished.map(({ disk, set }) => ({ kind: 'remove' as const, set, disk, slot: 'incomplete' as const })),
      ...resized.map(({ disk }) => ({ kind: 'resize' as const, set: intent.set, disk, bytes: wanted.get(disk)?.bytes ?? 0 })),
      ...fresh.map(({ disk, bytes }) => ({ kind: 'allocate' as const, set: intent.set, disk, bytes })),
    ],
    needsBytes: Math.max(0, needsBytes),
  };
}

/** Removes what is beyond `copies`. Sets that somebody uses or changed do not count as copies and are not removed. */
function prune(layout: Layout, copies: number): void {
  const ours = layout.numbered().filter((set) => ![...set.images.values()].some((image) => image.state === 'modified' || image.inUse !== undefined));
  for (const set of expendableFirst(ours).slice(0, Math.max(0, ours.length - copies))) layout.prune(set);
}

/** Why none of the server's images may be touched, as far as `images` give reason to. */
function leftAlone(seen: ServerOnTarget, images: readonly ImageSeen[]): Refusal | undefined {
  if (seen.activated !== undefined) {
    return refuse('image-in-use', `${seen.server} was booted from its copies (${seen.activated})`, seen, `When its copies may be overwritten again, run: dr release ${seen.server}`);
  }
  const foreign = seen.foreign[0] ?? images.find((image) => image.state === 'foreign' || image.identity === undefined);
  if (foreign !== undefined) {
    return refuse('foreign-image', `${foreign.name} is not one of ours${why(foreign.because)}`, seen, 'Move it out of the store or give it another name, or keep this server in another store.');
  }
  const modified = images.find((image) => image.state === 'modified');
  if (modified !== undefined) {
    return refuse('image-modified', `${modified.name} was booted or changed since its proof${why(modified.because ?? modified.modified)}`, seen, `Keep what you need from it, then run: dr release ${seen.server}`);
  }
  const used = images.find((image) => image.inUse !== undefined);
  if (used !== undefined) {
    return refuse('image-in-use', `${used.name} is in use${why(used.inUse)}`, seen, 'End what uses it, then run the job again.');
  }
  return undefined;
}

/** What no death can leave and only hands can make: names that contradict the identities bound to the images. */
function muddled(seen: ServerOnTarget, layout: Layout): Refusal | undefined {
  const refuseNames = (names: readonly string[], what: string): Refusal =>
    refuse('state-changed', `${names.join(' and ')} ${what}`, seen, 'Give them back the names that dr images shows for their sets, or move away what is too much.');
  const keys = new Map<string, ImageSeen>();
  for (const image of seen.images) {
    if (image.identity === undefined || image.state === 'foreign') continue;
    if (image.identity.disk !== image.disk) return refuseNames([image.name], `holds the disk ${image.identity.disk}`);
    const twin = keys.get(`${image.identity.set}/${image.disk}`);
    if (twin !== undefined && twin.key !== image.key) return refuseNames([twin.name, image.name], 'are two copies of one disk of one set');
    keys.set(`${image.identity.set}/${image.disk}`, image);
  }
  for (const set of layout.sets) {
    if (set.slots.length > 2) return refuseNames(set.slots.map((slot) => `${seen.server}_…_${String(slot)}`), 'hold disks of one set');
  }
  const slots = new Set(layout.sets.flatMap((set) => set.slots));
  for (const slot of slots) {
    const [one, other] = layout.at(slot).map((set) => named(seen, set, slot));
    if (slot !== 'incomplete' && one !== undefined && other !== undefined) return refuseNames([one, other], 'come from two captures');
  }
  return undefined;
}

function outdated(seen: ServerOnTarget, intent: SetIntent): Refusal | undefined {
  const bound = seen.images.filter((image) => image.identity?.set === intent.set);
  const begun = bound.length > 0 && bound.every((image) => image.state !== 'proven'); // by this very run
  if (begun || (bound.length === 0 && intent.generation > seen.generation)) return undefined;
  return refuse('state-changed', `another run has written images of ${seen.server} meanwhile`, seen, 'Run the job again; it will look anew.');
}

function highestOf(layout: Layout): number {
  return Math.max(0, ...layout.sets.map(highestNumber));
}

function named(seen: ServerOnTarget, set: PlacedSet, slot: ImageSeen['slot']): string {
  return seen.images.find((image) => image.identity?.set === set.set && image.slot === slot)?.name ?? set.set;
}

function refuse(code: Refusal['code'], what: string, seen: ServerOnTarget, remedy: string): Refusal {
  const newest = seen.images.filter((image) => image.state === 'proven').sort((a, b) => (b.generation ?? 0) - (a.generation ?? 0))[0];
  const safe = newest?.capturedAt === undefined ? '' : `; the newest proven copy is of ${newest.capturedAt}`;
  return { kind: 'refusal', code, reason: `${what}. None of ${seen.server}'s images was touched${safe}.`, remedy };
}

function why(reason: string | undefined): string {
  return reason === undefined ? '' : ` (${reason})`;
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
