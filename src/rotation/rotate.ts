import { DrError } from '../model/errors.js';
import type { SetId, StoredImage } from '../model/image-set.js';
import { imageBase, imageName, type Slot } from '../model/names.js';
import type { RotationStep } from '../model/rotation.js';
import type { Catalog, CurrentLinks, Store } from '../stores/store.js';
import { step as reached } from '../system/steps.js';

/** Where a rotation happens. */
export interface Places {
  readonly store: Store;
  readonly catalog: Catalog;
  readonly current: CurrentLinks;
}

type StepOf<K extends RotationStep['kind']> = Extract<RotationStep, { kind: K }>;

/**
 * Executes steps of a plan, in order. Each looks again at what it is going to touch and throws `state-changed` or `exists`, with nothing
 * done by that step, if it is not what was planned. Dying anywhere in here, or throwing, leaves what the next plan puts right.
 */
export async function rotate(places: Places, server: string, steps: readonly RotationStep[]): Promise<void> {
  for (const step of steps) await execute(places, server, step);
}

function execute(places: Places, server: string, step: RotationStep): Promise<void> {
  switch (step.kind) {
    case 'move': return move(places, server, step);
    case 'point-current': return pointCurrent(places, server, step);
    case 'begin': return begin(places, server, step);
    case 'allocate': return allocate(places, server, step);
    case 'resize': return resize(places, server, step);
    case 'remove': return remove(places, server, step);
  }
}

/** New names for all disks, then the link, then the old names away: so the link leads to the whole set at every instant. */
async function move({ store, current }: Places, server: string, { set, from, to, disks }: StepOf<'move'>): Promise<void> {
  const before = await store.list();
  const images = disks.map((disk) => {
    const there = before.find((image) => image.name === imageName(server, disk, to));
    const image = isOf(there, set, disk) ? there : before.find((one) => one.name === imageName(server, disk, from));
    if (!isOf(image, set, disk)) throw changed(imageName(server, disk, from), `the image of the set ${set} is not there any more`);
    if (there !== undefined && there !== image) throw taken(there);
    return { disk, image };
  });
  for (const { disk, image } of images) await store.giveName(image, imageName(server, disk, to));
  const after = await store.list();
  const linked = await current.read(server);
  if (linked?.set === set && linked.slot !== to) await current.point(server, { set, slot: to, paths: pathsOf(after, server, to, disks) });

  for (const { disk, image } of images) {
    const given = after.find((one) => one.name === imageName(server, disk, to));
    if (given?.key !== image.key) throw changed(imageName(server, disk, to), 'the image that was given this name has lost it again');
    await store.takeName(given, imageName(server, disk, from));
  }
}

async function pointCurrent({ store, catalog, current }: Places, server: string, { set, slot }: StepOf<'point-current'>): Promise<void> {
  if (set === null) return await current.point(server, null);
  const manifest = await catalog.manifest(set);
  if (manifest === undefined) throw changed(`the set ${set}`, 'it has no manifest any more');
  const images = await store.list();
  const disks = manifest.disks.map(({ disk }) => disk);
  for (const disk of disks) {
    const name = imageName(server, disk, slot);
    if (!isOf(images.find((image) => image.name === name), set, disk)) throw changed(name, `it is not the image of the set ${set} any more`);
  }
  await current.point(server, { set, slot, paths: pathsOf(images, server, slot, disks) });
}

/** The intent first, so that no image is ever bound to a capture that nothing is known of. */
async function begin({ store, catalog, current }: Places, server: string, { intent, recycle }: StepOf<'begin'>): Promise<void> {
  const images = await store.list();
  const linked = await current.read(server);
  const bindings = recycle.map(({ disk, set }) => {
    const name = imageName(server, disk, 'incomplete');
    const image = images.find((one) => one.name === name);
    if (!isOf(image, set, disk) && !isOf(image, intent.set, disk)) throw changed(name, `it is not the image of the set ${set} any more`);
    if (linked?.set === set) throw changed(name, 'current leads to it');
    const other = images.find((one) => one.key === image.key && one.name !== name);
    if (other !== undefined) throw changed(name, `it is also ${other.name}`);
    return { disk, image };
  });
  await catalog.begin(intent);
  for (const { disk, image } of bindings) await store.bind(image, { set: intent.set, disk });
}

async function allocate({ store, catalog }: Places, server: string, { set, disk, bytes }: StepOf<'allocate'>): Promise<void> {
  const name = imageName(server, disk, 'incomplete');
  const images = await store.list();
  const there = images.find((image) => image.name === name);
  if (there === undefined) await store.allocate(name, bytes, { set, disk }, await newestOf(images, catalog, server, disk));
  else if (isOf(there, set, disk)) await store.resize(there, bytes); // allocated before
  else throw taken(there);
}

/** The image that a new one will differ from least, of those that are proven. */
async function newestOf(images: readonly StoredImage[], catalog: Catalog, server: string, disk: string): Promise<StoredImage | undefined> {
  const base = imageBase(server, disk);
  const older = images.filter((image) => image.base === base && image.slot !== 'incomplete' && image.identity?.disk === disk && image.modified === undefined);
  for (const image of older.sort((a, b) => Number(a.slot) - Number(b.slot))) {
    // A damaged manifest proves nothing.
    if (await catalog.manifest(image.identity?.set ?? '').catch(() => undefined) !== undefined) return image;
  }
  return undefined;
}

async function resize({ store }: Places, server: string, { set, disk, bytes }: StepOf<'resize'>): Promise<void> {
  const name = imageName(server, disk, 'incomplete');
  const image = (await store.list()).find((one) => one.name === name);
  if (!isOf(image, set, disk)) throw changed(name, `it is not bound to the set ${set} any more`);
  await store.resize(image, bytes);
}

async function remove({ store, catalog, current }: Places, server: string, { set, disk, slot }: StepOf<'remove'>): Promise<void> {
  const name = imageName(server, disk, slot);
  const images = await store.list();
  const image = images.find((one) => one.name === name);
  if (image !== undefined) {
    if (!isOf(image, set, disk)) throw changed(name, `it is not the image of the set ${set} any more`);
    if (images.some((one) => one.key === image.key && one.name !== name)) throw changed(name, 'it has another name as well');
    if ((await current.read(server))?.set === set) throw changed(name, 'current leads to its set');
    reached('prune-before');
    await store.remove(image, { set, disk });
    reached('prune-after');
  }
  // What is removed from `incomplete` belonged to a set whose other images are being recycled: its digests are still wanted.
  if (slot !== 'incomplete' && !images.some((one) => one.identity?.set === set && one.name !== name)) await catalog.forget(set);
}

function isOf(image: StoredImage | undefined, set: SetId, disk: string): image is StoredImage {
  return image?.identity?.set === set && image.identity.disk === disk;
}

/** Where the images are that have their names in this slot. */
function pathsOf(images: readonly StoredImage[], server: string, slot: Slot, disks: readonly string[]): Record<string, string> {
  return Object.fromEntries(disks.map((disk) => {
    const name = imageName(server, disk, slot);
    const image = images.find((one) => one.name === name);
    if (image === undefined) throw changed(name, 'it is not there any more');
    return [disk, image.path];
  }));
}

function changed(what: string, why: string): DrError {
  return new DrError('state-changed', `${what} changed while the rotation was about to use it: ${why}. It was not touched.`, 'Run the job again; it will look anew.');
}

function taken(image: StoredImage): DrError {
  return new DrError('exists', `${image.path} exists already and is something else. It was not touched.`, 'Look what it is; move it away if dr-engine should use the name.');
}
