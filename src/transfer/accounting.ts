import type { Counts, Run } from './frames.js';
import { lengthOf, type Geometry } from './geometry.js';
import { Refusal } from './refusals.js';

/** Sees to it that every block is answered exactly once and in order. The bytes themselves are somebody else's. */
export class Accounting {
  readonly #disk: Geometry;
  #next = 0;
  #same = 0;
  #zero = 0;
  #data = 0;

  constructor(disk: Geometry) {
    this.#disk = disk;
  }

  /** Index of the block that must be answered next; equals the number of blocks when all are. */
  get next(): number {
    return this.#next;
  }

  get counts(): Counts {
    return { same: this.#same, zero: this.#zero, data: this.#data };
  }

  /** Accepts a run. `offered` is how many blocks' digests have been given to the sender so far. */
  run(kind: 'same' | 'zero', { first, count }: Run, offered: number): void {
    this.#inOrder(first);
    if (count < 1 || count > this.#disk.blocks - first) throw new Refusal('range', `${String(count)} from ${String(first)} of ${String(this.#disk.blocks)}`);
    if (kind === 'same' && first + count > offered) throw new Refusal('not-offered', `up to ${String(first + count - 1)}, offered were ${String(offered)}`);
    this.#next += count;
    if (kind === 'same') this.#same += count;
    else this.#zero += count;
  }

  /** Accepts a block of so many bytes, or one packed into so many: then they must be fewer. */
  data(type: 'data' | 'packed', index: number, length: number): void {
    this.#inOrder(index);
    const expected = lengthOf(this.#disk, index);
    if (type === 'data' ? length !== expected : length >= expected) throw new Refusal('block-length', `block ${String(index)} has ${String(length)} bytes${type === 'data' ? '' : ', packed,'} instead of ${String(expected)}`);
    this.#next += 1;
    this.#data += 1;
  }

  /** Accepts the end only when nothing is missing. */
  end(counts: Counts): void {
    if (this.#next !== this.#disk.blocks) throw new Refusal('gap', `the end came after ${String(this.#next)} of ${String(this.#disk.blocks)} blocks`);
    const mine = this.counts;
    if (counts.same !== mine.same || counts.zero !== mine.zero || counts.data !== mine.data) throw new Refusal('counts');
  }

  #inOrder(index: number): void {
    if (index < this.#next) throw new Refusal('duplicate', `block ${String(index)}`);
    if (index >= this.#disk.blocks) throw new Refusal('range', `block ${String(index)} of ${String(this.#disk.blocks)}`);
    if (index > this.#next) throw new Refusal('gap', `block ${String(index)} came instead of ${String(this.#next)}`);
  }
}
