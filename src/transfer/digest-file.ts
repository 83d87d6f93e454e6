import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncDirectory } from '../system/durable.js';
import { ImageHash } from './geometry.js';

const BUFFER_BYTES = 64 * 1024;

/** The block digests of an image on their way into a file, in order: memory does not grow with the disk. */
export class DigestFile implements AsyncDisposable {
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #hash = new ImageHash();
  #buffered: Buffer[] = [];
  #bytes = 0;

  private constructor(path: string, handle: FileHandle) {
    this.#path = path;
    this.#handle = handle;
  }

  /** Begins anew; what an earlier receiver left is void. */
  static async create(path: string): Promise<DigestFile> {
    return new DigestFile(path, await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600));
  }

  async add(digests: Buffer): Promise<void> {
    this.#hash.add(digests);
    this.#buffered.push(digests);
    this.#bytes += digests.length;
    if (this.#bytes >= BUFFER_BYTES) await this.#flush();
  }

  /** The image's digest; the file is durable. To be called once. */
  async finish(): Promise<Buffer> {
    await this.#flush();
    await this.#handle.sync();
    await syncDirectory(dirname(this.#path));
    return this.#hash.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }

  async #flush(): Promise<void> {
    const bytes = Buffer.concat(this.#buffered);
    this.#buffered = [];
    this.#bytes = 0;
    await this.#handle.writeFile(bytes); // appends where the last one ended
  }
}
