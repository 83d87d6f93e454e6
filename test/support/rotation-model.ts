import type { SetId } from '../../src/model/image-set.js';
import { imageName, type Slot } from '../../src/model/names.js';
import { planBegin, planComplete, planRepair } from '../../src/rotation/plan.js';
import { rotate } from '../../src/rotation/rotate.js';
import { EMPTY, MemoryTarget, put, without, type MemoryKind, type Mistakes, type World } from './memory-store.js';
import { allocatedBytes, floorOf, goodSets, insist, isMarked, lawsOfChange, lawsOfEnd, linkIsGood, slotOf, slotsOf, Violation, type RunPolicy } from './rotation-laws.js';
import { ANVIL, canonical, describeWorld, DISK_BYTES, diskNames, intentOf, SERVER, UUID } from './rotation-notation.js';

/**
 * Walks through every state that runs, deaths and an admin's acts can bring a server's images into, breadth first, with the real planner, the
 * real executor and the real judging of images, and holds each against the laws. A death between any two durable changes, and with it a run
 * that fails while writing, is a world on the way of an undisturbed run.
 */

export interface Planner {
  readonly repair: typeof planRepair;
  readonly begin: typeof planBegin;
  readonly complete: typeof planComplete;
}

export const PLANNER: Planner = { repair: planRepair, begin: planBegin, complete: planComplete };

export interface Model {
  readonly kind: MemoryKind;
  readonly disks: number;
  /** The `copies` that runs may ask for; with several, it is raised and lowered between runs. */
  readonly copies: readonly number[];
  /** How many sets that an admin damaged may be there at a time: an admin could go on for ever. */
  readonly damaged: number;
  /** Replaced to see that the laws notice. */
  readonly planner?: Planner;
  readonly execute?: typeof rotate;
  readonly mistakes?: Mistakes;
}

export interface Explored {
  readonly states: number;
  /** Worlds that had to be left alone because of somebody's act. */
  readonly forbidden: number;
  readonly runs: number;
  readonly deaths: number;
}

export interface RunTaken {
  /** The world before each durable change. */
  readonly way: readonly World[];
  readonly end: World;
  readonly set: SetId;
  /** As planned. */
  readonly needsBytes: number;
  readonly refused?: string;
}

type Rules = Omit<Model, 'copies' | 'damaged'>;

/** One undisturbed run, from the look at the target to the last pruned image; each change is held against the laws. */
export async function takeRun(start: World, policy: RunPolicy, { kind, disks, planner = PLANNER, execute = rotate, mistakes = {} }: Rules): Promise<RunTaken> {
  const target = new MemoryTarget(kind, start, mistakes);
  const way: World[] = [];
  target.beforeChange = (world) => {
    lawsOfChange(way.at(-1) ?? world, world);
    way.push(world);
  };
  const captured = policy.captured ?? { disks: diskNames(disks), bytes: DISK_BYTES };
  const look = (): ReturnType<MemoryTarget['observe']> => target.observe(SERVER, { uuid: UUID, anvil: ANVIL, disks: captured.disks, copies: policy.copies });
  const seen = look();
  const set = nextSet(seen.generation + 1);
  const intent = intentOf(set, seen.generation + 1, captured.disks, captured.bytes);
  const begin = planner.begin(seen, { intent, copies: policy.copies, overwriteOnlyCopy: policy.overwrite, freeBytes: policy.roomy ? captured.bytes * captured.disks.length : 0 });
  if (begin.kind === 'refusal') return { way, end: target.world, set, needsBytes: 0, refused: begin.code };
  await execute(target, SERVER, begin.steps);
  await target.write(set);
  const complete = planner.complete(look(), set, policy.copies);
  if (complete.kind === 'refusal') throw new Violation(`the completion was refused (${complete.code}) without need`);
  await execute(target, SERVER, complete.steps);
  lawsOfChange(way.at(-1) ?? start, target.world);
  return { way, end: target.world, set, needsBytes: begin.needsBytes };
}

