import { randomBytes } from 'node:crypto';
import { open, type FileHandle } from 'node:fs/promises';
import { log } from '../system/log.js';
import type { BlockFailure } from './block-jobs.js';
import type { BlockPool, Slot } from './block-pool.js';
import { destinationFailure } from './failures.js';
import { digestsFrame, HAVE_MAX, LOOKAHEAD } from './frames.js';
import { DIGEST_BYTES, lengthOf, type Geometry } from './geometry.js';
import type { OpenedFile } from './image-file.js';
import type { WireWriter } from './wire.js';

/** What a bad sector gives when it is read; writing to it often cures it, and else says so. */
const UNREADABLE = new Set(['EIO', 'ENODATA', 'EILSEQ', 'EREMOTEIO', 'EBADMSG']);
/** Blocks that were asked about are kept in memory for the answer as long as so many others find room. */
const ROOM_FOR_OTHERS = 6;
/** Blocks read at once while the image is compared by reading it. */
const READ_BATCH = 4;

/**
 * What the destination holds already, told to the sender in order, never more than LOOKAHEAD blocks ahead of his answers: so memory is
 * bounded, and a block is read before it can be written.
 */
export class Holdings {
  readonly #disk: Geometry;
  readonly #image: OpenedFile;
  readonly #pool: BlockPool;
  readonly #wire: WireWriter;
  readonly #window = Buffer.alloc(LOOKAHEAD * DIGEST_BYTES);
  #offered = 0;
  #answered = 0;
  #recycled = 0;
  /** Blocks that were asked about, as they are. */
  readonly #kept = new Map<number, Slot>();
  #wake: (() => void) | undefined;
  #stopped = false;

  constructor(disk: Geometry, image: OpenedFile, pool: BlockPool, wire: WireWriter) {
    this.#disk = disk;
    this.#image = image;
    this.#pool = pool;
    this.#wire = wire;
  }

  /** How many blocks' digests have been given out. */
  get offered(): number {
    return this.#offered;
  }

  /** How many of those came from an earlier proof and were not read now. */
  get recycled(): number {
    return this.#recycled;
  }

  /** The digests of blocks that were offered and not yet answered. */
  digests(first: number, count: number): Buffer {
    const result = Buffer.alloc(count * DIGEST_BYTES);
    for (let index = 0; index < count; index++) {
      const at = (first + index) % LOOKAHEAD * DIGEST_BYTES;
      this.#window.copy(result, index * DIGEST_BYTES, at, at + DIGEST_BYTES);
    }
    return result;
  }

  /** All blocks before `next` have been answered. */
  answered(next: number): void {
    this.#answered = next;
    for (const index of this.#kept.keys()) if (index < next) this.#letGo(index);
    this.#wake?.();
  }

  stop(): void {
    this.#stopped = true;
    for (const index of this.#kept.keys()) this.#letGo(index);
    this.#wake?.();
  }

  /** A block that was asked about, if it is in memory: as it is, and the caller's to release. */
  take(index: number): Slot | undefined {
    const slot = this.#kept.get(index);
    this.#kept.delete(index);
    return slot;
  }

  #letGo(index: number): void {
    const slot = this.take(index);
    if (slot !== undefined) this.#pool.release(slot);
  }

  /**
   * Offers the digests of all blocks: from a file of digests as far as it reaches, by reading the image from there on. Resolves when all are
   * out or when stopped.
   */
  async offer(recycle: string | undefined): Promise<void> {
    if (recycle !== undefined) await this.#fromFile(recycle);
    while (this.#offered < this.#disk.blocks && await this.#room()) {
      const count = Math.min(READ_BATCH, this.#disk.blocks - this.#offered, LOOKAHEAD - (this.#offered - this.#answered));
      const first = this.#offered;
      await this.#tell(Buffer.concat(await Promise.all(Array.from({ length: count }, (_, each) => this.#read(first + each)))));
    }
  }

  /** Tells the sender the digests of the parts of one block: none if it can't be read. */
  async tellParts(index: number): Promise<void> {
    const offset = index * this.#disk.blockBytes;
    const slot = this.#pool.tryAcquire(ROOM_FOR_OTHERS);
    let kept = false;
    try {
      const outcome = await this.#pool.parts({
        kind: 'parts', fd: this.#image.fd, offset, length: lengthOf(this.#disk, index), blockBytes: this.#disk.blockBytes, ...(slot === undefined ? {} : { slot: slot.at }),
      });
      if (outcome.kind !== 'parts') {
        this.#insistUnreadable(offset, outcome);
      } else if (slot !== undefined && index >= this.#answered && !this.#stopped) {
        this.#kept.set(index, slot);
        kept = true;
      }
      await this.#wire.send(digestsFrame('parts', index, outcome.kind === 'parts' ? outcome.digests : Buffer.alloc(0)));
    } finally {
      if (slot !== undefined && !kept) this.#pool.release(slot);
    }
  }

