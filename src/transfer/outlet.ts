import { Writable } from 'node:stream';
import { Worker } from 'node:worker_threads';
import type { Piece } from './outlet-worker.js';

/**
 * The way out to a link, by a thread that writes and waits for it: blocks in the shared memory are neither copied nor touched by the event loop. Takes
 * over the descriptor. A write that hangs ends when whoever reads the pipe does.
 */
export class Outlet extends Writable {
  readonly #worker: Worker;
  readonly #memory: SharedArrayBuffer;
  #told: ((error: Error | null) => void) | undefined;

  constructor(fd: number, memory: SharedArrayBuffer) {
    super({ decodeStrings: false });
    this.#memory = memory;
    this.#worker = new Worker(new URL('./outlet-worker.js', import.meta.url), { workerData: { fd, memory }, trackUnmanagedFds: false });
    const tell = (error: Error | null): void => {
      const told = this.#told;
      this.#told = undefined;
      told?.(error);
    };
    this.#worker.on('message', (error: string | null) => { tell(error === null ? null : new Error(error)); });
    this.#worker.on('error', tell);
    this.#worker.on('exit', () => { tell(new Error('the thread that writes to the link ended')); });
    this.#worker.unref(); // whoever reads the pipe keeps us alive
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    this.#give([this.#piece(chunk)], done);
  }

  override _writev(chunks: { readonly chunk: Uint8Array }[], done: (error?: Error | null) => void): void {
    this.#give(chunks.map(({ chunk }) => this.#piece(chunk)), done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#give([], done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    // After what is being written, if anything is; the pipe's other end sees the end of it then.
    if (!this.writableFinished) this.#worker.postMessage([]);
    done(error);
  }

  #piece(chunk: Uint8Array): Piece {
    return chunk.buffer === this.#memory ? { at: chunk.byteOffset, length: chunk.length } : chunk;
  }

  #give(pieces: readonly Piece[], done: (error: Error | null) => void): void {
    this.#told = done;
    this.#worker.postMessage(pieces);
  }
}
