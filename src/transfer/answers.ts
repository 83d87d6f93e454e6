import { dataPrefix, endFrame, LOOKAHEAD, runFrame } from './frames.js';
import type { WireWriter } from './wire.js';

/** A run that is not told for longer would let the receiver's offers dry up. */
const RUN_MAX = LOOKAHEAD / 4;

/** The sender's answers on their way out: neighbours that are the same or zero go in one frame. */
export class Answers {
  readonly #wire: WireWriter;
  readonly #failed: (error: Error) => void;
  #run: { readonly kind: 'same' | 'zero'; readonly first: number; count: number } | undefined;
  #same = 0;
  #zero = 0;
  #data = 0;

  /** `failed` is told when a block could not be written out; the calls that follow fail too. */
  constructor(wire: WireWriter, failed: (error: Error) => void) {
    this.#wire = wire;
    this.#failed = failed;
  }

  /** Says that a block is the same, or zero. Nothing to wait for mostly, which counts where there are millions of blocks. */
  run(kind: 'same' | 'zero', index: number): Promise<void> | undefined {
    if (kind === 'same') this.#same += 1;
    else this.#zero += 1;
    const run = this.#run;
    if (run?.kind === kind && run.count < RUN_MAX) {
      run.count += 1;
      return undefined;
    }
    this.#run = { kind, first: index, count: 1 };
    return run === undefined ? undefined : this.#tell(run);
  }

  /** Sends a block, or what it was packed into. Resolves before it is out; `out` is called when its memory can be used again. */
  async data(type: 'data' | 'packed', index: number, digest: Buffer, bytes: Buffer, out: () => void): Promise<void> {
    await this.flush();
    this.#data += 1;
    this.#wire.send(dataPrefix(type, index, digest, bytes.length), bytes).then(out, this.#failed);
  }

  /** Sends what is being collected. */
  async flush(): Promise<void> {
    const run = this.#run;
    this.#run = undefined;
    if (run !== undefined) await this.#tell(run);
  }

  #tell(run: { readonly kind: 'same' | 'zero'; readonly first: number; readonly count: number }): Promise<void> {
    return this.#wire.send(runFrame(run.kind, run));
  }

  async end(total: Uint8Array): Promise<void> {
    await this.flush();
    await this.#wire.send(endFrame({ same: this.#same, zero: this.#zero, data: this.#data }, total));
  }
}
