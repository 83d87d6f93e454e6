import { fdatasyncSync, readSync, writeSync } from 'node:fs';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { gather, markedRanges, patchBytes, scatter } from './delta.js';
import { digestOf, SECTOR_BYTES } from './geometry.js';
import { changedParts, digestParts } from './part-digests.js';

/** What worker threads do with blocks: blocking reads and writes into shared memory, and hashing. One job, one block. */
export type BlockJob = DiskJob | PackJob | PartsJob | DeltaJob;

export type DiskJob =
  /** Reads a block into the slot at `slot` and digests it. */
  | { readonly kind: 'read'; readonly fd: number; readonly offset: number; readonly length: number; readonly slot: number }
  | WriteJob
  /** Reads a block back and compares. */
  | { readonly kind: 'prove'; readonly fd: number; readonly offset: number; readonly length: number; readonly digest: Uint8Array };

/**
 * Writes the block in the slot (absent: zeros) and proves that it is there. With `packed` the slot holds so many bytes that it must be unpacked from,
 * with `map` only the parts on it: all others are as they were.
 */
export interface WriteJob {
  readonly kind: 'write';
  readonly fd: number;
  readonly tailFd: number;
  readonly offset: number;
  readonly length: number;
  readonly slot?: number;
  readonly packed?: number;
  readonly map?: Uint8Array;
  /** The slot that has the block as it is, if one does; it is read otherwise, where that is needed. */
  readonly old?: number;
  /** Bytes of a whole block of this disk, as in all jobs about parts. */
  readonly blockBytes: number;
  readonly digest: Uint8Array;
  readonly readBack: boolean;
}

/** Packs the block in the slot, in its place, if it shrinks. */
export interface PackJob { readonly kind: 'pack'; readonly slot: number; readonly length: number }

/** Reads a block, into the slot if there is one, and digests its parts. */
export interface PartsJob { readonly kind: 'parts'; readonly fd: number; readonly offset: number; readonly length: number; readonly slot?: number; readonly blockBytes: number }

/** Keeps of the block in the slot, from its beginning on, those parts only that don't have the digests `held`, if there are others; packs them if it may and they shrink. */
export interface DeltaJob { readonly kind: 'delta'; readonly slot: number; readonly length: number; readonly held: Uint8Array; readonly pack: boolean; readonly blockBytes: number }

/** What a slot holds for a block: `length` bytes, of the parts on the map if there is one. */
export interface Payload {
  readonly length: number;
  readonly packed: boolean;
  readonly map?: Uint8Array;
}

export type BlockOutcome = DiskOutcome | { readonly kind: 'payload'; readonly payload: Payload } | { readonly kind: 'parts'; readonly digests: Uint8Array };

export type DiskOutcome = { readonly kind: 'done'; readonly digest: Uint8Array } | BlockFailure;

export type BlockFailure =
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
      case 'parts': {
        const block = read(job.fd, view(job.slot ?? pages.scratch, roundUp(job.length)), job.offset, job.length);
        return block === undefined ? { kind: 'short' } : { kind: 'parts', digests: digestParts(block, job.blockBytes) };
      }
      case 'pack':
        return { kind: 'payload', payload: packed(view(job.slot, job.length)) };
      case 'delta': {
        const block = view(job.slot, job.length);
        const map = changedParts(block, job.blockBytes, job.held);
        if (patchBytes(map, job.length, job.blockBytes) === job.length) return { kind: 'payload', payload: job.pack ? packed(block) : { length: job.length, packed: false } };
        const parts = block.subarray(0, gather(block, map, job.blockBytes));
        return { kind: 'payload', payload: { ...(job.pack ? packed(parts) : { length: parts.length, packed: false }), map } };
      }
      case 'write':
        return job.map === undefined ? writeWhole(job, pages) : writeParts(job, job.map, pages);
    }
  } catch (error) {
    const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown';
    return { kind: 'error', code, message: error instanceof Error ? error.message : String(error) };
  }
}

