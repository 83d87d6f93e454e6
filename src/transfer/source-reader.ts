import type { DataSource } from '../model/host.js';
import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { zeroExtents } from '../system/qemu.js';
import type { BlockPool, Slot } from './block-pool.js';
import { BlockSet } from './block-set.js';
import { hintFailure, leftOut, notAsCaptured, sourceFailure } from './failures.js';
import { geometry, lengthOf, zeroDigests, type Geometry } from './geometry.js';
import { openToRead, type OpenedFile } from './image-file.js';
import { digestRecord, forgetDigests } from './kept-digests.js';
import { PartialImage } from './partial-image.js';
import { HintDoubted, UnchangedBlocks, type KnownBlock } from './unchanged-blocks.js';

/** Blocks of the source, in order. Some are known without having been read: either zero, or such as the destination holds already. */
export type SourcePiece =
  | { readonly kind: 'known'; readonly first: number; readonly count: number; readonly digest: (index: number) => Buffer }
  | { readonly kind: 'block'; readonly index: number; readonly digest: Buffer; readonly slot: Slot };

/** What the destination is known to hold, so that a block that is not read need not be sent. */
export interface Held {
  knows(index: number): boolean;
  matches(index: number, digest: Buffer): boolean;
  /** Resolves when it knows. */
  known(index: number): Promise<void>;
}

/** A longer run of known zeros is given out in parts. */
const RUN_MAX = 4096;
/** Pieces that may wait for their turn. */
const PENDING_MAX = 4096;
/** Blocks of a sample that are read at once, and how long more than a few of them may take, in milliseconds. */
const SAMPLE_BATCH = 4;
const SAMPLE_MS = 60_000;
const SAMPLE_FEW = 128;

/** Reads and digests a source ahead of its consumer, as far as there is memory in the pool. */
export class SourceReader implements AsyncDisposable {
  readonly disk: Geometry;
  /** Since when every block has been read at least once, RFC 3339: now, unless a hint spared some. */
  readSince = new Date().toISOString();
  /** Why a hint was not used, for people. */
  note: string | undefined;
  readonly #source: DataSource;
  readonly #file: OpenedFile;
  readonly #pool: BlockPool;
  readonly #zeros: BlockSet;
  readonly #zeroDigest: (index: number) => Buffer;
  readonly #pending: (SourcePiece | Promise<SourcePiece>)[] = [];
  #unchanged: UnchangedBlocks | undefined;
  #partial: PartialImage | undefined;
  #next = 0;
  #bytesRead = 0;

  private constructor(source: DataSource, file: OpenedFile, disk: Geometry, pool: BlockPool, zeros: BlockSet) {
    this.#source = source;
    this.#file = file;
    this.disk = disk;
    this.#pool = pool;
    this.#zeros = zeros;
    this.#zeroDigest = zeroDigests(disk);
  }

  /** Throws `source-failed`. */
  static async open(source: DataSource, pool: BlockPool, blockBytes: number, signal?: AbortSignal): Promise<SourceReader> {
    const disk = geometry(source.bytes, blockBytes);
    try {
      const zeros = new BlockSet(disk);
      if (source.zeroMap !== undefined) {
        for (const extent of await zeroExtents(source.zeroMap.image, source.zeroMap.format, signal)) zeros.addInside(extent.start, extent.length);
      }
      const file = await openFitting(source, pool);
      if (file.bytes < source.bytes) {
        await file[Symbol.asyncDispose]();
        throw new DrError('source-failed', `the source ${source.path} has ${String(file.bytes)} bytes, ${String(source.bytes)} were expected. Nothing was sent.`, 'Run the job again; it looks at everything afresh.');
      }
      const reader = new SourceReader(source, file, disk, pool, zeros);
      try {
        if (source.partial !== undefined) reader.#partial = await PartialImage.open(source.partial, disk);
        await reader.#takeHint(signal);
        return reader;
      } catch (error) {
        await reader[Symbol.asyncDispose]();
        throw error;
      }
    } catch (error) {
      const known = DrError.from(error);
      throw known.code === 'source-failed' || known.code === 'cancelled' ? known
        : new DrError('source-failed', `the source ${source.path} can't be opened: ${known.message}. Nothing was sent.`, known.code === 'internal' ? 'Check that it still exists and can be read.' : known.hint, { cause: error });
    }
  }

  get bytesRead(): number {
    return this.#bytesRead;
  }

