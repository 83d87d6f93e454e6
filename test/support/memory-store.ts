import { isDeepStrictEqual } from 'node:util';
import { DrError } from '../../src/model/errors.js';
import { boundSets, type Manifest, type SetId, type SetIntent, type StoredImage } from '../../src/model/image-set.js';
import { parseImageName, type Slot } from '../../src/model/names.js';
import type { ServerOnTarget } from '../../src/model/rotation.js';
import { judge, type SetRecord } from '../../src/stores/examine.js';
import type { Catalog, CurrentLinks, Identity, Store } from '../../src/stores/store.js';

/**
 * A target in memory: store, catalog and links over one immutable value, the world. Every durable change makes a new world, so the state
 * that a death leaves between any two changes is simply the world that was there: collect them with `beforeChange`, or throw from it to die.
 */

export interface MemoryImage {
  readonly identity?: Identity;
  readonly origin?: StoredImage['origin'];
  readonly bytes: number;
  readonly modified?: string;
  readonly inUse?: string;
  /** The truth about the blocks, which no code under test can see: `<set>/<disk>` once all are written, else what spoils them. */
  readonly content: string;
  /** Raised by every write. */
  readonly mtime: number;
}

export interface Link {
  readonly set: SetId;
  readonly slot: Slot;
  /** Disk → name (a file's path leads by name) or key (a volume's by identity). */
  readonly leads: Readonly<Record<string, string>>;
}

export interface World {
  /** name → key */
  readonly names: ReadonlyMap<string, string>;
  /** key → image */
  readonly images: ReadonlyMap<string, MemoryImage>;
  readonly intents: ReadonlyMap<SetId, SetIntent>;
  readonly manifests: ReadonlyMap<SetId, Manifest>;
  /** server → link */
  readonly current: ReadonlyMap<string, Link>;
  /** server → since when */
  readonly activated: ReadonlyMap<string, string>;
  readonly nextKey: number;
}

export const EMPTY: World = {
  names: new Map(), images: new Map(), intents: new Map(), manifests: new Map(), current: new Map(), activated: new Map(), nextKey: 1,
};

/** `files`: a rename is two steps. `volumes`: it is one, and links lead to the image itself. */
export type MemoryKind = 'files' | 'volumes';

/** Mistakes that can be switched on, to see that a test notices them. */
export interface Mistakes {
  readonly giveOverwrites?: boolean;
}

export class MemoryTarget {
  readonly store: Store;
  readonly catalog: Catalog;
  readonly current: CurrentLinks;
  /** Called with the world as it is before each durable change, and with what is about to change. */
  beforeChange: (world: World, what: string) => void = () => undefined;

  constructor(readonly kind: MemoryKind = 'files', public world: World = EMPTY, mistakes: Mistakes = {}, public freeBytes: number = 2 ** 50) {
    this.store = memoryStore(this, mistakes);
    this.catalog = memoryCatalog(this);
    this.current = memoryCurrent(this);
  }

  /** Changes the world: one durable step. */
  change(what: string, changes: Partial<World>): void {
    this.beforeChange(this.world, what);
    this.world = { ...this.world, ...changes };
  }

  /** Changes one image, less the properties in `drop`: one durable step. */
  changeImage(what: string, key: string, changes: Partial<MemoryImage>, drop: readonly ('origin' | 'modified' | 'inUse')[] = []): void {
    const image: MemoryImage = { ...this.imageAt(key), ...changes };
    for (const name of drop) Reflect.deleteProperty(image, name);
    this.change(what, { images: put(this.world.images, key, image) });
  }

  imageAt(key: string): MemoryImage {
    const image = this.world.images.get(key);
    if (image === undefined) throw new DrError('state-changed', `the image ${key} is gone`);
    return image;
  }

  list(): StoredImage[] {
    return [...this.world.names].sort(([a], [b]) => a < b ? -1 : 1).flatMap(([name, key]) => {
      const parsed = parseImageName(name);
      const image = this.world.images.get(key);
      if (parsed === undefined || image === undefined) return [];
      return [{
        name, ...parsed, path: `/memory/${name}`, bytes: image.bytes, allocatedBytes: image.content === 'zeros' ? 0 : image.bytes, key,
        touched: { inode: key, bytes: image.bytes, mtime: String(image.mtime) },
        ...(image.identity === undefined ? {} : { identity: image.identity }),
        ...(image.origin === undefined ? {} : { origin: image.origin }),
        ...(image.modified === undefined ? {} : { modified: image.modified }),
      }];
    });
  }

