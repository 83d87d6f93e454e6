import { askFrame } from './frames.js';
import { partsIn, PART_DIGEST_BYTES } from './delta.js';
import { lengthOf, type Geometry } from './geometry.js';
import { Refusal } from './refusals.js';
import type { WireWriter } from './wire.js';

/** Asking pays for both disks and processors when this share of the blocks' bytes need not be sent. */
const WORTH_IT = 0.25;
/** Where it does not pay, one of so many blocks is asked about all the same: the next part of the disk may be different. */
const TRY_EVERY = 16;
/** How much the latest answer counts. */
const LATEST = 0.2;

interface Open {
  readonly resolve: (digests: Buffer | undefined) => void;
  readonly reject: (error: Error) => void;
}

/** The sender's questions about the parts of blocks that differ, and whether they pay. */
export class Questions {
  readonly #disk: Geometry;
  readonly #wire: WireWriter;
  readonly #open = new Map<number, Open>();
  #saved = 1;
  #passedOver = 0;
  #failure: Error | undefined;

  constructor(disk: Geometry, wire: WireWriter) {
    this.#disk = disk;
    this.#wire = wire;
  }

  /** Whether to ask about the next block that differs. To be called once for each. */
  worthwhile(): boolean {
    this.#passedOver = this.#saved >= WORTH_IT || this.#passedOver + 1 >= TRY_EVERY ? 0 : this.#passedOver + 1;
    return this.#passedOver === 0;
  }

  /** The digests of the parts of the block that the destination holds; undefined if it can't read it. */
  async ask(index: number): Promise<Buffer | undefined> {
    if (this.#failure !== undefined) throw this.#failure;
    const answer = new Promise<Buffer | undefined>((resolve, reject) => { this.#open.set(index, { resolve, reject }); });
    this.#wire.send(askFrame(index)).catch(() => undefined); // a broken link ends everything
    return answer;
  }

  /** What the receiver answered. */
  answered(index: number, digests: Buffer): void {
    const open = this.#open.get(index);
    if (open === undefined) throw new Refusal('out-of-place', 'parts of a block that was not asked about');
    const due = partsIn(lengthOf(this.#disk, index), this.#disk.blockBytes) * PART_DIGEST_BYTES;
    if (digests.length !== 0 && digests.length !== due) throw new Refusal('frame-length', `parts of ${String(digests.length)} bytes`);
    this.#open.delete(index);
    open.resolve(digests.length === 0 ? undefined : digests);
  }

  /** What came of a question: this share of the block did not have to be sent. */
  learn(saved: number): void {
    this.#saved += (saved - this.#saved) * LATEST;
  }

  fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#open.values()) reject(this.#failure);
    this.#open.clear();
  }
}
