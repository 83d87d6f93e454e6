import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { InletWork } from './inlet-worker.js';
import { Refusal } from './refusals.js';
import type { WireSource } from './wire-source.js';

/** Bytes read ahead where it is not known yet what comes: enough for many small frames, and little of a block, which is copied from there. */
const AHEAD_BYTES = 16 * 1024;

/** Those with a read under way. */
const reading = new Set<Inlet>();

interface Waiting {
  readonly resolve: (bytes: number) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The way in from a link, by a thread that reads and waits for it: blocks go straight into the shared memory, and the event loop touches none of them. The
 * descriptor stays open. A read that hangs ends when whoever writes does.
 */
export class Inlet implements WireSource {
  readonly #worker: Worker;
  readonly #memory: SharedArrayBuffer;
  readonly #heard = new Int32Array(new SharedArrayBuffer(4));
  readonly #ahead = new Uint8Array(new SharedArrayBuffer(AHEAD_BYTES));
  #from = 0;
  #until = 0;
  #waiting: Waiting | undefined;
  #failure: Error | undefined;

  /** What `fill` is to fill lies in `memory`. */
  constructor(fd: number, memory: SharedArrayBuffer) {
    this.#memory = memory;
    const workerData: InletWork = { fd, memory, ahead: this.#ahead, heard: this.#heard };
    this.#worker = new Worker(new URL('./inlet-worker.js', import.meta.url), { workerData, trackUnmanagedFds: false });
    this.#worker.on('message', (told: number | string) => {
      if (typeof told === 'number') this.#settle()?.resolve(told);
      else this.#fail(new Refusal('truncated', told)); // a connection that was reset, or the like
    });
    this.#worker.on('error', (error) => { this.#fail(error); });
    this.#worker.on('exit', () => { this.#fail(new Error('the thread that reads from the link ended')); });
    this.#worker.unref(); // only a read that is waited for keeps the process alive
  }

  get heard(): number {
    return Atomics.load(this.#heard, 0);
  }

  /** Whether within this time none of them reads any more. The process can't end in the ordinary way before. */
  static async settled(milliseconds: number, inlets: ReadonlySet<Inlet> = reading): Promise<boolean> {
    for (const deadline = Date.now() + milliseconds; [...inlets].some((inlet) => reading.has(inlet));) {
      if (Date.now() >= deadline) return false;
      await sleep(5);
    }
    return true;
  }

  async take(most: number): Promise<Uint8Array | undefined> {
    if (this.#from === this.#until) {
      this.#until = await this.#read(undefined);
      this.#from = 0;
      if (this.#until === 0) return undefined;
    }
    const piece = this.#ahead.subarray(this.#from, Math.min(this.#until, this.#from + most));
    this.#from += piece.length;
    return piece;
  }

  fill(target: Uint8Array): Promise<number> | undefined {
    return target.buffer === this.#memory && target.length > AHEAD_BYTES && this.#from === this.#until ? this.#read({ at: target.byteOffset, length: target.length }) : undefined;
  }

  close(): void {
    this.#worker.unref();
  }

  #read(where: { readonly at: number; readonly length: number } | undefined): Promise<number> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      reading.add(this);
      this.#worker.ref();
      this.#worker.postMessage(where);
    });
  }

  #settle(): Waiting | undefined {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    reading.delete(this);
    this.#worker.unref();
    return waiting;
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#settle()?.reject(this.#failure);
  }
}
