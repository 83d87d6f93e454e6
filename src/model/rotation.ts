import type { ImageState, ImageDigest, SetId, SetIntent, StoredImage } from './image-set.js';
import type { Slot } from './names.js';

/** What planning a rotation sees of one server on one target, and the steps it answers with. */

export interface ImageSeen extends StoredImage {
  readonly server: string;
  readonly disk: string;
  readonly state: ImageState;
  /** Why the state is what it is, for people (`booted by hand 2026-11-20T…`, `belongs to Anvil an-a02`). */
  readonly because?: string;
  /** Who has it open, for people; absent if nobody. */
  readonly inUse?: string;
  /** From the manifest or the intent of its set. */
  readonly generation?: number;
  readonly capturedAt?: string;
  readonly digest?: ImageDigest;
  /** All disks of its set, from the manifest or else the intent: a set of which one is missing is no set. Absent if neither is there. */
  readonly setDisks?: readonly string[];
}

export interface ServerOnTarget {
  readonly server: string;
  readonly images: readonly ImageSeen[];
  /** Names that a rotation of this server would need and that something else occupies, with what is known of it. */
  readonly foreign: readonly { readonly name: string; readonly because: string }[];
  /** The set that `current/<server>` points at, and under which slot's names; absent if the link does not exist. */
  readonly current?: { readonly set: SetId; readonly slot: Slot };
  /** Set when dr-activate or an admin booted this server here and nobody released it. */
  readonly activated?: string;
  /** Highest generation ever begun for this server in this store. */
  readonly generation: number;
}

export interface WantedDisk {
  readonly disk: string;
  readonly target: string;
  readonly bytes: number;
}

/**
 * One step of a rotation. Names are moved for all disks of a set in one step: new names are given, `current` is switched if it
 * points at the set, old names are taken. Each step may be begun again after a death anywhere inside it.
 */
export type RotationStep =
  | { readonly kind: 'move'; readonly set: SetId; readonly from: Slot; readonly to: Slot; readonly disks: readonly string[] }
  /** Point `current` at a whole set (or at nothing, before the only copy is overwritten). */
  | { readonly kind: 'point-current'; readonly set: SetId | null; readonly slot: Slot }
  /** Record the intent, and bind the capture identity to every `incomplete` image of the server: from here the old proof is void. */
  | { readonly kind: 'begin'; readonly intent: SetIntent;
      /** The `incomplete` images that are used again, and the set that each is bound to now. */
      readonly recycle: readonly { readonly disk: string; readonly set: SetId }[] }
  | { readonly kind: 'allocate'; readonly set: SetId; readonly disk: string; readonly bytes: number }
  /** Of an `incomplete` image that is bound to the set being written. */
  | { readonly kind: 'resize'; readonly set: SetId; readonly disk: string; readonly bytes: number }
  /** Remove one of our images: a disk that is gone, or a surplus set. */
  | { readonly kind: 'remove'; readonly set: SetId; readonly disk: string; readonly slot: Slot };

export type RotationPlan =
  | { readonly kind: 'plan'; readonly steps: readonly RotationStep[];
      /** Additional bytes the steps and the writing will need at most: new images in full, recycled ones up to their size. */
      readonly needsBytes: number }
  | { readonly kind: 'refusal'; readonly code: 'foreign-image' | 'image-in-use' | 'image-modified' | 'only-copy' | 'state-changed'; readonly reason: string; readonly remedy: string };
