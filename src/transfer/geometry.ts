import { createHash, hash } from 'node:crypto';
import type { ImageDigest } from '../model/image-set.js';

/** How a disk is cut into blocks, and how blocks and images are digested. */

/** Bytes of a block. The last block of a disk may be shorter; it is digested unpadded. */
export const BLOCK_BYTES = 1024 * 1024;

/** Bytes of a SHA-256. */
export const DIGEST_BYTES = 32;

/** O_DIRECT wants offsets, lengths and addresses in multiples of the device's sector; 4096 suits all. */
export const SECTOR_BYTES = 4096;

export interface Geometry {
  readonly bytes: number;
  readonly blockBytes: number;
  readonly blocks: number;
}

/** `blockBytes` is a multiple of the sector; other values than the default are for tests. */
export function geometry(bytes: number, blockBytes: number = BLOCK_BYTES): Geometry {
  return { bytes, blockBytes, blocks: Math.ceil(bytes / blockBytes) };
}

/** Bytes of the block with this index. */
export function lengthOf(disk: Geometry, index: number): number {
  return Math.min(disk.blockBytes, disk.bytes - index * disk.blockBytes);
}

export function digestOf(bytes: Uint8Array): Buffer {
  return hash('sha256', bytes, 'buffer');
}

/** The digests of this disk's blocks where they are all zero. */
export function zeroDigests(disk: Geometry): (index: number) => Buffer {
  const whole = digestOf(Buffer.alloc(disk.blockBytes));
  const last = disk.blocks === 0 ? whole : digestOf(Buffer.alloc(lengthOf(disk, disk.blocks - 1)));
  return (index) => index === disk.blocks - 1 ? last : whole;
}

/** The digest of an image, built from its blocks' digests in order. */
export class ImageHash {
  readonly #hash = createHash('sha256');

  add(digests: Uint8Array): void {
    this.#hash.update(digests);
  }

  /** Ends the building; to be called once. */
  finish(): Buffer {
    return this.#hash.digest();
  }
}

/** As people and manifests see it: with the block size it was built with. */
export function imageDigest(digest: Uint8Array): ImageDigest {
  return `sha256-1MiB:${Buffer.from(digest).toString('hex')}`;
}
