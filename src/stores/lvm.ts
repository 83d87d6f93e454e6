import { chmod, lstat, statfs } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DrError } from '../model/errors.js';
import type { Space, SpacePart } from '../model/host.js';
import { boundSets, type SetId, type StoredImage } from '../model/image-set.js';
import { parseImageName } from '../model/names.js';
import { volumeProblem } from '../model/volume-names.js';
import { makeDirectory } from '../system/durable.js';
import { log } from '../system/log.js';
import { activateVolume, createVolume, removeVolume, renameVolume, resizeVolume, tagVolume, type Volume } from '../system/lvm.js';
import { stateDirectory } from '../system/state.js';
import { step } from '../system/steps.js';
import { IN_MEMORY } from './probe.js';
import { rememberedStores } from './remembered.js';
import { settleDevice } from './slack.js';
import type { Identity, Store } from './store.js';
import { choose, parsePlaces, volumeBytes, type Place } from './volume-choice.js';
import { gib, groupOf, Looks, spell, type Look, type Part } from './volume-look.js';
import { labelsOf, OURS, readLabels, relabel, type Relabeling } from './volume-tags.js';

/**
 * A store that is one or more volume groups: an image is a logical volume of that name, bound by its tags (volume-tags.ts) and known by its UUID. What is
 * remembered of the sets is not in the groups but in `volumesCatalog`, for all such stores of the host together.
 */

/** How long udev may take to give a new or newly active volume its link, in milliseconds. */
const LINK_MS = 10_000;

/** A volume of ours, and the look that it was found in. */
interface Held {
  readonly look: Look;
  readonly volume: Volume;
  readonly now: StoredImage;
}

export function volumesCatalog(): string {
  return stateDirectory('volumes');
}

export class VolumeStore implements Store {
  private readonly places: readonly Place[];
  private readonly looks: Looks;

  /** `ref` is `vg:a,b/pool`. Throws `config-invalid` for anything else. */
  constructor(readonly ref: string) {
    this.places = parsePlaces(ref);
    this.looks = new Looks(this.places, (why, hint) => this.unusable(why, hint));
  }

  async check(): Promise<void> {
    const look = await this.looks.recent();
    this.insistWhole(look);
    const names = new Map<string, Volume>();
    for (const volume of look.volumes.filter(({ name }) => parseImageName(name) !== undefined)) {
      const twin = names.get(volume.name);
      if (twin !== undefined) throw this.unusable(`${spell(twin)} and ${spell(volume)} have one name`, 'Rename one of them (lvrename): a name is one image in the whole store.');
      names.set(volume.name, volume);
    }
    const catalog = volumesCatalog();
    await makeDirectory(catalog, 0o711);
    await chmod(stateDirectory(), 0o711); // QEMU passes through to nvram files
    const memory = IN_MEMORY.get((await statfs(catalog)).type);
    if (memory !== undefined) throw this.unusable(`its records are in ${catalog}, which is a ${memory}: they would be gone after a power cut`, `Keep ${stateDirectory()} on a disk.`);
  }

  async space(): Promise<Space> {
    const look = await this.looks.recent();
    this.insistWhole(look);
    const parts = this.places.map((place) => look.partOf(place));
    return {
      sizeBytes: parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      freeBytes: parts.reduce((sum, { freeBytes }) => sum + freeBytes, 0),
      parts: parts.map(({ name, freeBytes, extentBytes }) => ({ name, freeBytes, extentBytes })),
      warnings: parts.flatMap(({ warnings }) => warnings),
    };
  }

  /** Volumes that are partly on a missing disk are left out: they can't be read, let alone booted. */
  async list(): Promise<StoredImage[]> {
    const look = await this.looks.look();
    return look.images();
  }

  async allocate(name: string, bytes: number, identity: Identity): Promise<StoredImage> {
    const look = await this.looks.recent();
    this.insistWhole(look);
    this.insistFree(look, name);
    const parts = this.places.map((place) => ({ ...look.partOf(place), place }));
    const best = choose(parts, bytes);
    if (best.length === 0) throw full(`${name} of ${String(bytes)} bytes`, parts);
    step('allocate-before');
    await this.createIn(best, name, bytes, identity);
    step('allocate-after');
    const after = await this.looks.look();
    const made = after.named(name).find((volume) => readLabels(volume.tags).identity?.set === identity.set);
    if (made === undefined) throw changed(name, 'it is gone');
    await linkOf(made);
    return await after.imageOf(made);
  }