export async function checkRun(start: World, policy: RunPolicy, model: Rules): Promise<RunTaken> {
  const run = await takeRun(start, policy, model);
  const marked = isMarked(start, { disks: policy.captured?.disks ?? diskNames(model.disks), copies: policy.copies });
  if (run.refused !== undefined) {
    const needed = policy.copies === 1 && !policy.roomy && !policy.overwrite && goodSets(start).length <= 1;
    insist(marked || (needed && run.refused === 'only-copy'), `refused (${run.refused}) without need`);
    insist(run.way.length === 0, 'a refusal touched something');
    return run;
  }
  insist(!marked, 'images that somebody uses or changed were not left alone');
  const floor = floorOf(start, policy);
  const mayUnlink = floor === 0 || !linkIsGood(start);
  for (const world of [...run.way, run.end]) {
    // With the new set proven there is one more; surplus may go, down to `copies`.
    const least = world.manifests.has(run.set) ? Math.min(floor + 1, policy.copies) : floor;
    insist(goodSets(world).length >= least, `P1: ${String(goodSets(world).length)} good sets are left of ${String(goodSets(start).length)}, at least ${String(least)} must be`);
    insist(allocatedBytes(world) - allocatedBytes(start) <= run.needsBytes, `the run needed more space than the ${String(run.needsBytes)} bytes that were planned`);
    insist(mayUnlink || linkIsGood(world), 'current does not lead to a whole proven set');
  }
  lawsOfEnd(start, run.end, run.set, policy);
  return run;
}

/** Neither a run nor a repair may touch a server that somebody uses or has changed. */
async function checkForbidden(viewer: MemoryTarget, world: World, copies: number, { disks, planner = PLANNER }: Model): Promise<void> {
  viewer.world = world;
  const seen = viewer.observe(SERVER, { uuid: UUID, anvil: ANVIL, disks: diskNames(disks), copies });
  const generation = seen.generation + 1;
  const intent = intentOf(nextSet(generation), generation, diskNames(disks));
  const plans = [planner.repair(seen), planner.begin(seen, { intent, copies, overwriteOnlyCopy: true, freeBytes: DISK_BYTES * disks })];
  insist(plans.every(({ kind: outcome }) => outcome === 'refusal'), 'images that somebody uses or changed were not left alone');
  return Promise.resolve();
}

/** Carries out a plan that needs no new set: a repair, or the completion of a set that was proven before somebody did something. */
async function checkOther(start: World, what: 'repair' | 'complete', copies: number, { kind, disks, planner = PLANNER, execute = rotate, mistakes = {} }: Model): Promise<readonly World[]> {
  const target = new MemoryTarget(kind, start, mistakes);
  const worlds: World[] = [];
  target.beforeChange = (world) => { worlds.push(world); };
  const seen = target.observe(SERVER, { uuid: UUID, anvil: ANVIL, disks: diskNames(disks), copies });
  const newest = goodSets(start)[0];
  const plan = what === 'repair' ? planner.repair(seen) : planner.complete(seen, newest ?? '', copies);
  if (plan.kind === 'refusal') {
    insist(what === 'complete' || isMarked(start), `the repair was refused (${plan.code}) without need`);
    return [];
  }
  insist(what === 'complete' || !isMarked(start), 'images that somebody uses or changed were not left alone');
  await execute(target, SERVER, plan.steps);
  worlds.push(target.world);
  const floor = what === 'repair' ? goodSets(start).length : Math.min(goodSets(start).length, copies);
  worlds.forEach((world, index) => {
    const before = worlds[index - 1];
    if (before !== undefined) lawsOfChange(before, world);
    insist(goodSets(world).length >= floor, `P1: the ${what} gave up a good set`);
  });
  insist(goodSets(start).length === 0 || linkIsGood(target.world), `the ${what} left current astray`);
  return worlds;
}