function writeWhole(job: WriteJob, pages: WorkerPages): DiskOutcome {
  const bytes = new Uint8Array(pages.memory, job.slot ?? pages.zeros, job.length);
  if (job.packed !== undefined && !unpack(bytes, job.packed)) return { kind: 'damaged-on-arrival' };
  if (!job.readBack && !same(digestOf(bytes), job.digest)) return { kind: 'damaged-on-arrival' };
  write(job.fd, job.tailFd, bytes, job.offset);
  if (!job.readBack) return { kind: 'done', digest: job.digest };
  const found = compare(readAndDigest(job.fd, new Uint8Array(pages.memory, pages.scratch, roundUp(job.length)), job.offset, job.length), job.digest);
  // One digest proves the way here and the device; only if it fails must it be told which.
  return found.kind === 'not-what-was-written' && !same(digestOf(bytes), job.digest) ? { kind: 'damaged-on-arrival' } : found;
}

/** All parts were read from the device, those on the map after they were written: so the digest proves the way here and the device. */
function writeParts(job: WriteJob, map: Uint8Array, pages: WorkerPages): DiskOutcome {
  const slot = new Uint8Array(pages.memory, job.slot ?? pages.zeros, roundUp(job.length));
  const parts = slot.subarray(0, patchBytes(map, job.length, job.blockBytes));
  if (job.packed !== undefined && !unpack(parts, job.packed)) return { kind: 'damaged-on-arrival' };
  const block = job.old === undefined ? read(job.fd, new Uint8Array(pages.memory, pages.scratch, roundUp(job.length)), job.offset, job.length)
    : new Uint8Array(pages.memory, job.old, job.length);
  if (block === undefined) return { kind: 'short' };
  scatter(parts, map, job.blockBytes, block);
  if (!job.readBack && !same(digestOf(block), job.digest)) return { kind: 'damaged-on-arrival' };
  let lost = false;
  for (const [start, end] of markedRanges(map, job.length, job.blockBytes, SECTOR_BYTES)) {
    const range = block.subarray(start, end);
    write(job.fd, job.tailFd, range, job.offset + start);
    if (!job.readBack) continue;
    const found = read(job.fd, slot.subarray(0, roundUp(range.length)), job.offset + start, range.length); // the parts are in their places: their slot is free
    if (found === undefined) return { kind: 'short' };
    lost ||= !same(found, range);
    range.set(found); // memory proves nothing about the device
  }
  if (lost) return { kind: 'not-what-was-written' };
  return !job.readBack || same(digestOf(block), job.digest) ? { kind: 'done', digest: job.digest } : { kind: 'damaged-on-arrival' };
}

/** The quickest level: the link is slow, but not that slow. */
const LEVEL = 1;
/** What is tried first, and what must come of it and of the whole. */
const TRIAL_BYTES = 16 * 1024;
const WORTH_IT = 0.9;

function packed(bytes: Uint8Array): Payload {
  const length = pack(bytes);
  return { length: length ?? bytes.length, packed: length !== undefined };
}

/** Packs in place, if that is worth it; into how many bytes. */
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

/** Reads a block; undefined if the file ends before it. The target is whole sectors: what lies behind the block's end is read along and left out. */
function read(fd: number, target: Uint8Array, offset: number, length: number): Uint8Array | undefined {
  let filled = 0;
  while (filled < length) {
    const got = readSync(fd, target, filled, target.length - filled, offset + filled);
    if (got === 0) return undefined;
    filled += got;
    if (filled < length && filled % SECTOR_BYTES !== 0) return undefined; // O_DIRECT ends in mid-sector only at the end of the file
  }
  return target.subarray(0, length);
}

function readAndDigest(fd: number, target: Uint8Array, offset: number, length: number): DiskOutcome {
  const block = read(fd, target, offset, length);
  return block === undefined ? { kind: 'short' } : { kind: 'done', digest: digestOf(block) };
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

function compare(outcome: DiskOutcome, digest: Uint8Array): DiskOutcome {
  return outcome.kind === 'done' && !same(outcome.digest, digest) ? { kind: 'not-what-was-written' } : outcome;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function roundUp(length: number): number {
  return Math.ceil(length / SECTOR_BYTES) * SECTOR_BYTES;
}