  /** The next piece; undefined after the last. A block's slot is the caller's to release. Throws `source-failed`. */
  async next(held: Held): Promise<SourcePiece | undefined> {
    for (;;) {
      this.#ahead(held);
      const piece = this.#pending.shift();
      if (piece !== undefined || this.#next >= this.disk.blocks) return piece;
      const digest = this.#foreknown(this.#next);
      if (digest !== undefined && !held.knows(this.#next)) await held.known(this.#next);
      else this.#read(await this.#pool.acquire(), digest); // all memory is with the wire
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#unchanged?.[Symbol.asyncDispose]();
    await this.#partial?.[Symbol.asyncDispose]();
    await this.#file[Symbol.asyncDispose]();
  }

  #ahead(held: Held): void {
    while (this.#next < this.disk.blocks && this.#pending.length < PENDING_MAX) {
      const count = this.#zeros.runFrom(this.#next, RUN_MAX);
      if (count > 0) {
        this.#known(count, this.#zeroDigest);
        continue;
      }
      const digest = this.#foreknown(this.#next);
      if (digest !== undefined) {
        // A slot is only taken in order, so whether this block must be read has to be known before a later one is.
        if (!held.knows(this.#next)) return;
        if (held.matches(this.#next, digest) || digest.equals(this.#zeroDigest(this.#next))) {
          this.#known(1, () => digest);
          continue;
        }
      }
      const slot = this.#pool.tryAcquire();
      if (slot === undefined) return;
      this.#read(slot, digest);
    }
  }

  /** A block's digest, where it is known without reading it. */
  #foreknown(index: number): Buffer | undefined {
    return this.#partial?.digest(index) ?? this.#unchanged?.digest(index);
  }

  #known(count: number, digest: (index: number) => Buffer): void {
    this.#pending.push({ kind: 'known', first: this.#next, count, digest });
    this.#next += count;
  }

  /** `expected`: what is foreknown of the block that the destination turns out to lack. */
  #read(slot: Slot, expected: Buffer | undefined): void {
    const index = this.#next++;
    const offset = index * this.disk.blockBytes;
    const reading = this.#partial?.lacks(index) === true ? Promise.reject(leftOut(this.#file.path, offset)) : this.#digest(index, slot);
    const block = reading.then(async (digest): Promise<SourcePiece> => {
      if (expected !== undefined && !digest.equals(expected)) throw this.#partial === undefined ? await this.#lied(index) : notAsCaptured(this.#file.path, offset);
      return { kind: 'block', index, digest, slot };
    });
    block.catch(() => undefined); // told when its turn comes
    this.#pending.push(block);
  }

  async #digest(index: number, slot: Slot): Promise<Buffer> {
    const offset = index * this.disk.blockBytes;
    const length = lengthOf(this.disk, index);
    const outcome = await this.#pool.run({ kind: 'read', fd: this.#file.fd, offset, length, slot: slot.at });
    if (outcome.kind !== 'done') throw sourceFailure(this.#file.path, offset, outcome);
    this.#bytesRead += length;
    return Buffer.from(outcome.digest);
  }

  /** Takes the source's hint if there is one and its sample holds; otherwise everything is read, and the note says why. */
  async #takeHint(signal: AbortSignal | undefined): Promise<void> {
    const { hint, path } = this.#source;
    if (hint === undefined) return;
    try {
      const unchanged = await UnchangedBlocks.open(hint, this.disk, new Date());
      this.#unchanged = unchanged;
      const wrong = await this.#firstWrong(unchanged.sample, signal);
      if (wrong !== undefined && this.#source.keepDigests !== undefined && await digestRecord(this.#source.keepDigests) !== undefined) throw await this.#lied(wrong); // another target has had it
      if (wrong !== undefined) throw new HintDoubted(`it is wrong at offset ${String(wrong * this.disk.blockBytes)}`);
      this.readSince = unchanged.readSince;
    } catch (error) {
      if (!(error instanceof HintDoubted)) throw error;
      await this.#unchanged?.[Symbol.asyncDispose]();
      this.#unchanged = undefined;
      await forgetDigests(hint.digests);
      this.note = `the hint of what has changed in ${path} was not used: ${error.message}; the whole disk was read`;
      log.warn(this.note);
    }
  }

  /** Reads blocks in a random order and gives the index of the first that is not what it is said to be. Of a large disk as many as there is time for. */
  async #firstWrong(sample: readonly KnownBlock[], signal: AbortSignal | undefined): Promise<number | undefined> {
    const deadline = Date.now() + SAMPLE_MS;
    for (let at = 0; at < sample.length && (at < SAMPLE_FEW || Date.now() < deadline); at += SAMPLE_BATCH) {
      if (signal?.aborted === true) throw new DrError('cancelled', 'the transfer was cancelled');
      const found = await Promise.all(sample.slice(at, at + SAMPLE_BATCH).map(async ({ index, digest }) => {
        const slot = await this.#pool.acquire();
        try {
          return digest.equals(await this.#digest(index, slot)) ? undefined : index;
        } finally {
          this.#pool.release(slot);
        }
      }));
      const wrong = found.find((index) => index !== undefined);
      if (wrong !== undefined) return wrong;
    }
    return undefined;
  }

  /** Found too late to read the whole disk: other blocks have been called the same on the same word. */
  async #lied(index: number): Promise<DrError> {
    const { path } = this.#source;
    await this.#forget();
    return hintFailure(path, index * this.disk.blockBytes);
  }

  /** Neither the hint's digests nor what another target was sent on its word is believed again. */
  async #forget(): Promise<void> {
    const { hint, keepDigests } = this.#source;
    for (const digests of [hint?.digests, keepDigests]) if (digests !== undefined) await forgetDigests(digests);
  }
}

/** Opens the source, past the page cache if it lets us: some accept the flag and refuse the read. */
async function openFitting(source: DataSource, pool: BlockPool): Promise<OpenedFile> {
  const file = await openToRead(source.path, source.direct);
  if (!file.direct || source.bytes === 0) return file;
  const slot = await pool.acquire();
  const outcome = await pool.run({ kind: 'read', fd: file.fd, offset: 0, length: Math.min(slot.bytes.length, source.bytes), slot: slot.at });
  pool.release(slot);
  if (outcome.kind !== 'error' || outcome.code !== 'EINVAL') return file; // another error comes again, in its place
  await file[Symbol.asyncDispose]();
  return openToRead(source.path, false);
}