/** Everything that an admin might do next. */
export function adminActs(world: World, { disks, damaged }: Pick<Model, 'disks' | 'damaged'>): readonly { readonly act: string; readonly world: World }[] {
  const acts: { act: string; world: World }[] = [];
  const mayDamage = damagedSets(world) < damaged;
  const highest = Math.max(0, ...[...world.names.keys()].map((name) => Number(slotOf(name)) || 0));
  for (const [key, image] of world.images) {
    if (image.identity === undefined) continue;
    acts.push({ act: `hold ${key} open`, world: { ...world, images: put(world.images, key, { ...image, inUse: 'cat (1)' }) } });
    if (mayDamage) acts.push({ act: `boot ${key}`, world: { ...world, images: put(world.images, key, { ...image, modified: 'booted', content: 'changed', mtime: image.mtime + 1 }) } });
  }
  for (const name of mayDamage ? world.names.keys() : []) acts.push({ act: `rm ${name}`, world: removed(world, name) });
  const slots: Slot[] = ['incomplete', ...Array.from({ length: highest + 1 }, (_, index) => index + 1)];
  for (const name of slots.flatMap((slot) => diskNames(disks).map((disk) => imageName(SERVER, disk, slot)))) {
    if (world.names.has(name)) continue;
    const key = `k?${name}`;
    acts.push({ act: `put a file at ${name}`, world: { ...world, names: put(world.names, name, key), images: put(world.images, key, { bytes: 7, content: 'foreign', mtime: 0 }) } });
  }
  acts.push({ act: 'dr-activate', world: { ...world, activated: put(world.activated, SERVER, 'now') } });
  return acts;
}

/** `dr release`: what was changed by hand has no proof any more; the admin's own files are taken away. */
export function released(world: World): World {
  const images = new Map(world.images);
  const names = new Map(world.names);
  const manifests = new Map(world.manifests);
  for (const [key, image] of world.images) {
    if (image.identity === undefined) {
      images.delete(key);
      for (const [name, of] of world.names) if (of === key) names.delete(name);
      continue;
    }
    if (image.modified !== undefined) manifests.delete(image.identity.set);
    const kept = { ...image };
    Reflect.deleteProperty(kept, 'modified');
    Reflect.deleteProperty(kept, 'inUse');
    images.set(key, kept);
  }
  return { ...world, images, names, manifests, activated: EMPTY.activated };
}

function removed(world: World, name: string): World {
  const key = world.names.get(name) ?? '';
  const names = without(world.names, name);
  return { ...world, names, images: [...names.values()].includes(key) ? world.images : without(world.images, key) };
}

/** Numbered sets that are not good. */
function damagedSets(world: World): number {
  const good = goodSets(world);
  return new Set([...world.names].flatMap(([name, key]) => {
    const set = world.images.get(key)?.identity?.set;
    return set === undefined || slotOf(name) === 'incomplete' || good.includes(set) ? [] : [set];
  })).size;
}

