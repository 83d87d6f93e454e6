import type { DataSource } from '../model/host.js';
import { zeroExtents } from '../system/qemu.js';
import { DrError } from '../model/errors.js';
import type { BlockPool, Slot } from './block-pool.js';
import { sourceFailure } from './failures.js';
import type { Run } from './frames.js';
import { geometry, lengthOf, type Geometry } from './geometry.js';
import { openToRead, type OpenedFile } from './image-file.js';

/** Blocks of the source, in order. Runs are known to be zero without having been read. */
export type SourcePiece =
  | ({ readonly kind: 'known-zero' } & Run)
  | { readonly kind: 'block'; readonly index: number; readonly digest: Buffer; readonly slot: Slot };

type Pending =
  | ({ readonly kind: 'known-zero' } & Run)
  | { readonly kind: 'block'; readonly block: Promise<SourcePiece> };

/** A longer run of known zeros is given out in parts. */
const RUN_MAX = 4096;

/** Reads and digests a source ahead of its consumer, as far as there is memory in the pool. */
export class SourceReader implements AsyncDisposable {
  readonly disk: Geometry;
  readonly #file: OpenedFile;
  readonly #pool: BlockPool;
  readonly #zeros: ZeroMap;
  readonly #pending: Pending[] = [];
  #next = 0;
  #bytesRead = 0;

  private constructor(file: OpenedFile, disk: Geometry, pool: BlockPool, zeros: ZeroMap) {
    this.#file = file;
    this.disk = disk;
    this.#pool = pool;
    this.#zeros = zeros;
  }

  /** Throws `source-failed`. */
  static async open(source: DataSource, pool: BlockPool, blockBytes: number, signal?: AbortSignal): Promise<SourceReader> {
    const disk = geometry(source.bytes, blockBytes);
    try {
      const zeros = new ZeroMap(disk);
      if (source.zeroMap !== undefined) {
        for (const extent of await zeroExtents(source.zeroMap.image, source.zeroMap.format, signal)) zeros.add(extent.start, extent.length);
      }
      const file = await openFitting(source, pool);
      if (file.bytes < source.bytes) {
        await file[Symbol.asyncDispose]();
        throw new DrError('source-failed', `the source ${source.path} has ${String(file.bytes)} bytes, ${String(source.bytes)} were expected. Nothing was sent.`, 'Run the job again; it looks at everything afresh.');
      }
      return new SourceReader(file, disk, pool, zeros);
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
  async next(): Promise<SourcePiece | undefined> {
    this.#ahead();
    if (this.#pending.length === 0 && this.#next < this.disk.blocks) {
      this.#read(await this.#pool.acquire()); // all memory is with the wire
    }
    const piece = this.#pending.shift();
    return piece?.kind === 'block' ? piece.block : piece;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file[Symbol.asyncDispose]();
  }

  #ahead(): void {
    while (this.#next < this.disk.blocks) {
      const count = this.#zeros.runFrom(this.#next, RUN_MAX);
      if (count > 0) {
        if (this.#pending.length >= RUN_MAX) return;
        this.#pending.push({ kind: 'known-zero', first: this.#next, count });
        this.#next += count;
        continue;
      }
      const slot = this.#pool.tryAcquire();
      if (slot === undefined) return;
      this.#read(slot);
    }
  }

  #read(slot: Slot): void {
    const index = this.#next++;
    const offset = index * this.disk.blockBytes;
    const length = lengthOf(this.disk, index);
    const block = this.#pool.run({ kind: 'read', fd: this.#file.fd, offset, length, slot: slot.at }).then((outcome): SourcePiece => {
      if (outcome.kind !== 'done') throw sourceFailure(this.#file.path, offset, outcome);
      this.#bytesRead += length;
      return { kind: 'block', index, digest: Buffer.from(outcome.digest), slot };
    });
    block.catch(() => undefined); // told when its turn comes
    this.#pending.push({ kind: 'block', block });
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

/** Which blocks are known to be zero, one bit each. */
class ZeroMap {
  readonly #disk: Geometry;
  readonly #bits: Uint8Array;

  constructor(disk: Geometry) {
    this.#disk = disk;
    this.#bits = new Uint8Array(Math.ceil(disk.blocks / 8));
  }

  /** Marks the blocks that lie wholly inside the extent. */
  add(start: number, length: number): void {
    const { blockBytes, bytes, blocks } = this.#disk;
    const end = start + length >= bytes ? blocks : Math.floor((start + length) / blockBytes);
    for (let index = Math.ceil(start / blockBytes); index < end; index++) {
      this.#bits[index >> 3] = (this.#bits[index >> 3] ?? 0) | (1 << (index & 7));
    }
  }

  /** How many blocks from `first` on are known to be zero, up to `most`. */
  runFrom(first: number, most: number): number {
    let count = 0;
    while (count < most && first + count < this.#disk.blocks && this.#has(first + count)) count += 1;
    return count;
  }

  #has(index: number): boolean {
    return ((this.#bits[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
  }
}
