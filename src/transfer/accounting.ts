import { patchBytes } from './delta.js';
import { ASK_MAX, isPacked, type BlockFrame, type Counts, type Run } from './frames.js';
import { lengthOf, type Geometry } from './geometry.js';
import { Refusal } from './refusals.js';

/** Sees to it that every block is answered exactly once and in order, and asked about before that if at all. The bytes themselves are somebody else's. */
export class Accounting {
  readonly #disk: Geometry;
  #next = 0;
  #same = 0;
  #zero = 0;
  #data = 0;
  /** Blocks that were asked about and are not answered yet. */
  readonly #asked = new Set<number>();
  #lastAsked = -1;

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
    this.#answered(count);
    if (kind === 'same') this.#same += count;
    else this.#zero += count;
  }

  /** Accepts a question about a block. */
  ask(index: number, offered: number): void {
    if (index <= this.#lastAsked || index < this.#next) throw new Refusal('duplicate', `block ${String(index)} was asked about`);
    if (index >= offered) throw new Refusal('not-offered', `${String(index)}, offered were ${String(offered)}`);
    if (this.#asked.size >= ASK_MAX) throw new Refusal('lookahead', `more than ${String(ASK_MAX)} questions`);
    this.#asked.add(index);
    this.#lastAsked = index;
  }

  /** Accepts so many bytes of a block, or of the parts on its map; packed they must be fewer. */
  data(type: BlockFrame, index: number, length: number, map?: Uint8Array): void {
    this.#inOrder(index);
    const whole = lengthOf(this.#disk, index);
    if (map !== undefined && !this.#asked.has(index)) throw new Refusal('patch', `block ${String(index)} was not asked about`);
    const expected = map === undefined ? whole : patchBytes(map, whole, this.#disk.blockBytes);
    if (expected === undefined) throw new Refusal('patch', `block ${String(index)}`);
    const packed = isPacked(type);
    if (packed ? length >= expected : length !== expected) throw new Refusal('block-length', `block ${String(index)} has ${String(length)} bytes${packed ? ', packed,' : ''} instead of ${String(expected)}`);
    this.#answered(1);
    this.#data += 1;
  }

  /** Accepts the end only when nothing is missing. */
  end(counts: Counts): void {
    if (this.#next !== this.#disk.blocks) throw new Refusal('gap', `the end came after ${String(this.#next)} of ${String(this.#disk.blocks)} blocks`);
    const mine = this.counts;
    if (counts.same !== mine.same || counts.zero !== mine.zero || counts.data !== mine.data) throw new Refusal('counts');
  }

  #answered(count: number): void {
    const next = this.#next + count;
    for (const index of this.#asked) if (index < next) this.#asked.delete(index);
    this.#next = next;
  }

  #inOrder(index: number): void {
    if (index < this.#next) throw new Refusal('duplicate', `block ${String(index)}`);
    if (index >= this.#disk.blocks) throw new Refusal('range', `block ${String(index)} of ${String(this.#disk.blocks)}`);
    if (index > this.#next) throw new Refusal('gap', `block ${String(index)} came instead of ${String(this.#next)}`);
  }
}
