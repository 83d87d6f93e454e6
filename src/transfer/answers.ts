import { endFrame, LOOKAHEAD, runFrame } from './frames.js';
import type { WireWriter } from './wire.js';

/** A run that is not told for longer would let the receiver's offers dry up. */
const RUN_MAX = LOOKAHEAD / 4;

/** A block on its way out. */
export interface Outgoing {
  /** Header and prefix of its frame. */
  readonly prefix: Buffer;
  readonly bytes: Uint8Array;
  /** Called when the memory can be used again. */
  readonly out: () => void;
}

/** An answer that waits for an earlier one, or is being prepared. */
type Waiting = Run | { readonly kind: 'block'; block: Outgoing | undefined };

interface Run {
  readonly kind: 'same' | 'zero';
  readonly first: number;
  count: number;
}

/** The sender's answers on their way out, in the order of the calls: neighbours that are the same or zero go in one frame. */
export class Answers {
  readonly #wire: WireWriter;
  readonly #failed: (error: Error) => void;
  #waiting: Waiting[] = [];
  #draining = false;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;
  #run: Run | undefined;
  #same = 0;
  #zero = 0;
  #data = 0;

  /** `failed` is told when an answer could not be written out; the calls that follow fail too. */
  constructor(wire: WireWriter, failed: (error: Error) => void) {
    this.#wire = wire;
    this.#failed = failed;
  }

  /** Says that a block is the same, or zero. Nothing to wait for mostly, which counts where there are millions of blocks. */
  run(kind: 'same' | 'zero', index: number): Promise<void> | undefined {
    const last = this.#waiting.at(-1);
    if (last === undefined) return this.#collect(kind, index, 1);
    // Behind a block that is being prepared there may be millions of zeros.
    if (last.kind === kind && last.count < RUN_MAX && !(this.#draining && this.#waiting.length === 1)) last.count += 1;
    else this.#waiting.push({ kind, first: index, count: 1 });
    return undefined;
  }

  /** Sends a block, when it is ready. Resolves before it is out. A rejection is the caller's to tell of. */
  async block(ready: Outgoing | Promise<Outgoing>): Promise<void> {
    if (!(ready instanceof Promise) && this.#waiting.length === 0) {
      await this.#send(ready);
      return;
    }
    const waiting: Waiting = { kind: 'block', block: ready instanceof Promise ? undefined : ready };
    this.#waiting.push(waiting);
    if (!(ready instanceof Promise)) return;
    ready.then((block) => {
      waiting.block = block;
      void this.#drain();
    }, (error: unknown) => { this.#fail(error); });
  }

  /** Resolves when everything that was said before has been given to the wire. */
  async flush(): Promise<void> {
    while (this.#waiting.length > 0 && this.#failure === undefined) {
      await new Promise<void>((resolve) => { this.#wake = resolve; });
    }
    if (this.#failure !== undefined) throw this.#failure;
    await this.#tellRun();
  }

  async end(total: Uint8Array): Promise<void> {
    await this.flush();
    await this.#wire.send(endFrame({ same: this.#same, zero: this.#zero, data: this.#data }, total));
  }

  /** Says what has waited, as far as it is ready. What is said meanwhile waits behind it. */
  async #drain(): Promise<void> {
    if (this.#draining) return;
    this.#draining = true;
    try {
      for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
        if (next.kind !== 'block') await this.#collect(next.kind, next.first, next.count);
        else if (next.block !== undefined) await this.#send(next.block);
        else break;
        this.#waiting.shift();
      }
    } catch (error) {
      this.#fail(error);
      this.#failed(this.#failure ?? new Error(String(error)));
    }
    this.#draining = false;
    if (this.#waiting.length === 0) this.#wake?.();
  }

  #fail(error: unknown): void {
    this.#failure ??= error instanceof Error ? error : new Error(String(error));
    this.#wake?.();
  }

  #collect(kind: 'same' | 'zero', first: number, count: number): Promise<void> | undefined {
    if (kind === 'same') this.#same += count;
    else this.#zero += count;
    const run = this.#run;
    if (run?.kind === kind && run.count + count <= RUN_MAX) {
      run.count += count;
      return undefined;
    }
    const told = this.#tellRun();
    this.#run = { kind, first, count };
    return told;
  }

  async #send({ prefix, bytes, out }: Outgoing): Promise<void> {
    await this.#tellRun();
    this.#data += 1;
    this.#wire.block(prefix, bytes).then(out, this.#failed);
  }

  #tellRun(): Promise<void> | undefined {
    const run = this.#run;
    this.#run = undefined;
    return run === undefined ? undefined : this.#wire.send(runFrame(run.kind, run));
  }
}
