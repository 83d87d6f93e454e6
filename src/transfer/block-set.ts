import type { Geometry } from './geometry.js';

/** A set of a disk's blocks, one bit each, made of ranges in bytes. */
export class BlockSet {
  readonly #disk: Geometry;
  readonly #bits: Uint8Array;

  constructor(disk: Geometry) {
    this.#disk = disk;
    this.#bits = new Uint8Array(Math.ceil(disk.blocks / 8));
  }

  /** Adds the blocks that lie wholly inside the range. The disk's end is the last block's end, however short that is. */
  addInside(start: number, length: number): void {
    const { blockBytes, bytes, blocks } = this.#disk;
    this.#add(Math.ceil(start / blockBytes), start + length >= bytes ? blocks : Math.floor((start + length) / blockBytes));
  }

  /** Adds every block of which a byte lies in the range; the range may go past the disk's end. */
  addTouched(start: number, length: number): void {
    const { blockBytes, blocks } = this.#disk;
    if (length > 0) this.#add(Math.floor(start / blockBytes), Math.min(blocks, Math.ceil((start + length) / blockBytes)));
  }

  has(index: number): boolean {
    return ((this.#bits[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
  }

  /** How many blocks from `first` on are in it one after the other, up to `most`. */
  runFrom(first: number, most: number): number {
    let count = 0;
    while (count < most && first + count < this.#disk.blocks && this.has(first + count)) count += 1;
    return count;
  }

  #add(first: number, end: number): void {
    for (let index = first; index < end; index++) this.#bits[index >> 3] = (this.#bits[index >> 3] ?? 0) | (1 << (index & 7));
  }
}