  private async createIn(parts: readonly (Part & { readonly place: Place })[], name: string, bytes: number, identity: Identity): Promise<void> {
    for (const [index, { place, extentBytes, zeroes }] of parts.entries()) {
      const problem = volumeProblem(place.vg, name);
      if (problem !== undefined) throw new DrError('name-invalid', `${name} can't be the name of a volume in ${place.vg}: ${problem}. Nothing was touched.`, 'Give the disk another name with disk_names in the job.');
      try {
        return await createVolume({ ...place, name, bytes: volumeBytes(bytes, extentBytes), tags: labelsOf({ identity, origin: zeroes ? 'fresh' : 'stale', bytes }) });
      } catch (error) { // another run may have taken the space meanwhile
        if (!(error instanceof DrError) || error.code !== 'no-space' || index === parts.length - 1) throw error;
      }
    }
  }

  /**
   * What is said of the old content is dropped first: extents come and go with whatever lies on them, so a volume that shrank and grew again is not
   * what it was, though its counters say that nobody wrote.
   */
  async resize(image: StoredImage, bytes: number): Promise<StoredImage> {
    this.looks.forget(); // what is cut off is gone for good
    const { look, volume, now } = await this.held(image);
    this.insistOurs(now);
    const part = look.partHolding(volume);
    const size = volumeBytes(bytes, part.extentBytes);
    if (now.bytes === bytes && volume.bytes === size) return now;
    if (volume.pool === undefined && size - volume.bytes > part.freeBytes) throw full(`${spell(volume)} of ${String(bytes)} bytes`, [part]);
    if (size > MOST_BYTES) throw full(`${spell(volume)} of ${String(bytes)} bytes`, [part]);
    const origin = now.origin === 'fresh' || now.origin === 'stale' ? 'stale' : null;
    this.looks.forget();
    const [before, after]: readonly Relabeling[] = size > volume.bytes ? [{ origin }, { bytes }] : [{ origin, bytes }, {}];
    await tagVolume(volume, relabel(volume.tags, before ?? {}));
    await resizeVolume(volume, size);
    await tagVolume(volume, relabel(volume.tags, after ?? {}));
    step('resize-after');
    const then = await this.looks.look();
    const resized = then.byKey(volume.uuid);
    if (resized === undefined) throw changed(spell(volume), 'it is gone');
    return await then.imageOf(resized);
  }

  async bind(image: StoredImage, identity: Identity): Promise<void> {
    await this.onHeld(image, async ({ volume, now }) => {
      const before = this.insistOurs(now);
      this.insistUnmodified(now);
      if (before.set === identity.set && before.disk === identity.disk) return;
      step('bind-before');
      // An origin that is still there has outlived a run that wrote nothing: it is still what the image holds. One change says both.
      await this.relabel(volume, { identity, origin: now.origin ?? before });
      step('bind-after');
    });
  }

  async adopt(image: StoredImage, identity: Identity): Promise<void> {
    await this.onHeld(image, ({ volume }) => this.relabel(volume, { identity, origin: null, bytes: image.bytes }));
  }

  async forgetOrigin(image: StoredImage): Promise<void> {
    await this.onHeld(image, ({ volume }) => this.relabel(volume, { origin: null }));
  }

  async markModified(image: StoredImage, why: string | undefined): Promise<void> {
    await this.onHeld(image, async ({ volume, now }) => {
      this.insistOurs(now);
      await this.relabel(volume, { modified: why ?? null });
    });
  }

  async settle(image: StoredImage): Promise<StoredImage> {
    const { look, volume, now } = await this.held(image);
    this.insistOurs(now);
    await settleDevice(volume.path, now.bytes, volume.bytes);
    return await look.imageOf(volume); // its counters are read now
  }

  async giveName(image: StoredImage, name: string): Promise<void> {
    await this.onHeld(image, async ({ look, volume, now }) => {
      if (volume.name === name) return;
      this.insistFree(look, name);
      this.insistOurs(now);
      step('name-before-give');
      await this.looks.change(volume, { name }, () => renameVolume(volume, name));
      step('name-after-give');
    });
  }

  /** A volume that was given a name has lost the one before: there is never anything left to take. */
  async takeName(image: StoredImage, name: string): Promise<void> {
    const [there] = (await this.looks.recent()).named(name);
    if (there === undefined) return;
    throw changed(spell(there), there.uuid === image.key ? 'it is the only name the image has' : 'another volume has this name now');
  }

  async remove(image: StoredImage, identity: Identity): Promise<void> {
    const look = await this.looks.look(); // what is removed is gone for good
    const volume = look.byKey(image.key);
    if (volume === undefined) {
      const [other] = look.named(image.name);
      if (other !== undefined) throw changed(spell(other), 'another volume has this name now');
      return;
    }
    if (volume.name !== image.name) throw changed(spell(volume), `it was called ${image.name} before`);
    const now = await look.imageOf(volume);
    const bound = this.insistOurs(now);
    if (bound.set !== identity.set || bound.disk !== identity.disk) throw changed(spell(volume), `it belongs to the set ${bound.set} now`);
    this.insistUnmodified(now);
    this.looks.forget();
    await removeVolume(volume);
  }

