import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { residentBytes } from '../system/page-cache.js';
import { step } from '../system/steps.js';
import { discardChunks, dropPages, punchHole, zeroDevice } from '../system/zero-range.js';
import type { DiskJob, WriteJob } from './block-jobs.js';
import type { BlockPool, Slot } from './block-pool.js';
import { markedRanges } from './delta.js';
import { asDestinationError, destinationFailure } from './failures.js';
import type { Run } from './frames.js';
import { lengthOf, SECTOR_BYTES, type Geometry } from './geometry.js';
import type { OpenedImage } from './image-file.js';

/** Shorter runs of zeros are written: starting a program takes longer. On thin volumes that would keep the space, so there even one block is given back. */
const CLEAR_FROM_BLOCKS = 4;
/** Longer ones are cleared piece by piece, so that one call never takes long. */
const CLEAR_UP_TO_BLOCKS = 16 * 1024;
/** Writes and ranges of zeros that may be under way or waiting. */
const MAX_UNDER_WAY = 64;
/** Blocks that are read back or written at once in a range of zeros. */
const ZERO_BATCH = 4;

/** What is in the page cache is looked up for every page of the file, 10 s for a TiB however empty it is: for larger images the store's own probe must do. */
const MEASURABLE_BYTES = 256 * 2 ** 30;

/** How a block was sent, if not as it is, and what was there before if that is at hand. */
type Sent = Pick<WriteJob, 'packed' | 'map'> & { readonly old?: Slot };

/**
 * Brings an image's blocks to what was captured, and proves each by reading it back past the page cache. Work goes on in the background;
 * the first failure is reported once, at once.
 */
export class ImageWriter {
  readonly #disk: Geometry;
  readonly #image: OpenedImage;
  readonly #pool: BlockPool;
  readonly #readBack: boolean;
  readonly #expectZeros: boolean;
  readonly #zeroDigest: (index: number) => Buffer;
  readonly #failed: (error: DrError) => void;
  readonly #under = new Set<Promise<void>>();
  #zeros: Run | undefined;
  #zeroing: Promise<void> = Promise.resolve();
  #canClear = true;
  #begun = false;
  #bytesWritten = 0;

