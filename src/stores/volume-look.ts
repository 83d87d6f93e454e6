import type { SpacePart } from '../model/host.js';
import type { DrError } from '../model/errors.js';
import type { StoredImage, TouchedVolume } from '../model/image-set.js';
import { parseImageName } from '../model/names.js';
import { deviceCounters, lvmState, type LvmState, type Volume, type VolumeGroup } from '../system/lvm.js';
import { bootId } from '../system/processes.js';
import { placeName, type Place } from './volume-choice.js';
import { readLabels } from './volume-tags.js';

/** What one look at LVM says of a store: its parts and their room, and its images. */

/** Says that the store can't be used: why, and what to do. */
type Unusable = (why: string, hint: string) => DrError;

export interface Part extends SpacePart {
  readonly sizeBytes: number;
  /** Whether what is new in it reads as zeros. */
  readonly zeroes: boolean;
  readonly warnings: readonly string[];
}

/** A pool's metadata is close to full from here on, in percent: with it full the pool turns read-only. */
const METADATA_HIGH = 80;

/** The groups of one store as they were at one look. */
export class Look {
  readonly volumes: readonly Volume[];

  constructor(readonly state: LvmState, private readonly places: readonly Place[], private readonly boot: string, private readonly unusable: Unusable) {
    this.volumes = state.volumes.filter(({ vg, kind }) => kind !== 'other' && places.some((place) => place.vg === vg));
  }

  /** The same look after a change of our own. */
  with(key: string, change: Partial<Pick<Volume, 'name' | 'tags'>>): Look {
    const volumes = this.state.volumes.map((volume) => volume.uuid === key ? { ...volume, ...change } : volume);
    return new Look({ ...this.state, volumes }, this.places, this.boot, this.unusable);
  }

  byKey(key: string): Volume | undefined {
    return this.volumes.find(({ uuid }) => uuid === key);
  }

  named(name: string): readonly Volume[] {
    return this.state.volumes.filter((volume) => volume.name === name && this.places.some(({ vg }) => vg === volume.vg));
  }

  /** Ours first where a name is there twice. */
  async images(): Promise<StoredImage[]> {
    const found = this.volumes.filter(({ name, partial }) => !partial && parseImageName(name) !== undefined);
    const images = await Promise.all(found.map((volume) => this.imageOf(volume)));
    return images.sort((a, b) => a.name < b.name ? -1 : a.name > b.name ? 1 : Number(a.identity === undefined) - Number(b.identity === undefined));
  }

  async imageOf(volume: Volume): Promise<StoredImage> {
    const parsed = parseImageName(volume.name) ?? { base: volume.name, slot: 'incomplete' as const };
    const { bytes, ...labels } = readLabels(volume.tags);
    return {
      name: volume.name, ...parsed, path: volume.path, part: placeName(volume),
      bytes: Math.min(bytes ?? volume.bytes, volume.bytes),
      allocatedBytes: volume.kind === 'thin' && volume.dataPercent !== undefined ? Math.ceil(volume.bytes * volume.dataPercent / 100) : volume.bytes,
      key: volume.uuid, touched: await this.touchedOf(volume), ...(volume.open ? { open: true } : {}), ...labels,
    };
  }

  private async touchedOf(volume: Volume): Promise<TouchedVolume> {
    const counters = volume.device === undefined ? undefined : await deviceCounters(volume.device);
    return { volume: volume.uuid, bytes: volume.bytes, ...(counters === undefined ? {} : { counted: { boot: this.boot, ...counters } }) };
  }

  /** The room in which a volume is, and may grow. */
  partHolding(volume: Volume): Part {
    return this.partOf(volume.pool === undefined ? { vg: volume.vg } : { vg: volume.vg, pool: volume.pool });
  }

  partOf(place: Place): Part {
    const group = groupOf(this.state, place.vg, this.unusable);
    if (place.pool === undefined) return { name: place.vg, sizeBytes: group.sizeBytes, freeBytes: group.freeBytes, extentBytes: group.extentBytes, zeroes: false, warnings: [] };
    const pool = this.state.volumes.find(({ vg, name, kind }) => vg === place.vg && name === place.pool && kind === 'pool');
    if (pool === undefined) throw this.unusable(`there is no thin pool ${placeName(place)}`, `lvs ${place.vg} shows what is there; lvcreate --type thin-pool makes one.`);
    if (pool.overrun || pool.partial) throw this.unusable(`the thin pool ${placeName(place)} has failed`, 'Look at lvs -a and the kernel log; lvconvert --repair may help.');
    if (pool.dataPercent === undefined) throw this.unusable(`the thin pool ${placeName(place)} is not active`, `lvchange --activate y ${placeName(place)}`);
    // Zeros take no space in a thin volume; in such a pool they would turn into old data as soon as the guest writes beside them.
    if (pool.zeroes !== true) throw this.unusable(`the thin pool ${placeName(place)} does not zero what it newly allocates, so images would not hold what was captured`, `lvchange --zero y ${placeName(place)}`);
    return {
      name: placeName(place), sizeBytes: pool.bytes, freeBytes: Math.floor(pool.bytes * (100 - pool.dataPercent) / 100), extentBytes: group.extentBytes,
      zeroes: true, warnings: this.warningsOf(pool),
    };
  }

