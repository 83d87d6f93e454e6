import type { ImageState, Manifest, SetId, SetIntent, StoredImage } from '../model/image-set.js';
import { imageBase, type Slot } from '../model/names.js';
import type { ImageSeen, ServerOnTarget } from '../model/rotation.js';
import { DrError } from '../model/errors.js';
import type { Activated } from './activated.js';
import type { OpenStore } from './open.js';
import type { CurrentLinks } from './store.js';
import { touchedSince } from './touched.js';
import { usersOf } from './users.js';

/** What is there, and what it is worth: the listing held against the records. Looking is apart from judging. */

/** What the catalog knows of one set. */
export interface SetRecord {
  readonly about: Omit<SetIntent, 'disks'>;
  readonly disks: readonly string[];
  /** Absent: the set is not complete. */
  readonly manifest?: Manifest;
  /** Why there is no usable manifest, where more is known than that it was never written. */
  readonly void?: string;
}

/** A store as it was found. */
export interface Sighting {
  readonly images: readonly StoredImage[];
  readonly records: ReadonlyMap<SetId, SetRecord>;
  /** `key` of an image → who has it open. */
  readonly users: ReadonlyMap<string, string>;
}

/** Whose images are looked for; the disks and copies say which names a rotation would need. */
export interface Wanted {
  readonly server: string;
  readonly uuid: string;
  readonly anvil: string;
  readonly disks: readonly string[];
  readonly copies: number;
}

/** Looks at all images and records of a store. */
export async function sight({ store, catalog }: OpenStore): Promise<Sighting> {
  const images = await store.list();
  const records = new Map<SetId, SetRecord>();
  for (const set of await catalog.sets()) {
    const record = await readRecord({ catalog }, set);
    if (record !== undefined) records.set(set, record);
  }
  return { images, records, users: await usersOf(images) };
}

async function readRecord({ catalog }: Pick<OpenStore, 'catalog'>, set: SetId): Promise<SetRecord | undefined> {
  const readable = async <T>(read: Promise<T | undefined>): Promise<{ readonly value?: T; readonly damage?: string }> => {
    try {
      const value = await read;
      return value === undefined ? {} : { value };
    } catch (error) {
      if (error instanceof DrError && error.code === 'manifest-damaged') return { damage: error.message };
      throw error;
    }
  };
  const intent = await readable(catalog.intent(set));
  const manifest = await readable(catalog.manifest(set));
  const about = manifest.value ?? intent.value;
  if (about === undefined) return undefined;
  const why = manifest.damage ?? (manifest.value === undefined ? await catalog.retracted(set) : undefined);
  return { about, disks: about.disks.map(({ disk }) => disk), ...(manifest.value === undefined ? {} : { manifest: manifest.value }), ...(why === undefined ? {} : { void: why }) };
}

/** What the store has of the wanted servers, or of all that it knows. */
export async function examine(sighting: Sighting, current: CurrentLinks, activated: ReadonlyMap<string, Activated>, wanted: readonly Wanted[] | 'all'): Promise<ServerOnTarget[]> {
  const bound = new Set(sighting.images.flatMap((image) => image.identity?.set ?? []));
  const names = wanted === 'all'
    ? [...new Set([...sighting.records].flatMap(([set, record]) => bound.has(set) ? [record.about.server] : []))].sort()
    : wanted.map(({ server }) => server);
  return await Promise.all(names.map(async (server) => {
    const judged = judge(sighting, server, wanted === 'all' ? undefined : wanted.find((one) => one.server === server));
    const mark = activated.get(server);
    const link = await readLink(current, server);
    return {
      ...judged,
      foreign: link instanceof DrError ? [...judged.foreign, { name: `current/${server}`, because: link.message }] : judged.foreign,
      ...(link === undefined || link instanceof DrError ? {} : { current: link }),
      ...(mark === undefined ? {} : { activated: `booted ${mark.at} ${mark.by}` }),
    };
  }));
}

async function readLink(current: CurrentLinks, server: string): Promise<{ readonly set: SetId; readonly slot: Slot } | DrError | undefined> {
  try {
    return await current.read(server);
  } catch (error) {
    if (error instanceof DrError && error.code === 'not-ours') return error;
    throw error;
  }
}

/** Judges one server's images. Without `wanted` nothing is known of its Anvil, and no record is foreign for belonging to another. */
export function judge(sighting: Sighting, server: string, wanted?: Wanted): Omit<ServerOnTarget, 'current' | 'activated'> {
  const ours: ImageSeen[] = [];
  const others: { readonly image: StoredImage; readonly because: string }[] = [];
  for (const image of sighting.images) {
    const record = image.identity === undefined ? undefined : sighting.records.get(image.identity.set);
    const because = notOurs(image, record, server, wanted);
    if (because !== undefined) {
      others.push({ image, because });
    } else if (record !== undefined && image.identity !== undefined) {
      const verdict = stateOf(image, image.identity, record, sighting);
      const user = sighting.users.get(image.key);
      const proof = record.manifest?.disks.find(({ disk }) => disk === image.identity?.disk);
      ours.push({
        ...image, server, disk: image.identity.disk, ...verdict, generation: record.about.generation, capturedAt: record.about.capturedAt, setDisks: record.disks,
        ...(user === undefined ? {} : { inUse: user }),
        ...(proof === undefined ? {} : { digest: proof.digest }),
      });
    }
  }
  return { server, images: ours, foreign: inTheWay(others, ours, server, wanted), generation: highestGeneration(sighting, server) };
}