  constructor(disk: Geometry, image: OpenedImage, pool: BlockPool, options: {
    readonly readBack: boolean;
    /** The image is said to read as zeros: then what must be zero is looked at before anything is done about it. */
    readonly expectZeros: boolean;
    readonly zeroDigest: (index: number) => Buffer;
    readonly failed: (error: DrError) => void;
  }) {
    this.#disk = disk;
    this.#image = image;
    this.#pool = pool;
    this.#readBack = options.readBack;
    this.#expectZeros = options.expectZeros;
    this.#zeroDigest = options.zeroDigest;
    this.#failed = options.failed;
  }

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  /** Clears the page cache of the image, so that what is found in it at the end is our doing. */
  async open(): Promise<void> {
    if (!this.#measurable) return;
    await this.#image.sync(); // dirty pages can't be dropped
    await dropPages(this.#openFile).catch(() => undefined); // what stays will count against the proof
  }

  /** Takes over the slots and gives them back to the pool when the block is proven. What is in the first may be packed into so many bytes, and only the parts on a map. */
  data(index: number, digest: Buffer, slot: Slot, sent: Sent = {}): void {
    this.#beforeWrite();
    this.#track(this.#block(index, digest, slot, sent).finally(() => {
      this.#pool.release(slot);
      if (sent.old !== undefined) this.#pool.release(sent.old);
    }));
  }

  /** These blocks must end as zeros, whatever is there now. Neighbouring runs are dealt with together. */
  zeros({ first, count }: Run): void {
    const pending = this.#zeros;
    if (pending !== undefined && pending.first + pending.count === first && pending.count + count <= CLEAR_UP_TO_BLOCKS) {
      this.#zeros = { first: pending.first, count: pending.count + count };
      return;
    }
    this.#flushZeros();
    this.#zeros = { first, count };
  }

  /** Resolves when not too much is under way, so that memory stays bounded. */
  async room(): Promise<void> {
    if (this.#under.size > MAX_UNDER_WAY) await Promise.race(this.#under);
  }

  /** Resolves when every block is there, proven and durable. `device` if all of them were read back past the page cache. */
  async finish(): Promise<'device' | 'cached'> {
    this.#flushZeros();
    await this.settled();
    await this.#image.sync();
    if (!this.#image.direct || !this.#readBack) return 'cached';
    if (!this.#measurable) return 'device'; // a device, or in a store where O_DIRECT was seen to go past the page cache
    // Some file systems accept O_DIRECT and go through the page cache all the same; that shows in what they leave there.
    const resident = await residentBytes(this.#openFile).catch(() => Number.NaN);
    const tail = this.#disk.bytes % SECTOR_BYTES === 0 ? 0 : 16 * SECTOR_BYTES; // the last sector's rest is written through the cache: at most one page
    if (resident <= tail) return 'device';
    log.warn('reading back went through the page cache', { path: this.#image.path, bytes: resident });
    return 'cached';
  }

  /** Resolves when no thread uses the image any more, whether its work succeeded or not. */
  async settled(): Promise<void> {
    while (this.#under.size > 0) await Promise.all(this.#under);
  }

  /** The open file itself, for programs: its name may lead elsewhere by now. */
  get #openFile(): string {
    return `/proc/${String(process.pid)}/fd/${String(this.#image.tailFd)}`;
  }

  get #measurable(): boolean {
    return this.#image.kind === 'file' && this.#image.direct && this.#readBack && this.#image.bytes <= MEASURABLE_BYTES;
  }

  #beforeWrite(): void {
    if (!this.#begun) step('receive-before-first-write');
    this.#begun = true;
  }

  #track(work: Promise<void>): void {
    const tracked = work.catch((error: unknown) => { this.#failed(asDestinationError(this.#image.path, error)); }).finally(() => { this.#under.delete(tracked); });
    this.#under.add(tracked);
  }

  /** Writes one block, zeros without a slot, and proves it. */
  async #block(index: number, digest: Buffer, slot: Slot | undefined, { old, ...sent }: Sent = {}): Promise<void> {
    const length = lengthOf(this.#disk, index);
    await this.#perform({
      kind: 'write', fd: this.#image.fd, tailFd: this.#image.tailFd, offset: index * this.#disk.blockBytes, length, digest, readBack: this.#readBack,
      blockBytes: this.#disk.blockBytes, ...(slot === undefined ? {} : { slot: slot.at }), ...(old === undefined ? {} : { old: old.at }), ...sent,
    });
    const ranges = sent.map === undefined ? [[0, length]] as const : markedRanges(sent.map, length, this.#disk.blockBytes, SECTOR_BYTES);
    this.#bytesWritten += ranges.reduce((sum, [start, end]) => sum + end - start, 0);
    step('receive-after-block');
  }

  async #perform(job: DiskJob): Promise<void> {
    const outcome = await this.#pool.run(job);
    if (outcome.kind !== 'done') throw destinationFailure(this.#image.path, job.offset, outcome, job.kind === 'write' && job.map !== undefined);
  }

  #flushZeros(): void {
    const run = this.#zeros;
    this.#zeros = undefined;
    if (run === undefined) return;
    this.#beforeWrite();
    this.#zeroing = this.#zeroing.then(() => this.#makeZero(run)); // one range at a time
    this.#track(this.#zeroing);
  }

  /** What is not zero already, or after the range was cleared, is written. */
  async #makeZero(run: Run): Promise<void> {
    if (this.#expectZeros && (await this.#notZero(run)).length === 0) return;
    const cleared = await this.#clear(run);
    // A discard promises nothing, and drops whole chunks only: it is looked at even where the proof would not need it.
    const rest = cleared && !this.#readBack && this.#image.kind === 'file' ? [] : cleared ? await this.#notZero(run) : blocksOf(run);
    for (let at = 0; at < rest.length; at += ZERO_BATCH) {
      await Promise.all(rest.slice(at, at + ZERO_BATCH).map((index) => this.#block(index, this.#zeroDigest(index), undefined)));
    }
  }

  /** Reads a run past the page cache and gives the blocks that are not zero. */
  async #notZero(run: Run): Promise<number[]> {
    const found: number[] = [];
    const blocks = blocksOf(run);
    for (let at = 0; at < blocks.length; at += ZERO_BATCH) {
      await Promise.all(blocks.slice(at, at + ZERO_BATCH).map(async (index) => {
        const offset = index * this.#disk.blockBytes;
        const outcome = await this.#pool.run({ kind: 'prove', fd: this.#image.fd, offset, length: lengthOf(this.#disk, index), digest: this.#zeroDigest(index) });
        if (outcome.kind === 'not-what-was-written') found.push(index);
        else if (outcome.kind !== 'done') throw destinationFailure(this.#image.path, offset, outcome);
      }));
    }
    return found;
  }

  /** Makes a range zero without writing it, as far as that goes; whether it was tried with success. */
  async #clear({ first, count }: Run): Promise<boolean> {
    const { kind, chunkBytes } = this.#image;
    if (!this.#canClear || (chunkBytes === undefined && count < CLEAR_FROM_BLOCKS)) return false;
    const offset = first * this.#disk.blockBytes;
    const length = Math.min(this.#disk.bytes, offset + count * this.#disk.blockBytes) - offset;
    try {
      if (chunkBytes !== undefined) await discardChunks(this.#openFile, chunkBytes, offset, length);
      else await (kind === 'file' ? punchHole : zeroDevice)(this.#openFile, offset, length);
      return true;
    } catch (error) {
      this.#canClear = false;
      log.info('zeros are written: ranges can\'t be cleared there', { path: this.#image.path, why: DrError.from(error).message });
      return false;
    }
  }
}

function blocksOf({ first, count }: Run): number[] {
  return Array.from({ length: count }, (_, each) => first + each);
}
