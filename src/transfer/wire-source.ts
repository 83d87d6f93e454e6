import type { Readable } from 'node:stream';

/** Where the bytes of a wire come from. One call at a time. */
export interface WireSource {
  /** Becomes another number whenever something arrives. */
  readonly heard: number;
  /** Bytes that arrived, at least one and at most `most`, in memory that stays as it is until the next call; undefined at the end. */
  take(most: number): Promise<Uint8Array | undefined>;
  /** Fills `target`, or as much of it as came before the end: how many bytes that was. Undefined, and nothing was done, where `take` must do. */
  fill(target: Uint8Array): Promise<number> | undefined;
  close(): void;
}

/** Bytes that may wait in memory before the stream is told to stop. */
const HIGH_WATER = 1024 * 1024;

/** From one of node's streams, with bounded memory. */
export class StreamSource implements WireSource {
  heard = 0;
  readonly #stream: Readable;
  readonly #chunks: Buffer[] = [];
  #queued = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(stream: Readable) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => {
      if (chunk.length === 0) return; // that would be the end
      this.#chunks.push(chunk);
      this.#queued += chunk.length;
      this.heard += 1;
      if (this.#queued > HIGH_WATER) stream.pause();
      this.#wake?.();
    });
    const end = (): void => { this.#ended = true; this.#wake?.(); };
    stream.once('end', end);
    stream.once('close', end);
    stream.once('error', end); // a broken pipe is an early end; who reads finds out
  }

  async take(most: number): Promise<Uint8Array | undefined> {
    for (;;) {
      const chunk = this.#chunks[0];
      if (chunk !== undefined) {
        const piece = chunk.subarray(0, most);
        if (piece.length === chunk.length) this.#chunks.shift();
        else this.#chunks[0] = chunk.subarray(most);
        this.#queued -= piece.length;
        if (this.#queued <= HIGH_WATER / 2 && this.#stream.isPaused()) this.#stream.resume();
        return piece;
      }
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = () => { this.#wake = undefined; resolve(); };
      });
    }
  }

  fill(): undefined {
    return undefined;
  }

  close(): void {
    this.#stream.destroy();
  }
}