  /** What a planner is shown of a server, judged as on a real target. */
  observe(server: string, about: { readonly uuid: string; readonly anvil: string; readonly disks: readonly string[]; readonly copies: number }): ServerOnTarget {
    const { images, intents, manifests, current, activated } = this.world;
    const records = new Map<SetId, SetRecord>([...intents].map(([set, intent]) => {
      const manifest = manifests.get(set);
      return [set, { about: intent, disks: intent.disks.map(({ disk }) => disk), ...(manifest === undefined ? {} : { manifest }) }];
    }));
    const users = new Map([...images].flatMap(([key, { inUse }]) => inUse === undefined ? [] : [[key, inUse] as const]));
    const link = current.get(server);
    const mark = activated.get(server);
    return {
      ...judge({ images: this.list(), records, users }, server, { server, ...about }),
      ...(link === undefined ? {} : { current: { set: link.set, slot: link.slot } }),
      ...(mark === undefined ? {} : { activated: mark }),
    };
  }

  /** What a transfer and a proof do: writes the `incomplete` images that are bound to the set, and then its manifest. */
  async write(set: SetId): Promise<void> {
    for (const image of this.list()) {
      if (image.slot !== 'incomplete' || image.identity?.set !== set) continue;
      this.changeImage('forget-origin', image.key, {}, ['origin']);
      this.changeImage('write', image.key, { content: 'torn', mtime: this.imageAt(image.key).mtime + 1 });
      this.changeImage('write', image.key, { content: `${set}/${image.identity.disk}` });
    }
    const intent = this.world.intents.get(set);
    if (intent === undefined) throw new DrError('internal', `no intent of ${set}`);
    await this.catalog.complete(this.proofOf(intent));
  }

  private proofOf(intent: SetIntent): Manifest {
    const disks = intent.disks.map((disk) => {
      const image = this.list().find(({ slot, identity }) => slot === 'incomplete' && identity?.set === intent.set && identity.disk === disk.disk);
      if (image === undefined) throw new DrError('state-changed', `no incomplete image of ${disk.disk}`);
      return { ...disk, digest: 'sha256-1MiB:00', proof: 'device' as const, provenSince: intent.capturedAt, touched: image.touched };
    });
    return { ...intent, completedAt: intent.capturedAt, disks, attachments: {} };
  }
}

export function put<K, V>(map: ReadonlyMap<K, V>, key: K, value: V): ReadonlyMap<K, V> {
  return new Map(map).set(key, value);
}

export function without<K, V>(map: ReadonlyMap<K, V>, key: K): ReadonlyMap<K, V> {
  const copy = new Map(map);
  copy.delete(key);
  return copy;
}

function memoryStore(target: MemoryTarget, { giveOverwrites = false }: Mistakes): Store {
  const seen = (name: string): StoredImage => {
    const image = target.list().find((one) => one.name === name);
    if (image === undefined) throw new DrError('state-changed', `${name} is gone`);
    return image;
  };
  /** The image as it is now, if `image.name` still is its name and it is ours. */
  const ours = (image: StoredImage): { readonly key: string; readonly now: MemoryImage; readonly identity: Identity } => {
    if (target.world.names.get(image.name) !== image.key) throw new DrError('state-changed', `${image.name} is another image now`);
    const now = target.imageAt(image.key);
    if (now.identity === undefined) throw new DrError('not-ours', `${image.name} is not ours`);
    return { key: image.key, now, identity: now.identity };
  };
  /** The world without a name, and without the image if that was its last. */
  const nameless = (name: string): Pick<World, 'names' | 'images'> => {
    const key = target.world.names.get(name);
    const names = without(target.world.names, name);
    if (key === undefined || [...names.values()].includes(key)) return { names, images: target.world.images };
    return { names, images: without(target.world.images, key) };
  };
  return {
    ref: 'fs:/memory',
    check: async () => { await Promise.resolve(); },
    space: async () => Promise.resolve({ sizeBytes: 2 ** 50, freeBytes: target.freeBytes }),
    list: async () => Promise.resolve(target.list()),
    allocate: async (name, bytes, identity) => {
      if (target.world.names.has(name)) throw new DrError('exists', `${name} exists`);
      const key = `k${String(target.world.nextKey)}`;
      const image: MemoryImage = { identity, origin: 'fresh', bytes, content: 'zeros', mtime: 0 };
      target.change('allocate', { names: put(target.world.names, name, key), images: put(target.world.images, key, image), nextKey: target.world.nextKey + 1 });
      return Promise.resolve(seen(name));
    },
    resize: async (image, bytes) => {
      const { key, now } = ours(image);
      if (now.bytes !== bytes) target.changeImage('resize', key, { bytes, content: 'torn', mtime: now.mtime + 1 });
      return Promise.resolve(seen(image.name));
    },
    bind: async (image, identity) => {
      const { key, now, identity: before } = ours(image);
      if (now.modified !== undefined) throw new DrError('image-modified', `${image.name} is modified`);
      if (before.set === identity.set && before.disk === identity.disk) return await Promise.resolve();
      if (now.origin === undefined) target.changeImage('note-origin', key, { origin: before });
      target.changeImage('bind', key, { identity });
    },
    giveName: async (image, name) => {
      const there = target.world.names.get(name);
      if (there === image.key) return await Promise.resolve();
      ours(image);
      if (there !== undefined && !giveOverwrites) throw new DrError('exists', `${name} exists`);
      const names = target.kind === 'files' ? target.world.names : without(target.world.names, image.name);
      target.change('give', { names: put(names, name, image.key) });
    },
    takeName: async (image, name) => {
      const there = target.world.names.get(name);
      if (there === undefined) return await Promise.resolve();
      if (there !== image.key) throw new DrError('state-changed', `${name} is another image now`);
      if ([...target.world.names].filter(([, key]) => key === image.key).length < 2) throw new DrError('state-changed', `${name} is its only name`);
      target.change('take', nameless(name));
    },
    remove: async (image, identity) => {
      if (!target.world.names.has(image.name)) return await Promise.resolve();
      const { now, identity: bound } = ours(image);
      if (bound.set !== identity.set || bound.disk !== identity.disk) throw new DrError('state-changed', `${image.name} belongs to ${bound.set} now`);
      if (now.modified !== undefined) throw new DrError('image-modified', `${image.name} is modified`);
      target.change('remove', nameless(image.name));
    },
    markModified: async (image, why) => {
      const { key } = ours(image);
      target.changeImage('mark', key, why === undefined ? {} : { modified: why }, why === undefined ? ['modified'] : []);
      return Promise.resolve();
    },
    forgetOrigin: async (image) => Promise.resolve(target.changeImage('forget-origin', image.key, {}, ['origin'])),
    settle: async (image) => Promise.resolve(seen(image.name)),
    adopt: async (image, identity) => Promise.resolve(target.changeImage('adopt', image.key, { identity }, ['origin'])),
    tidy: async () => { await Promise.resolve(); },
    bound: async () => Promise.resolve(boundSets(target.list())),
  };
}