  private warningsOf(pool: Volume): string[] {
    const promised = this.state.volumes.filter((one) => one.kind === 'thin' && one.vg === pool.vg && one.pool === pool.name).reduce((sum, { bytes }) => sum + bytes, 0);
    const name = `the thin pool ${spell(pool)}`;
    return [
      ...promised > pool.bytes ? [`${name} has ${gib(pool.bytes)}, and its volumes are ${gib(promised)} together: it can run full while copies are booted; enlarge it (lvextend), or watch it`] : [],
      ...(pool.metadataPercent ?? 0) > METADATA_HIGH ? [`the metadata of ${name} is ${String(Math.round(pool.metadataPercent ?? 0))} % full, and the pool stops when it is full: lvextend --poolmetadatasize +64M ${spell(pool)}`] : [],
    ];
  }
}

/**
 * For how long a change may rely on the last look, in milliseconds. The wrappers prove again that a volume is the one that is meant, so this only keeps what
 * they can't see, another's tags, from being old.
 */
const RECENT_MS = 5_000;

/** The looks of one store: a listing takes lvm2 a while, and most changes need none of their own. */
export class Looks {
  #seen: { readonly look: Look; readonly at: number } | undefined;

  constructor(private readonly places: readonly Place[], private readonly unusable: Unusable) {}

  async look(): Promise<Look> {
    const state = await lvmState();
    const stranger = this.places.find(({ vg }) => !state.allowed.includes(vg));
    if (stranger !== undefined) throw this.unusable(...notAllowed(stranger.vg));
    if (!this.places.some(({ vg }) => state.groups.some(({ name }) => name === vg))) throw this.unusable(...notThere(this.places.map(({ vg }) => vg).join(', ')));
    const look = new Look(state, this.places, await bootId(), this.unusable);
    this.#seen = { look, at: performance.now() };
    return look;
  }

  /** The last look, if it was just now. */
  async recent(): Promise<Look> {
    return this.relied && this.#seen !== undefined ? this.#seen.look : await this.look();
  }

  /** Whether `recent` would be an earlier look. */
  get relied(): boolean {
    return this.#seen !== undefined && performance.now() - this.#seen.at < RECENT_MS;
  }

  forget(): void {
    this.#seen = undefined;
  }

  /** Changes a volume. What we changed ourselves need not be looked at again; a change that failed says that what was seen is old. */
  async change(volume: Volume, to: Partial<Pick<Volume, 'name' | 'tags'>>, work: () => Promise<void>): Promise<void> {
    const seen = this.#seen;
    this.forget();
    await work();
    if (seen !== undefined) this.#seen = { ...seen, look: seen.look.with(volume.uuid, to) };
  }
}

/** Throws unless the group is allowed, there, and whole. */
export function groupOf(state: LvmState, vg: string, unusable: Unusable): VolumeGroup {
  if (!state.allowed.includes(vg)) throw unusable(...notAllowed(vg));
  const group = state.groups.find(({ name }) => name === vg);
  if (group === undefined) throw unusable(...notThere(vg));
  if (group.missing) throw unusable(`a disk of the volume group ${vg} is missing`, 'Bring it back (pvs shows which); what lies on the others can still be booted.');
  return group;
}

function notAllowed(vg: string): readonly [string, string] {
  return [`the volume group ${vg} is not in /etc/dr/vgs`, `Write its name into that file, one to a line, if dr-engine may use it.`];
}

function notThere(vg: string): readonly [string, string] {
  return [`the volume group ${vg} is not there`, 'vgs shows those that are; perhaps a disk is missing.'];
}

/** `VG/NAME` */
export function spell({ vg, name }: Pick<Volume, 'vg' | 'name'>): string {
  return `${vg}/${name}`;
}

export function gib(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
