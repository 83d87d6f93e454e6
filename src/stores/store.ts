import type { Space } from '../model/host.js';
import type { Manifest, SetId, SetIntent, StoredImage } from '../model/image-set.js';
import type { Slot } from '../model/names.js';

/** Binds an image to the capture it came from; lives on the image itself, so it follows every rename. */
export interface Identity {
  readonly set: SetId;
  readonly disk: string;
}

/**
 * A place where a target keeps images: it allocates, names, lists and removes them. It never reads or writes their content; that is
 * transfer's work, on `StoredImage.path`. Every change is durable when its promise resolves, and may be done again after a death.
 * Nothing here overwrites or removes what is not the image that was meant: each call looks again before it acts and throws
 * `not-ours`, `exists` or `state-changed`.
 */
export interface Store {
  /** As configured: `fs:/srv/dr`, `vg:a,b`. */
  readonly ref: string;
  /** Throws `store-unusable` with the reason if images can't be kept here (missing directory, tmpfs, no O_DIRECT, …). */
  check(): Promise<void>;
  space(): Promise<Space>;
  /** Everything whose name is an image's name, ours or not. */
  list(): Promise<StoredImage[]>;
  /**
   * Makes a new image under a free name, identity bound before the name appears. Where the store can share blocks it begins with the content of `like`, of which
   * nothing is said or believed: it is compared like any other. Throws `exists`, `no-space`.
   */
  allocate(name: string, bytes: number, identity: Identity, like?: StoredImage): Promise<StoredImage>;
  /** Changes the size; what is cut off is gone, what is added reads as zeros in a file system and as anything in LVM (the image's origin is `stale` or unknown then). */
  resize(image: StoredImage, bytes: number): Promise<StoredImage>;
  /**
   * Binds another capture identity to an image of ours. What it was bound to before is kept as its `origin` until the first write, so that
   * proven blocks can be recycled. Throws `image-modified` if it carries the mark.
   */
  bind(image: StoredImage, identity: Identity): Promise<void>;
  /**
   * First half of a rename: the image gets `name`. A file has both names then; a logical volume only the new one. Doing it again is
   * fine; a name that belongs to something else throws `exists`.
   */
  giveName(image: StoredImage, name: string): Promise<void>;
  /** Second half: `name` is taken from the image, provided it has another one. A name that is gone is fine. */
  takeName(image: StoredImage, name: string): Promise<void>;
  /** Removes an image of ours, with the identity given; one that is gone is fine. */
  remove(image: StoredImage, identity: Identity): Promise<void>;
  /** Durably marks an image as changed by hand, or clears the mark. */
  markModified(image: StoredImage, why: string | undefined): Promise<void>;
  /** Durably drops the note of what the image's content was (`origin`): to be called before anything is written into it. */
  forgetOrigin(image: StoredImage): Promise<void>;
  /** Makes what was written durable, and looks at the image again. */
  settle(image: StoredImage): Promise<StoredImage>;
  /** Binds an identity to an image that need not be ours, once its digests were found to be that set's (`dr verify --adopt`). */
  adopt(image: StoredImage, identity: Identity): Promise<void>;
  /** Removes what allocations that died left behind, and makes every image of ours accessible (a volume may be inactive). */
  tidy(): Promise<void>;
  /**
   * All sets that images are or were bound to, in this store and any other that shares its catalog: their records are still wanted. Throws `store-unusable`
   * if that can't be known now (a volume group is missing).
   */
  bound(): Promise<ReadonlySet<SetId>>;
}

/** What a target remembers of captures, by identity: intents, manifests, digests, attachments. */
export interface Catalog {
  /** Records that a set is going to be written. Doing it again with the same intent is fine. */
  begin(intent: SetIntent): Promise<void>;
  intent(set: SetId): Promise<SetIntent | undefined>;
  /** The proof, if the set is complete. Throws `manifest-damaged`. */
  manifest(set: SetId): Promise<Manifest | undefined>;
  /** Makes the set complete; created once, never replaced (except by `amend`). */
  complete(manifest: Manifest): Promise<void>;
  /** Puts a changed manifest in the old one's place (new `touched` after an adopted move, new `provenSince` after verify). */
  amend(manifest: Manifest): Promise<void>;
  /** Voids a proof: the manifest is set aside, the intent stays. */
  retract(set: SetId, why: string): Promise<void>;
  /** Why the set's proof was voided, if it was. */
  retracted(set: SetId): Promise<string | undefined>;
  /** All recorded sets, of one server if named. */
  sets(server?: string): Promise<SetId[]>;
  /** Where a set's digests, attachments and records are. */
  directory(set: SetId): string;
  digestsPath(set: SetId, disk: string): string;
  /** Forgets a set that has no image any more. */
  forget(set: SetId): Promise<void>;
}

/** The `current/<server>` links: what definitions point at. */
export interface CurrentLinks {
  /** The set and slot that the link leads to; undefined if there is none. Throws `not-ours` if something else has that name. */
  read(server: string): Promise<{ readonly set: SetId; readonly slot: Slot } | undefined>;
  /** Switches the link, for all disks at once, to paths that exist; null removes it. */
  point(server: string, to: { readonly set: SetId; readonly slot: Slot; readonly paths: Readonly<Record<string, string>> } | null): Promise<void>;
}
