import { rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { ImageDigest } from '../model/image-set.js';
import { makeDirectory, readJson, removeDurable, writeDurable } from '../system/durable.js';
import { log } from '../system/log.js';
import { DigestFile } from './digest-file.js';
import { imageDigest } from './geometry.js';

/**
 * Block digests of a capture, kept on the source's host for the next one: a file of 32 bytes per block, and beside it `<file>.json`, which is
 * written last and makes it real.
 */
export interface DigestRecord {
  readonly version: 1;
  /** What the digests add up to; a file that doesn't is never believed. */
  readonly digest: ImageDigest;
  /** Bytes of the disk. */
  readonly bytes: number;
  /** RFC 3339; since then every block has been read at least once. */
  readonly readSince: string;
}

const recordPath = (path: string): string => `${path}.json`;

/** The record of kept digests; undefined if there is none that can be understood. */
export async function digestRecord(path: string): Promise<DigestRecord | undefined> {
  const found = await readJson(recordPath(path)).catch(() => undefined) as Partial<DigestRecord> | undefined; // damaged: as good as none
  if (found?.version !== 1 || typeof found.digest !== 'string' || typeof found.bytes !== 'number' || typeof found.readSince !== 'string') return undefined;
  return found as DigestRecord;
}

/** Removes kept digests; the record first, so that what is left after a death is nothing. */
export async function forgetDigests(path: string): Promise<void> {
  await removeDurable(recordPath(path));
  for (const each of [path, partPath(path)]) await removeDurable(each);
}

const partPath = (path: string): string => `${path}.part`;

/** Digests on their way to being kept. Keeping them is a convenience: what goes wrong with it is logged and fails nothing. */
export class DigestKeeper implements AsyncDisposable {
  readonly #path: string;
  #file: DigestFile | undefined;

  private constructor(path: string) {
    this.#path = path;
  }

  static async open(path: string): Promise<DigestKeeper> {
    const keeper = new DigestKeeper(path);
    await keeper.#try(async () => {
      await makeDirectory(dirname(path));
      keeper.#file = await DigestFile.create(partPath(path));
    });
    return keeper;
  }

  async add(digest: Buffer): Promise<void> {
    await this.#try(() => this.#file?.add(digest));
  }

  /** Keeps what was added, as the digests of a whole disk. */
  async keep(disk: Pick<DigestRecord, 'bytes' | 'readSince'>): Promise<void> {
    await this.#try(async () => {
      if (this.#file === undefined) return;
      const digest = imageDigest(await this.#file.finish());
      await rename(partPath(this.#path), this.#path);
      const record: DigestRecord = { version: 1, digest, ...disk };
      await writeDurable(recordPath(this.#path), JSON.stringify(record)); // syncs the directory, and so the new name with it
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.[Symbol.asyncDispose]();
    this.#file = undefined;
  }

  async #try(act: () => Promise<void> | undefined): Promise<void> {
    try {
      await act();
    } catch (error) {
      log.warn('the digests of this capture can\'t be kept; the next one reads the whole disk', { path: this.#path, error: String(error) });
      await this[Symbol.asyncDispose]().catch(() => undefined); // the first failure is the one to tell
    }
  }
}