/** Why an image is not one of this server's, if it isn't. */
function notOurs(image: StoredImage, record: SetRecord | undefined, server: string, wanted: Wanted | undefined): string | undefined {
  if (image.identity === undefined) return 'it was not made by dr-engine';
  if (record === undefined) return `it belongs to the set ${image.identity.set}, of which this store has no readable record`;
  const { about } = record;
  if (about.server !== server) return `it is an image of ${about.server}`;
  if (image.base !== imageBase(about.server, image.identity.disk)) return `it is the disk ${image.identity.disk} of ${about.server}, under another name`;
  if (wanted === undefined) return undefined;
  if (about.anvil !== wanted.anvil) return `it is an image of ${about.server} of the Anvil ${about.anvil}`;
  if (about.uuid !== wanted.uuid) return `it is an image of another server named ${about.server}, with the UUID ${about.uuid}`;
  return undefined;
}

function stateOf(image: StoredImage, identity: NonNullable<StoredImage['identity']>, record: SetRecord, sighting: Sighting): { readonly state: ImageState; readonly because?: string } {
  if (image.modified !== undefined) return { state: 'modified', because: image.modified };
  const lacking = (because?: string): { readonly state: ImageState; readonly because?: string } =>
    ({ state: image.slot === 'incomplete' ? 'partial' : 'unproven', ...(because === undefined ? {} : { because }) });
  if (record.manifest === undefined) return lacking(record.void);
  const proof = record.manifest.disks.find(({ disk }) => disk === identity.disk);
  if (proof === undefined) return lacking(`its set's manifest has no disk ${identity.disk}`);
  const compared = touchedSince(proof, image);
  if (compared.kind === 'touched') return { state: 'modified', because: `changed since its proof: ${compared.why}` };
  const missing = record.manifest.disks.find(({ disk }) => !sighting.images.some((other) => other.identity?.set === identity.set && other.identity.disk === disk && other.base === imageBase(record.about.server, disk)));
  if (missing !== undefined) return lacking(`the disk ${missing.disk} of its set is missing`);
  return { state: 'proven' };
}

/** The foreign things whose names a rotation of this server would need: every slot up to one above the highest. */
function inTheWay(others: readonly { readonly image: StoredImage; readonly because: string }[], ours: readonly ImageSeen[], server: string, wanted: Wanted | undefined): { readonly name: string; readonly because: string }[] {
  const disks = new Set([...wanted?.disks ?? [], ...ours.map(({ disk }) => disk)]);
  const bases = new Set([...disks].map((disk) => imageBase(server, disk)));
  const highest = Math.max(wanted?.copies ?? 0, ...ours.map(({ slot }) => slot === 'incomplete' ? 0 : slot)) + 1;
  return others.filter(({ image }) => bases.has(image.base) && (image.slot === 'incomplete' || image.slot <= highest))
    .map(({ image, because }) => ({ name: image.name, because }));
}

function highestGeneration({ records }: Sighting, server: string): number {
  return Math.max(0, ...[...records.values()].map(({ about }) => about.server === server ? about.generation : 0));
}

/** A whole set that could be booted: where its disks are. */
export interface WholeSet {
  readonly set: SetId;
  readonly slot: Slot;
  readonly generation: number;
  /** Disk → path. */
  readonly paths: Readonly<Record<string, string>>;
}

/**
 * The newest whole set among a server's images; one that was booted or changed counts only if `alsoModified`. Its paths are those of one
 * slot, unless a rename was interrupted so that there is none that all disks have.
 */
export function newestWhole({ records }: Pick<Sighting, 'records'>, images: readonly ImageSeen[], alsoModified: boolean): WholeSet | undefined {
  const good = (image: ImageSeen): boolean => image.state === 'proven' || (alsoModified && image.state === 'modified');
  const newest = [...records.values()].flatMap(({ manifest }) => manifest ?? [])
    .filter(({ set, disks }) => disks.every(({ disk }) => images.some((image) => image.identity?.set === set && image.disk === disk))
      && images.every((image) => image.identity?.set !== set || good(image)))
    .sort((a, b) => b.generation - a.generation)[0];
  if (newest === undefined) return undefined;
  const of = images.filter((image) => image.identity?.set === newest.set);
  const disks = new Set(of.map(({ disk }) => disk));
  const slots = [...new Set(of.map(({ slot }) => slot))].sort((a, b) => rank(a) - rank(b));
  const common = slots.find((slot) => of.filter((image) => image.slot === slot).length === disks.size);
  const chosen = [...of].sort((a, b) => Number(b.slot === common) - Number(a.slot === common) || rank(a.slot) - rank(b.slot));
  const paths: Record<string, string> = {};
  for (const image of chosen) paths[image.disk] ??= image.path;
  return { set: newest.set, slot: common ?? slots[0] ?? 1, generation: newest.generation, paths };
}

function rank(slot: Slot): number {
  return slot === 'incomplete' ? Infinity : slot;
}