  /** Volumes that can't be made accessible now are told of, and keep no other waiting. */
  async tidy(): Promise<void> {
    const look = await this.looks.look();
    for (const volume of look.volumes.filter(({ active, tags, partial }) => !active && !partial && readLabels(tags).identity !== undefined)) {
      await activate(volume).catch((error: unknown) => { log.warn('a volume could not be activated', { volume: spell(volume), why: DrError.from(error).message }); });
    }
  }

  async bound(): Promise<ReadonlySet<SetId>> {
    const { state } = await this.looks.recent();
    const others = (await rememberedStores()).flatMap(({ store }) => store.startsWith('vg:') ? parsePlaces(store) : []);
    for (const { vg } of [...this.places, ...others]) groupOf(state, vg, (why, hint) => this.unusable(why, hint));
    return boundSets(state.volumes.map(({ tags }) => readLabels(tags)));
  }

  private async relabel(volume: Volume, relabeling: Relabeling): Promise<void> {
    const { add, remove } = relabel(volume.tags, relabeling);
    await this.looks.change(volume, { tags: [...volume.tags.filter((tag) => !remove.includes(tag)), ...add] }, () => tagVolume(volume, { add, remove }));
  }

  /** Every group and pool is there, and whole. */
  private insistWhole(look: Look): void {
    for (const place of this.places) look.partOf(place);
  }

  private insistFree(look: Look, name: string): void {
    const [there] = look.named(name);
    if (there !== undefined) throw new DrError('exists', `${spell(there)} exists already and is something else. It was not touched.`, 'Look what it is; rename it (lvrename) if dr-engine should use the name.');
  }

  /** The very volume that `image` means, whatever its name is now, and active. */
  private async held(image: StoredImage): Promise<Held> {
    const find = (look: Look): Volume => {
      const volume = look.byKey(image.key);
      if (volume === undefined) throw changed(image.name, 'it is gone');
      if (!volume.tags.includes(OURS)) throw notOurs(volume);
      return volume;
    };
    let look = await this.looks.recent();
    let volume = find(look);
    if (!volume.active) {
      await activate(volume);
      look = await this.looks.look(); // it has a device now
      volume = find(look);
    }
    return { look, volume, now: await look.imageOf(volume) };
  }

  /** Does something with the volume that `image` means. What was seen before may be why it was refused: then it is looked at anew. */
  private async onHeld(image: StoredImage, act: (held: Held) => Promise<void>): Promise<void> {
    const relied = this.looks.relied;
    try {
      await act(await this.held(image));
    } catch (error) {
      if (!relied || !(error instanceof DrError)) throw error;
      this.looks.forget();
      await act(await this.held(image));
    }
  }

  private insistOurs(image: StoredImage): Identity {
    if (image.identity !== undefined) return image.identity;
    throw new DrError('not-ours', `${image.path} (${image.name}) is bound to no set of dr-engine. It was not touched.`, 'Rename it if its name is needed, or see dr verify --adopt.');
  }

  private insistUnmodified(image: StoredImage): void {
    if (image.modified === undefined) return;
    throw new DrError('image-modified', `${image.name} is marked as modified (${image.modified}). It was not touched.`, 'Keep what you need from it, then run dr release.');
  }

  private unusable(why: string, hint: string): DrError {
    return new DrError('store-unusable', `the store ${this.ref} can't be used: ${why}. Nothing was touched.`, hint);
  }
}

/** LVM counts extents in 32 bits and sizes in sectors; beyond that no disk goes. */
const MOST_BYTES = 2 ** 50;

async function activate(volume: Volume): Promise<void> {
  await activateVolume(volume);
  await linkOf(volume);
}

/** Waits for the link by which everybody reaches the volume. */
async function linkOf(volume: Volume): Promise<void> {
  for (let waited = 0; ; waited += 50) {
    if (await lstat(volume.path).then(() => true, () => false)) return; // any failure to look is as good as its absence
    if (waited >= LINK_MS) {
      throw new DrError('store-unusable', `${spell(volume)} is active, but udev has not made ${volume.path}. It was not written to.`, 'udev must run, with the rules that come with dmsetup and lvm2.');
    }
    await sleep(50);
  }
}

function full(what: string, parts: readonly SpacePart[]): DrError {
  return new DrError('no-space', `there is no room for ${what}: ${parts.map(({ name, freeBytes }) => `${name} has ${gib(freeBytes)} free`).join(', ')}. Complete copies are untouched.`,
    'Free space in the volume group, or add a disk to it (vgextend).');
}

function notOurs(volume: Volume): DrError {
  return new DrError('not-ours', `${spell(volume)} was not made by dr-engine. It was not touched.`, `If it is an image all the same, root may say so: lvchange --addtag ${OURS} ${spell(volume)}`);
}

function changed(what: string, why: string): DrError {
  return new DrError('state-changed', `${what} changed while the run was about to use it: ${why}. It was not touched.`, 'Run the job again; it will look anew.');
}