  async #fromFile(path: string): Promise<void> {
    let file: FileHandle;
    try {
      file = await open(path, 'r');
    } catch (error) {
      log.warn('the digests of the image being recycled can\'t be read; the image is read instead', { path, error: String(error) });
      return;
    }
    try {
      const { size } = await file.stat();
      if (size % DIGEST_BYTES !== 0) {
        log.warn('the digests of the image being recycled are damaged; the image is read instead', { path });
        return;
      }
      const known = Math.min(size / DIGEST_BYTES, this.#disk.blocks);
      while (this.#offered < known && await this.#room()) {
        const count = Math.min(HAVE_MAX, known - this.#offered, LOOKAHEAD - (this.#offered - this.#answered));
        const digests = Buffer.alloc(count * DIGEST_BYTES);
        const { bytesRead } = await file.read(digests, 0, digests.length, this.#offered * DIGEST_BYTES);
        if (bytesRead < digests.length) return; // became shorter: the rest is read from the image
        this.#recycled += count;
        await this.#tell(digests);
      }
    } finally {
      await file.close();
    }
  }

  async #read(index: number): Promise<Buffer> {
    const slot = await this.#pool.acquire();
    try {
      const offset = index * this.#disk.blockBytes;
      const outcome = await this.#pool.run({ kind: 'read', fd: this.#image.fd, offset, length: lengthOf(this.#disk, index), slot: slot.at });
      if (outcome.kind === 'done') return Buffer.from(outcome.digest);
      this.#insistUnreadable(offset, outcome);
      return randomBytes(DIGEST_BYTES); // no block has this digest
    } finally {
      this.#pool.release(slot);
    }
  }

  /** A bad sector is no failure, since it will be written; anything else is. */
  #insistUnreadable(offset: number, outcome: BlockFailure): void {
    if (outcome.kind !== 'error' || !UNREADABLE.has(outcome.code)) throw destinationFailure(this.#image.path, offset, outcome);
    log.warn('a block of the image being recycled can\'t be read; it is sent, written and proven like any other', { path: this.#image.path, offset, why: outcome.message });
  }

  async #tell(digests: Buffer): Promise<void> {
    const first = this.#offered;
    const count = digests.length / DIGEST_BYTES;
    for (let index = 0; index < count; index++) {
      digests.copy(this.#window, (first + index) % LOOKAHEAD * DIGEST_BYTES, index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
    }
    this.#offered += count;
    await this.#wire.send(digestsFrame('have', first, digests));
  }

  /** Waits until another digest may be offered; false when there is no point any more. */
  async #room(): Promise<boolean> {
    while (!this.#stopped && this.#offered - this.#answered >= LOOKAHEAD) {
      await new Promise<void>((resolve) => {
        this.#wake = () => { this.#wake = undefined; resolve(); };
      });
    }
    return !this.#stopped;
  }
}
