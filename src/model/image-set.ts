import type { Slot } from './names.js';

/** Capture identity: names one capture of one server for ever. `<UTC time>-<random>`, e.g. `20261120T020000Z-5f0c12ab9e34d7c1`. */
export type SetId = string;

export function newSetId(now: Date, random: string): SetId {
  return `${now.toISOString().replace(/[-:]/g, '').replace(/\.\d+/, '')}-${random}`;
}

export const SET_ID = /^\d{8}T\d{6}Z-[0-9a-f]{16}$/;

/** `sha256-1MiB:<hex>`: the SHA-256 of the block digests in order (last block unpadded), with the block size. */
export type ImageDigest = string;

/** Evidence that nobody wrote to an image since its proof. A hint: anything else means reading it again. */
export type Touched = TouchedFile | TouchedVolume;

export interface TouchedFile {
  readonly inode: string;
  readonly bytes: number;
  /** Modification time in nanoseconds, decimal. */
  readonly mtime: string;
}

export interface TouchedVolume {
  /** The logical volume's UUID. */
  readonly volume: string;
  /** The volume's size, slack included. */
  readonly bytes: number;
  /** What the kernel counted since the volume was activated; absent while it is not. */
  readonly counted?: undefined | { readonly boot: string;
    /** Names one activation of one device for as long as the host is up (`diskseq`). */
    readonly device: string;
    /** Writes and discards, decimal. */
    readonly writes: string };
}

/** The proof of one image, as written into the manifest. */
export interface DiskProof {
  /** The disk's name in image names. */
  readonly disk: string;
  /** The device name in the definition (`vda`). */
  readonly target: string;
  readonly bytes: number;
  readonly digest: ImageDigest;
  /** `device`: every block was read back past the page cache. `cached`: the store can't do that. */
  readonly proof: 'device' | 'cached';
  /** RFC 3339: when the oldest of its blocks was last proven. */
  readonly provenSince: string;
  readonly touched: Touched;
}

/** What a capture was, before and after it is proven. */
export interface SetIntent {
  readonly version: 1;
  readonly set: SetId;
  /** Counts up per server and store, so that order never depends on clocks. */
  readonly generation: number;
  readonly anvil: string;
  readonly job: string;
  readonly server: string;
  readonly uuid: string;
  readonly node: string;
  /** ssh destinations of the Anvil's nodes: on disaster day the target asks them whether the original is alive. */
  readonly nodes?: readonly string[] | undefined;
  readonly capture: 'cold' | 'live';
  /** Whether file systems were at rest: the server was off, its guest agent froze them, or neither. */
  readonly consistency: 'clean' | 'frozen' | 'crash';
  /** RFC 3339: the instant all disks were taken at. */
  readonly capturedAt: string;
  /** The disks of the set, in the definition's order. */
  readonly disks: readonly { readonly disk: string; readonly target: string; readonly bytes: number }[];
}

/** A manifest makes an image set complete: it exists only after every block of every disk was proven. */
export interface Manifest extends Omit<SetIntent, 'disks'> {
  readonly completedAt: string;
  readonly disks: readonly DiskProof[];
  /** SHA-256 of the attachments kept beside the manifest (`definition.xml`, `nvram`, `tpm.tar`). */
  readonly attachments: Readonly<Record<string, string>>;
}

/** One image as the store lists it. Names follow the listing, proofs follow the identity bound to the image. */
export interface StoredImage {
  /** Name without the store's suffix, e.g. `Web01_root_1`. */
  readonly name: string;
  /** `<server>_<disk>` */
  readonly base: string;
  readonly slot: Slot;
  /** Where it is read or written on the target. */
  readonly path: string;
  readonly bytes: number;
  /** What it occupies by itself, and need not be found anew when it is overwritten: 0 where it may share blocks with another image. */
  readonly allocatedBytes: number;
  /** In which part of the store it is, where there are several (`SpacePart.name`). */
  readonly part?: string;
  /** Two names with the same key are one image (a rename was interrupted). */
  readonly key: string;
  /** The capture identity bound to the image itself; absent if dr-engine did not make it. */
  readonly identity?: { readonly set: SetId; readonly disk: string };
  readonly touched: Touched;
  /** The kernel counted somebody who has it open, when it was listed; for volumes only. */
  readonly open?: boolean;
  /** Set when it was booted or changed by hand: when, and how that is known. */
  readonly modified?: string;
  /**
   * What the content was when the identity was bound, as long as nothing was written since: zeros of a new image (`fresh`), whatever lay on the
   * disks before a new volume (`stale`), or another set's image. Absent: unknown.
   */
  readonly origin?: 'fresh' | 'stale' | { readonly set: SetId; readonly disk: string };
}

/** The sets that images are bound to, or were before the first write: their records are still wanted. */
export function boundSets(images: readonly Pick<StoredImage, 'identity' | 'origin'>[]): ReadonlySet<SetId> {
  return new Set(images.flatMap(({ identity, origin }) => [identity?.set ?? [], typeof origin === 'object' ? origin.set : []].flat()));
}

/** What is known of one image after manifests, marks and openers have been looked at. */
export type ImageState =
  | 'proven'     // part of a complete set, untouched since
  | 'partial'    // ours, being written or left by a run that died
  | 'unproven'   // ours, but its set has no usable manifest
  | 'modified'   // booted or changed since its proof
  | 'foreign';   // not ours, or another Anvil's or domain's
