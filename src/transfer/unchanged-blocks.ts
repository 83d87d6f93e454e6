import { DrError } from '../model/errors.js';
import type { ChangedHint } from '../model/host.js';
import { readJson } from '../system/durable.js';
import { BlockSet } from './block-set.js';
import { DigestWindow } from './digest-window.js';
import { DIGEST_BYTES, imageDigest, ImageHash, zeroDigests, type Geometry } from './geometry.js';
import { digestRecord } from './kept-digests.js';

/** How long a disk may be copied on the word of hints before all of it is read again, in days. */
const READ_AGAIN_DAYS = 30;
/** At least so many blocks are sampled, or this share of the disk; of blocks that were zero at most the former. */
const SAMPLE_MIN = 64;
const SAMPLE_SHARE = 0.001;

/** Why a hint is not used, for people. */
export class HintDoubted extends Error {}

export interface KnownBlock {
  readonly index: number;
  readonly digest: Buffer;
}

/** The blocks of a source that are said not to have changed since their digests were kept, and those digests. Memory: one bit per block. */
export class UnchangedBlocks implements AsyncDisposable {
  readonly #digests: DigestWindow;
  readonly #changed: BlockSet;

  private constructor(digests: DigestWindow, changed: BlockSet,
    /** Blocks to be read and compared before any other is believed. */
    readonly sample: readonly KnownBlock[],
    /** RFC 3339; since then every block has been read at least once. */
    readonly readSince: string) {
    this.#digests = digests;
    this.#changed = changed;
  }

  /** Holds the digests against their record and chooses the sample. Throws `HintDoubted`. */
  static async open(hint: ChangedHint, disk: Geometry, now: Date): Promise<UnchangedBlocks> {
    const record = await digestRecord(hint.digests);
    if (record === undefined) throw new HintDoubted('the digests of the earlier capture are not there');
    if (record.bytes !== disk.bytes) throw new HintDoubted(`the disk had ${String(record.bytes)} bytes then and has ${String(disk.bytes)} now`);
    const age = now.getTime() - Date.parse(record.readSince);
    if (!(age >= 0 && age <= READ_AGAIN_DAYS * 86_400_000)) throw new HintDoubted(`it was last read as a whole on ${record.readSince}`);
    const changed = await changedBlocks(hint.changed, disk);
    const digests = await DigestWindow.open(hint.digests).catch((error: unknown) => { throw new HintDoubted(`the digests can't be read: ${String(error)}`); });
    try {
      const { digest, sample } = await survey(digests, disk, changed);
      if (digest !== record.digest) throw new HintDoubted('the digests of the earlier capture are not those that were recorded');
      return new UnchangedBlocks(digests, changed, sample, record.readSince);
    } catch (error) {
      await digests[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The digest that a block had, if it is said not to have changed. */
  digest(index: number): Buffer | undefined {
    if (this.#changed.has(index)) return undefined;
    const digest = this.#digests.digest(index);
    if (digest === undefined) throw new DrError('source-failed', 'the digests of an earlier capture became fewer while they were used', 'Run the job again: the whole disk is read.');
    return digest;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#digests[Symbol.asyncDispose]();
  }
}

/** The blocks that the file of ranges says may have changed: `[[start, length], …]` in bytes, in any order. */
async function changedBlocks(path: string, disk: Geometry): Promise<BlockSet> {
  const ranges = await readJson(path).catch(() => undefined); // told below
  const changed = new BlockSet(disk);
  if (!Array.isArray(ranges)) throw new HintDoubted('the list of what has changed can\'t be read');
  for (const range of ranges as readonly unknown[]) {
    const [start, length] = Array.isArray(range) && range.length === 2 ? range as readonly unknown[] : [];
    if (!isCount(start) || !isCount(length)) throw new HintDoubted('the list of what has changed can\'t be understood');
    changed.addTouched(start, length);
  }
  return changed;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Goes once through the digests: what they add up to, and a random choice of the blocks that are to be believed. */
async function survey(digests: DigestWindow, disk: Geometry, changed: BlockSet): Promise<{ readonly digest: string; readonly sample: readonly KnownBlock[] }> {
  const hash = new ImageHash();
  const zeroDigest = zeroDigests(disk);
  const [zeros, others] = [new Chosen(SAMPLE_MIN), new Chosen(Math.max(SAMPLE_MIN, Math.ceil(disk.blocks * SAMPLE_SHARE)))];
  let bytes = 0;
  for await (const piece of digests.pieces()) {
    hash.add(piece);
    for (let at = 0; at + DIGEST_BYTES <= piece.length; at += DIGEST_BYTES) {
      const index = (bytes + at) / DIGEST_BYTES;
      if (changed.has(index)) continue;
      const digest = piece.subarray(at, at + DIGEST_BYTES);
      (zeroDigest(index).equals(digest) ? zeros : others).offer(index, digest);
    }
    bytes += piece.length;
  }
  if (bytes !== disk.blocks * DIGEST_BYTES) throw new HintDoubted('there are not as many digests as blocks');
  return { digest: imageDigest(hash.finish()), sample: [...others.blocks, ...zeros.blocks] };
}

/** A random choice among blocks that come one by one, each as likely as any other. */
class Chosen {
  readonly blocks: KnownBlock[] = [];
  readonly #most: number;
  #offered = 0;

  constructor(most: number) {
    this.#most = most;
  }

  offer(index: number, digest: Buffer): void {
    const place = this.#offered < this.#most ? this.#offered : Math.floor(Math.random() * (this.#offered + 1));
    this.#offered += 1;
    if (place < this.#most) this.blocks[place] = { index, digest: Buffer.from(digest) };
  }
}
