import { LOOKAHEAD } from './frames.js';
import { DIGEST_BYTES } from './geometry.js';
import { Refusal } from './refusals.js';

/** The digests of what the destination holds, as they arrive at the sender. Bounded, because the receiver waits for answers. */
export class Comparison {
  readonly #blocks: number;
  readonly #window = Buffer.alloc(2 * LOOKAHEAD * DIGEST_BYTES);
  #from = 0;
  #until = 0;
  #expected: boolean | undefined;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(blocks: number) {
    this.#blocks = blocks;
  }

  /** The receiver is ready: digests will come, or it holds nothing. */
  ready(compare: boolean): void {
    if (this.#expected !== undefined) throw new Refusal('out-of-place', 'ready');
    this.#expected = compare;
    this.#wake?.();
  }

  add(first: number, digests: Buffer): void {
    const count = digests.length / DIGEST_BYTES;
    if (this.#expected !== true) throw new Refusal('out-of-place', 'have');
    if (first !== this.#until || first + count > this.#blocks || first + count - this.#from > 2 * LOOKAHEAD) throw new Refusal('lookahead');
    for (let index = 0; index < count; index++) {
      digests.copy(this.#window, (first + index) % (2 * LOOKAHEAD) * DIGEST_BYTES, index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
    }
    this.#until += count;
    this.#wake?.();
  }

  fail(error: Error): void {
    this.#failure ??= error;
    this.#wake?.();
  }

  /** Whether the destination holds anything to compare with. Known from its first word on. */
  get compares(): boolean {
    return this.#expected === true;
  }

  /** Whether what is held at `index` is known now. */
  knows(index: number): boolean {
    return this.#expected === false || index < this.#until;
  }

  /** Resolves when that is known. */
  async known(index: number): Promise<void> {
    while (this.#failure === undefined && (this.#expected === undefined || !this.knows(index))) {
      await new Promise<void>((resolve) => {
        this.#wake = () => { this.#wake = undefined; resolve(); };
      });
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Whether the destination holds exactly this block, which is known and not yet answered. */
  matches(index: number, digest: Buffer): boolean {
    const at = index % (2 * LOOKAHEAD) * DIGEST_BYTES;
    return this.#expected !== false && this.#window.compare(digest, 0, DIGEST_BYTES, at, at + DIGEST_BYTES) === 0;
  }

  /** The same, of a block that is answered with this: in order, each once. Throws why nothing more will be known, if that is so. */
  holds(index: number, digest: Buffer): boolean {
    if (this.#failure !== undefined) throw this.#failure;
    this.#from = index + 1;
    return this.matches(index, digest);
  }
}
