/** Places on hosts, and what agents say of hosts. */

/** How data is read from a path: the path itself, and what knows which of its blocks are zero without reading. */
export interface DataSource {
  readonly path: string;
  readonly bytes: number;
  /** What `qemu-img map` is asked for zero extents: a file and its format, or an NBD URI. Absent: every block is read. */
  readonly zeroMap?: { readonly image: string; readonly format: string };
  /** Whether O_DIRECT reads are wanted (block devices and files; not FUSE exports on kernels that refuse them). */
  readonly direct: boolean;
  /** What spares reading all of it; checked by sampling before it is believed. */
  readonly hint?: ChangedHint;
  /** Where the digests of its blocks are kept for the next capture's hint, on its host, once it has been sent whole. */
  readonly keepDigests?: string;
  /** Where only those blocks are in it that the destination lacked. */
  readonly partial?: PartialContent;
}

/** What tells which blocks were left out of an image, and what they are; both are on its host. */
export interface PartialContent {
  /** Of the transfer that wrote it: its block digests are all known there. */
  readonly ticket: string;
  /** Path of the block digests of what the destination held: where both are the same the block was left out. */
  readonly base: string;
}

/** What is known of a disk from an earlier capture of it. Both are paths on its host. */
export interface ChangedHint {
  /** The block digests of that capture, with the record beside them that they must add up to. */
  readonly digests: string;
  /** JSON, `[[start, length], …]` in bytes: what may differ since. */
  readonly changed: string;
}

export interface CacheDrive {
  /** Device path, e.g. `/dev/sdb1`; its mount point's source if already mounted. */
  readonly device: string;
  readonly uuid: string;
  readonly fsType: string;
  readonly sizeBytes: number;
  readonly freeBytes: number;
  /** Where it is mounted now, if it is, with write access. */
  readonly mountPoint?: string;
}

export interface Space {
  readonly sizeBytes: number;
  readonly freeBytes: number;
  /** Where the store has several parts of which an image takes one: its volume groups or pools. */
  readonly parts?: readonly SpacePart[];
  /** What a person should know of it now. */
  readonly warnings?: readonly string[];
}

export interface SpacePart {
  /** `VG` or `VG/POOL` */
  readonly name: string;
  readonly freeBytes: number;
  /** Images take whole extents. */
  readonly extentBytes: number;
}

/** How a message to a person grades a finding of `dr check`. */
export interface Finding {
  readonly ok: boolean;
  /** `warning` does not change the exit status. */
  readonly level: 'ok' | 'warning' | 'error';
  readonly host: string;
  readonly what: string;
  /** What to do; empty when ok. */
  readonly remedy: string;
}