/** Throws a Violation that tells the shortest way to it. */
export async function explore(model: Model): Promise<Explored> {
  const found = new Map<string, { readonly world: World; readonly way: () => string }>();
  const queue: string[] = [];
  /** `<policy> <state>` → the state an undisturbed run ends in; and what must end alike. */
  const ends = new Map<string, string>();
  const alike = new Map<string, { readonly policy: string; readonly state: string; readonly like: string; readonly way: () => string }>();
  let [forbidden, runs, deaths] = [0, 0, 0];
  const viewer = new MemoryTarget(model.kind);

  const visit = (world: World, way: () => string): string => {
    const state = canonical(world);
    if (!found.has(state)) {
      found.set(state, { world: tidied(world), way });
      queue.push(state);
    }
    return state;
  };
  /** Sees to it that a marked world is left alone, and answers with what release makes of it, and of a completion before that. */
  const marked = async (world: World, way: () => string): Promise<readonly World[]> => {
    forbidden += 1;
    const worlds = [world];
    for (const copies of model.copies) {
      await telling(way, () => checkForbidden(viewer, world, copies, model));
      if (slotsOf(world, goodSets(world)[0] ?? '').includes('incomplete')) worlds.push(...await telling(way, () => checkOther(world, 'complete', copies, model)));
    }
    return worlds.map(released);
  };
  visit(EMPTY, () => 'nothing');

  for (let state = queue.shift(); state !== undefined; state = queue.shift()) {
    const { world, way } = found.get(state) ?? { world: EMPTY, way: () => '' };
    const here = state;
    for (const policy of model.copies.flatMap(policies)) {
      const name = `run ${String(policy.copies)}${policy.roomy ? '' : ' tight'}${policy.overwrite ? ' overwrite' : ''}`;
      const run = await telling(() => `${way()}\n  ${name}`, () => checkRun(world, policy, model));
      runs += 1;
      if (run.refused !== undefined) continue;
      const end = visit(run.end, () => `${way()}\n  ${name}: ${describeWorld(run.end, model.disks)}`);
      ends.set(`${name} ${here}`, end);
      run.way.forEach((died, index) => {
        deaths += 1;
        const told = (): string => `${way()}\n  ${name}, died at change ${String(index)}: ${describeWorld(died, model.disks)}`;
        const left = visit(died, told);
        const like = died.manifests.has(run.set) ? end : here;
        if (left !== like && !alike.has(`${name} ${left} ${like}`)) alike.set(`${name} ${left} ${like}`, { policy: name, state: left, like, way: told });
      });
    }
    for (const other of ['repair', 'complete'] as const) {
      for (const copies of other === 'repair' ? model.copies.slice(0, 1) : goodSets(world).length === 0 ? [] : model.copies) {
        const worlds = await telling(() => `${way()}\n  ${other} ${String(copies)}`, () => checkOther(world, other, copies, model));
        for (const next of worlds) visit(next, () => `${way()}\n  ${other} ${String(copies)}: ${describeWorld(next, model.disks)}`);
      }
    }
    for (const { act, world: next } of adminActs(world, model)) {
      const told = (): string => `${way()}\n  ${act}: ${describeWorld(next, model.disks)}`;
      if (!isMarked(next)) visit(next, told);
      else for (const after of await marked(next, told)) visit(after, () => `${told()}\n  release: ${describeWorld(after, model.disks)}`);
    }
  }

  // A death leaves no trace: the next run ends like the one that died would have, or like one after it.
  const told = (state: string | undefined): string => describeWorld(found.get(state ?? '')?.world ?? EMPTY, model.disks);
  for (const { policy, state, like, way } of alike.values()) {
    const [one, other] = [ends.get(`${policy} ${state}`), ends.get(`${policy} ${like}`)];
    if (one !== other && one !== undefined && other !== undefined) throw new Violation(`after a death the next run ended otherwise: ${told(one)} instead of ${told(other)}\n${way()}`);
  }
  return { states: found.size, forbidden, runs, deaths };
}

function policies(copies: number): RunPolicy[] {
  const plenty = { copies, roomy: true, overwrite: false };
  return copies > 1 ? [plenty] : [plenty, { copies, roomy: false, overwrite: false }, { copies, roomy: false, overwrite: true }];
}

/** Without the records of sets that have no image, which tidying forgets, and no rule looks at. */
function tidied(world: World): World {
  const present = new Set([...world.images.values()].flatMap(({ identity }) => identity?.set ?? []));
  const keep = <T>(map: ReadonlyMap<SetId, T>): ReadonlyMap<SetId, T> => new Map([...map].filter(([set]) => present.has(set)));
  return { ...world, intents: keep(world.intents), manifests: keep(world.manifests) };
}

async function telling<T>(way: () => string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    throw new Violation(`${error instanceof Error ? error.message : String(error)}\n${way()}`, { cause: error });
  }
}

let counter = 0;

function nextSet(generation: number): SetId {
  counter += 1;
  return `20260101T000000Z-${(generation * 2 ** 24 + counter).toString(16).padStart(16, '0')}`;
}
