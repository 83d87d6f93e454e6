import type { SetId } from '../model/image-set.js';
import type { Slot } from '../model/names.js';
import type { ImageSeen, RotationStep, ServerOnTarget } from '../model/rotation.js';

/** One set among a server's images. */
export interface PlacedSet {
  readonly set: SetId;
  /** Its age, compared with other sets of the server; -1 if no record says. */
  readonly generation: number;
  /** All its disks are there. */
  readonly whole: boolean;
  /** All its disks are there, proven, and untouched since. */
  readonly proven: boolean;
  /** By disk. */
  readonly images: ReadonlyMap<string, ImageSeen>;
  /** The slots that its images have names in: more than one after an interrupted move. */
  readonly slots: readonly Slot[];
}

/**
 * A server's sets and their slots as they will be after the steps noted so far. Planning moves sets about in it and ends up with the
 * steps. Foreign images are not in it: what is foreign is never planned with.
 */
export class Layout {
  readonly steps: RotationStep[] = [];
  private placed: readonly PlacedSet[];
  private link: ServerOnTarget['current'];

  constructor(seen: ServerOnTarget) {
    const ours = seen.images.filter((image) => image.identity !== undefined && image.state !== 'foreign');
    const sets = new Set(ours.flatMap((image) => image.identity?.set ?? []));
    this.placed = [...sets].map((set) => place(set, ours.filter((image) => image.identity?.set === set)));
    this.link = seen.current;
  }

  get sets(): readonly PlacedSet[] {
    return this.placed;
  }

  get current(): ServerOnTarget['current'] {
    return this.link;
  }

  at(slot: Slot): readonly PlacedSet[] {
    return this.placed.filter((set) => set.slots.includes(slot));
  }

  /** The sets that have a number, highest number first. */
  numbered(): readonly PlacedSet[] {
    return this.placed.filter((set) => highestNumber(set) > 0).sort((a, b) => highestNumber(b) - highestNumber(a));
  }

  /** Gives all images of a set their names in `to` and takes those they have elsewhere; nothing if they are there already. */
  move(set: SetId, to: Slot): void {
    const found = this.placed.find((one) => one.set === set);
    for (const from of found?.slots.filter((slot) => slot !== to) ?? []) {
      this.steps.push({ kind: 'move', set, from, to, disks: [...found?.images.keys() ?? []] });
      if (this.link?.set === set) this.link = { set, slot: to };
    }
    this.placed = this.placed.map((one) => one.set === set ? { ...one, slots: [to] } : one);
  }

  /** Makes slot 1 vacant by moving up what is below the lowest vacant slot. */
  vacateFirst(): void {
    let vacant = 1;
    while (this.at(vacant).length > 0) vacant += 1;
    for (let slot = vacant - 1; slot >= 1; slot -= 1) {
      for (const { set } of this.at(slot)) this.move(set, slot + 1);
    }
  }

  /** Has `current` lead to a set that lies in one slot, or to nothing; no step if it does already. */
  pointCurrent(to: PlacedSet | null): void {
    const slot = to?.slots[0];
    if (to?.set === this.link?.set && slot === this.link?.slot) return;
    this.steps.push({ kind: 'point-current', set: to?.set ?? null, slot: slot ?? 1 });
    this.link = to === null || slot === undefined ? undefined : { set: to.set, slot };
  }

  /** Removes all images of a set that lies in one slot. */
  prune(set: PlacedSet): void {
    for (const disk of set.images.keys()) this.steps.push({ kind: 'remove', set: set.set, disk, slot: set.slots[0] ?? 'incomplete' });
    this.placed = this.placed.filter((one) => one.set !== set.set);
  }
}

/** 0 if the set has no number. */
export function highestNumber(set: PlacedSet): number {
  return Math.max(0, ...set.slots.map((slot) => slot === 'incomplete' ? 0 : slot));
}

/** The newest proven one of `sets`. */
export function newestProven(sets: readonly PlacedSet[]): PlacedSet | undefined {
  return sets.filter((set) => set.proven).sort((a, b) => b.generation - a.generation)[0];
}

/** Who is given up first: a set without proof before any that has one, and the oldest among equals. */
export function expendableFirst(sets: readonly PlacedSet[]): readonly PlacedSet[] {
  return [...sets].sort((a, b) => Number(a.proven) - Number(b.proven) || a.generation - b.generation || highestNumber(b) - highestNumber(a));
}

function place(set: SetId, images: readonly ImageSeen[]): PlacedSet {
  const present = new Map(images.map((image) => [image.disk, image]));
  const whole = images.every((image) => (image.setDisks ?? []).every((disk) => present.has(disk)));
  return {
    set, whole,
    generation: Math.max(...images.map((image) => image.generation ?? -1)),
    proven: whole && images.every((image) => image.state === 'proven'),
    images: present,
    slots: [...new Set(images.map((image) => image.slot))],
  };
}
