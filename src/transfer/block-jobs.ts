import { fdatasyncSync, readSync, writeSync } from 'node:fs';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { digestOf, SECTOR_BYTES } from './geometry.js';

/** What worker threads do with blocks: blocking reads and writes into shared memory, and hashing. One job, one block. */
export type BlockJob =
  /** Reads a block into the slot at `slot` and digests it. */
  | { readonly kind: 'read'; readonly fd: number; readonly offset: number; readonly length: number; readonly slot: number }
  /** Writes the block in the slot (absent: zeros) and proves that it is there. With `packed` the slot holds so many bytes that it must be unpacked from. */
  | { readonly kind: 'write'; readonly fd: number; readonly tailFd: number; readonly offset: number; readonly length: number;
      readonly slot?: number; readonly packed?: number; readonly digest: Uint8Array; readonly readBack: boolean }
  /** Reads a block back and compares. */
  | { readonly kind: 'prove'; readonly fd: number; readonly offset: number; readonly length: number; readonly digest: Uint8Array }
  /** Packs the block in the slot, in its place, if it shrinks. */
  | { readonly kind: 'pack'; readonly slot: number; readonly length: number; readonly digest: Uint8Array };

export type BlockOutcome =
  | { readonly kind: 'done'; readonly digest: Uint8Array; /** What the slot holds now are so many packed bytes. */ readonly packed?: number }
  /** The bytes in memory are not what their digest says: they changed on the way here. */
  | { readonly kind: 'damaged-on-arrival' }
  /** What the device gives back is not what was written. */
  | { readonly kind: 'not-what-was-written' }
  /** The file or device ends before the block does. */
  | { readonly kind: 'short' }
  | { readonly kind: 'error'; readonly code: string; readonly message: string };

/** Where in the shared memory a worker has its own pages. */
export interface WorkerPages {
  readonly memory: SharedArrayBuffer;
  readonly blockBytes: number;
  readonly scratch: number;
  /** A block of zeros that nobody writes. */
  readonly zeros: number;
}

export function perform(job: BlockJob, pages: WorkerPages): BlockOutcome {
  const view = (at: number, length: number): Uint8Array => new Uint8Array(pages.memory, at, length);
  try {
    switch (job.kind) {
      case 'read':
        return readAndDigest(job.fd, view(job.slot, roundUp(job.length)), job.offset, job.length);
      case 'prove':
        return compare(readAndDigest(job.fd, view(pages.scratch, roundUp(job.length)), job.offset, job.length), job.digest);
      case 'pack': {
        const packed = pack(view(job.slot, job.length));
        return { kind: 'done', digest: job.digest, ...(packed === undefined ? {} : { packed }) };
      }
      case 'write': {
        const bytes = view(job.slot ?? pages.zeros, job.length);
        if (job.packed !== undefined && !unpack(bytes, job.packed)) return { kind: 'damaged-on-arrival' };
        if (!job.readBack && !same(digestOf(bytes), job.digest)) return { kind: 'damaged-on-arrival' };
        write(job.fd, job.tailFd, bytes, job.offset);
        if (!job.readBack) return { kind: 'done', digest: job.digest };
        const found = compare(readAndDigest(job.fd, view(pages.scratch, roundUp(job.length)), job.offset, job.length), job.digest);
        // One digest proves the way here and the device; only if it fails must it be told which.
        return found.kind === 'not-what-was-written' && !same(digestOf(bytes), job.digest) ? { kind: 'damaged-on-arrival' } : found;
      }
    }
  } catch (error) {
    const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown';
    return { kind: 'error', code, message: error instanceof Error ? error.message : String(error) };
  }
}

/** The quickest level: the link is slow, but not that slow. */
const LEVEL = 1;
/** What is tried first, and what must come of it and of the whole. */
const TRIAL_BYTES = 16 * 1024;
const WORTH_IT = 0.9;

function pack(block: Uint8Array): number | undefined {
  const trial = block.subarray(0, TRIAL_BYTES);
  if (deflateRawSync(trial, { level: LEVEL }).length > trial.length * WORTH_IT) return undefined;
  const packed = deflateRawSync(block, { level: LEVEL });
  if (packed.length > block.length * WORTH_IT) return undefined;
  block.set(packed);
  return packed.length;
}

/** In its place; false if it does not come to exactly this block's length. */
function unpack(block: Uint8Array, packed: number): boolean {
  try {
    const bytes = inflateRawSync(block.slice(0, packed), { maxOutputLength: block.length });
    if (bytes.length !== block.length) return false;
    block.set(bytes);
    return true;
  } catch {
    return false; // no deflated data, or more than a block
  }
}

/** The target is whole sectors; what lies behind the block's end is read along and left out. */
function readAndDigest(fd: number, target: Uint8Array, offset: number, length: number): BlockOutcome {
  let filled = 0;
  while (filled < length) {
    const got = readSync(fd, target, filled, target.length - filled, offset + filled);
    if (got === 0) return { kind: 'short' };
    filled += got;
    if (filled < length && filled % SECTOR_BYTES !== 0) return { kind: 'short' }; // O_DIRECT ends in mid-sector only at the end of the file
  }
  return { kind: 'done', digest: digestOf(target.subarray(0, length)) };
}

/** Whole sectors go past the page cache; what remains of the last one cannot, and is synced instead. */
function write(fd: number, tailFd: number, bytes: Uint8Array, offset: number): void {
  const whole = bytes.length - bytes.length % SECTOR_BYTES;
  writeAll(fd, bytes.subarray(0, whole), offset);
  if (whole < bytes.length) {
    writeAll(tailFd, bytes.subarray(whole), offset + whole);
    fdatasyncSync(tailFd);
  }
}

function writeAll(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
}

function compare(outcome: BlockOutcome, digest: Uint8Array): BlockOutcome {
  return outcome.kind === 'done' && !same(outcome.digest, digest) ? { kind: 'not-what-was-written' } : outcome;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function roundUp(length: number): number {
  return Math.ceil(length / SECTOR_BYTES) * SECTOR_BYTES;
}