function memoryCatalog(target: MemoryTarget): Catalog {
  const retracted = new Map<SetId, string>();
  return {
    begin: async (intent) => {
      const before = target.world.intents.get(intent.set);
      if (before === undefined) target.change('intent', { intents: put(target.world.intents, intent.set, intent) });
      else if (!isDeepStrictEqual(before, intent)) throw new DrError('exists', `${intent.set} is recorded already`);
      return Promise.resolve();
    },
    intent: async (set) => Promise.resolve(target.world.intents.get(set)),
    manifest: async (set) => Promise.resolve(target.world.manifests.get(set)),
    complete: async (manifest) => {
      const before = target.world.manifests.get(manifest.set);
      if (before === undefined) target.change('manifest', { manifests: put(target.world.manifests, manifest.set, manifest) });
      else if (!isDeepStrictEqual(before, manifest)) throw new DrError('exists', `${manifest.set} has a manifest already`);
      return Promise.resolve();
    },
    amend: async (manifest) => Promise.resolve(target.change('amend', { manifests: put(target.world.manifests, manifest.set, manifest) })),
    retract: async (set, why) => {
      retracted.set(set, why);
      target.change('retract', { manifests: without(target.world.manifests, set) });
      return Promise.resolve();
    },
    retracted: async (set) => Promise.resolve(retracted.get(set)),
    sets: async (server) => Promise.resolve([...target.world.intents.values()].filter((intent) => server === undefined || intent.server === server).map(({ set }) => set)),
    directory: (set) => `/memory/.dr/sets/${set}`,
    digestsPath: (set, disk) => `/memory/.dr/sets/${set}/${disk}.digests`,
    forget: async (set) => {
      if (target.world.manifests.has(set)) target.change('forget-manifest', { manifests: without(target.world.manifests, set) });
      if (target.world.intents.has(set)) target.change('forget-intent', { intents: without(target.world.intents, set) });
      return Promise.resolve();
    },
  };
}

function memoryCurrent(target: MemoryTarget): CurrentLinks {
  return {
    read: async (server) => {
      const link = target.world.current.get(server);
      return Promise.resolve(link === undefined ? undefined : { set: link.set, slot: link.slot });
    },
    point: async (server, to) => {
      if (to === null) {
        if (target.world.current.has(server)) target.change('unlink', { current: without(target.world.current, server) });
        return await Promise.resolve();
      }
      const leads = Object.fromEntries(Object.entries(to.paths).map(([disk, path]) => {
        const name = path.slice('/memory/'.length);
        const key = target.world.names.get(name);
        if (key === undefined) throw new DrError('state-changed', `${path} is not there`);
        return [disk, target.kind === 'files' ? name : key];
      }));
      target.change('link', { current: put(target.world.current, server, { set: to.set, slot: to.slot, leads }) });
    },
  };
}
