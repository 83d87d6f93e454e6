import { readSync } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import { DIGEST_BYTES } from './geometry.js';

const WINDOW_BYTES = 2048 * DIGEST_BYTES;

/** A file of block digests, read in order a window at a time: memory does not grow with the disk. */
export class DigestWindow implements AsyncDisposable {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #window = Buffer.alloc(WINDOW_BYTES);
  #at = -1;
  #bytes = 0;

  private constructor(path: string, file: FileHandle) {
    this.#path = path;
    this.#file = file;
  }

  static async open(path: string): Promise<DigestWindow> {
    return new DigestWindow(path, await open(path, 'r'));
  }

  /** A copy of one block's digest; undefined behind the end of the file. Throws `source-failed`: it belongs to what is sent. */
  digest(index: number): Buffer | undefined {
    const offset = index * DIGEST_BYTES;
    const at = offset - offset % WINDOW_BYTES;
    if (at !== this.#at) {
      this.#bytes = this.#read(at);
      this.#at = at;
    }
    return offset - at + DIGEST_BYTES > this.#bytes ? undefined : Buffer.from(this.#window.subarray(offset - at, offset - at + DIGEST_BYTES));
  }

  #read(at: number): number {
    try {
      return readSync(this.#file.fd, this.#window, 0, WINDOW_BYTES, at);
    } catch (error) {
      throw new DrError('source-failed', `the block digests in ${this.#path} can't be read: ${error instanceof Error ? error.message : String(error)}`, 'Check the drive that holds them (kernel log).', { cause: error });
    }
  }

  /** The file from its beginning, in pieces that stay as they are until the next one is asked for. */
  async *pieces(): AsyncGenerator<Buffer> {
    const buffer = Buffer.alloc(WINDOW_BYTES);
    for (let at = 0;;) {
      const { bytesRead } = await this.#file.read(buffer, 0, WINDOW_BYTES, at);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
      at += bytesRead;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}
