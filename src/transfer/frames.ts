import { isErrorData, type ErrorData } from '../model/errors.js';
import { MAP_BYTES, PART_DIGEST_BYTES, PARTS } from './delta.js';
import { DIGEST_BYTES, type Geometry } from './geometry.js';
import { Refusal } from './refusals.js';

/**
 * The wire. Both sides begin with a preamble (8 bytes of magic, 4 of version), then come frames: a header of 8 bytes
 * (type, stream, two zero bytes, payload length) and a payload. Numbers are little-endian.
 *
 *   sender:   HELLO (SAME | ZERO | DATA | PACKED | PATCH | PACKED_PATCH | ASK)* END, then end of file; or ABORT
 *   receiver: READY (HAVE | PARTS)* RESULT; or ERROR
 *   both:     PING at any time between
 *
 * Blocks are answered in order, each exactly once. Before that the sender may ASK about a block, in order, too; he is told the digests of its PARTS, or
 * nothing if it can't be read, and may then answer with those parts only that have changed. PACKED: the bytes are deflated (RFC 1951).
 *
 * The stream is 0, but for frames with bytes of a block: these bytes may come on a side stream that was joined before (`side-streams.ts`), in the order of their
 * frames, which carry the prefix alone then. A side stream has nothing but such bytes, and ends after the last of them.
 */
export const MAGIC = Buffer.from('dr-xfer\n', 'latin1');
export const WIRE_VERSION = 5;
export const PREAMBLE_BYTES = MAGIC.length + 4;
export const HEADER_BYTES = 8;

export const PING_MS = 3_000;
/** A side that heard nothing for this long gives up: a cut link gives no end of file. */
export const SILENCE_MS = 12_000;
/** The receiver's first byte may take this long: ssh connects and a program starts, perhaps on a busy host. */
export const START_MS = 60_000;

/** Receiver's digests that may be on their way to the sender or not yet answered, in blocks. */
export const LOOKAHEAD = 1024;
/** Blocks that the sender may have asked about and not yet answered. */
export const ASK_MAX = 64;
/** Streams besides the one of the frames. */
export const SIDE_STREAMS_MAX = 7;
/** A frame of digests holds no more than this many. */
export const HAVE_MAX = 256;

export const TYPE = {
  ping: 0x01, hello: 0x02, abort: 0x03,
  same: 0x10, zero: 0x11, data: 0x12, end: 0x13, packed: 0x14, ask: 0x15, patch: 0x16, 'packed-patch': 0x17,
  ready: 0x20, have: 0x21, result: 0x22, error: 0x23, parts: 0x24,
} as const;

export type FrameType = keyof typeof TYPE;

const NAMES = new Map<number, FrameType>(Object.entries(TYPE).map(([name, code]) => [code, name as FrameType]));

const RUN_BYTES = 16;
/** Index and digest of a block, before its bytes. */
export const DATA_PREFIX_BYTES = 8 + DIGEST_BYTES;
/** The same and a map of the parts that follow, before these. */
export const PATCH_PREFIX_BYTES = DATA_PREFIX_BYTES + MAP_BYTES;
const END_BYTES = 3 * 8 + DIGEST_BYTES;
const JSON_MAX = 64 * 1024;

export interface Header {
  readonly type: FrameType;
  readonly length: number;
  /** Where the bytes of a block are. */
  readonly stream: number;
}

export function preamble(): Buffer {
  const bytes = Buffer.alloc(PREAMBLE_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(WIRE_VERSION, MAGIC.length);
  return bytes;
}

export function checkPreamble(bytes: Buffer): void {
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) throw new Refusal('not-ours', `it began with ${JSON.stringify(bytes.toString('latin1'))}`);
  const version = bytes.readUInt32LE(MAGIC.length);
  if (version !== WIRE_VERSION) throw new Refusal('version', `${String(version)} there, ${String(WIRE_VERSION)} here`);
}

export function header(type: FrameType, length: number): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.writeUInt8(TYPE[type], 0);
  bytes.writeUInt32LE(length, 4);
  return bytes;
}

/** Reads a header and holds the length against what the type can have, so that nothing is allocated on a liar's word. */
export function parseHeader(bytes: Buffer, blockBytes: number): Header {
  const code = bytes.readUInt8(0);
  const type = NAMES.get(code);
  if (type === undefined) throw new Refusal('unknown-type', `0x${code.toString(16)}`);
  const stream = bytes.readUInt8(1);
  if (bytes.readUInt16LE(2) !== 0 || (stream !== 0 && !isBlock(type))) throw new Refusal('reserved');
  const length = bytes.readUInt32LE(4);
  if (!possible(type, length, blockBytes)) throw new Refusal('frame-length', `${type} of ${String(length)} bytes`);
  return { type, length, stream };
}

function possible(type: FrameType, length: number, blockBytes: number): boolean {
  switch (type) {
    case 'ping': return length === 0;
    case 'same': case 'zero': return length === RUN_BYTES;
    case 'end': return length === END_BYTES;
    case 'data': case 'packed': return length > DATA_PREFIX_BYTES && length <= DATA_PREFIX_BYTES + blockBytes;
    case 'patch': case 'packed-patch': return length >= PATCH_PREFIX_BYTES && length <= PATCH_PREFIX_BYTES + blockBytes;
    case 'ask': return length === 8;
    case 'parts': return length >= 8 && length <= 8 + PARTS * PART_DIGEST_BYTES && (length - 8) % PART_DIGEST_BYTES === 0;
    case 'have': return length > 8 && length <= 8 + HAVE_MAX * DIGEST_BYTES && (length - 8) % DIGEST_BYTES === 0;
    case 'hello': case 'abort': case 'ready': case 'result': case 'error': return length > 0 && length <= JSON_MAX;
  }
}

function frame(type: FrameType, payload: Buffer): Buffer {
  return Buffer.concat([header(type, payload.length), payload]);
}

export function pingFrame(): Buffer {
  return header('ping', 0);
}

export function jsonFrame(type: 'hello' | 'abort' | 'ready' | 'result' | 'error', value: unknown): Buffer {
  return frame(type, Buffer.from(JSON.stringify(value)));
}

/** `count` blocks from `first` on are the same, or are zero. */
export interface Run {
  readonly first: number;
  readonly count: number;
}

export function runFrame(type: 'same' | 'zero', { first, count }: Run): Buffer {
  const payload = Buffer.alloc(RUN_BYTES);
  payload.writeBigUInt64LE(BigInt(first), 0);
  payload.writeBigUInt64LE(BigInt(count), 8);
  return frame(type, payload);
}

export function parseRun(payload: Buffer): Run {
  return { first: number(payload, 0), count: number(payload, 8) };
}

/** A frame that answers a block with bytes of it. */
export type BlockFrame = 'data' | 'packed' | 'patch' | 'packed-patch';

/** Header and prefix of such a frame; `length` bytes follow: the block's, or those of the parts on the map, or what they were packed into. */
export function blockPrefix(type: BlockFrame, index: number, digest: Uint8Array, length: number, map?: Uint8Array): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + prefixBytes(type));
  header(type, prefixBytes(type) + length).copy(bytes);
  bytes.writeBigUInt64LE(BigInt(index), HEADER_BYTES);
  bytes.set(digest, HEADER_BYTES + 8);
  if (map !== undefined) bytes.set(map, HEADER_BYTES + DATA_PREFIX_BYTES);
  return bytes;
}

/** The same frame, its bytes on a side stream. */
export function onStream(stream: number, prefix: Buffer): Buffer {
  prefix.writeUInt8(stream, 1);
  return prefix;
}

function isBlock(type: FrameType): boolean {
  return type === 'data' || type === 'packed' || type === 'patch' || type === 'packed-patch';
}

export function isPacked(type: BlockFrame): boolean {
  return type === 'packed' || type === 'packed-patch';
}

/** Bytes of the prefix of such a frame. */
export function prefixBytes(type: BlockFrame): number {
  return type === 'patch' || type === 'packed-patch' ? PATCH_PREFIX_BYTES : DATA_PREFIX_BYTES;
}

export function parseBlockPrefix(prefix: Buffer): { readonly index: number; readonly digest: Buffer; readonly map: Buffer | undefined } {
  const map = prefix.length === PATCH_PREFIX_BYTES ? Buffer.from(prefix.subarray(DATA_PREFIX_BYTES)) : undefined;
  return { index: number(prefix, 0), digest: Buffer.from(prefix.subarray(8, DATA_PREFIX_BYTES)), map };
}

/** What are the parts of this block? */
export function askFrame(index: number): Buffer {
  const payload = Buffer.alloc(8);
  payload.writeBigUInt64LE(BigInt(index), 0);
  return frame('ask', payload);
}

export function parseAsk(payload: Buffer): number {
  return number(payload, 0);
}

/** How many blocks were answered how. */
export interface Counts {
  readonly same: number;
  readonly zero: number;
  readonly data: number;
}

export function endFrame(counts: Counts, total: Uint8Array): Buffer {
  const payload = Buffer.alloc(END_BYTES);
  payload.writeBigUInt64LE(BigInt(counts.same), 0);
  payload.writeBigUInt64LE(BigInt(counts.zero), 8);
  payload.writeBigUInt64LE(BigInt(counts.data), 16);
  payload.set(total, 24);
  return frame('end', payload);
}

export function parseEnd(payload: Buffer): { readonly counts: Counts; readonly total: Buffer } {
  return {
    counts: { same: number(payload, 0), zero: number(payload, 8), data: number(payload, 16) },
    total: Buffer.from(payload.subarray(24, 24 + DIGEST_BYTES)),
  };
}

/** The digests of blocks from `index` on, or of the parts of the block `index`: none if it can't be read. */
export function digestsFrame(type: 'have' | 'parts', index: number, digests: Uint8Array): Buffer {
  const payload = Buffer.alloc(8 + digests.length);
  payload.writeBigUInt64LE(BigInt(index), 0);
  payload.set(digests, 8);
  return frame(type, payload);
}

export function parseDigests(payload: Buffer): { readonly index: number; readonly digests: Buffer } {
  return { index: number(payload, 0), digests: Buffer.from(payload.subarray(8)) };
}

/** The sender's first words: which ticket, the proof that it was given to him, and what is coming. */
export interface Hello {
  readonly ticket: string;
  readonly secret: string;
  readonly bytes: number;
  readonly blockBytes: number;
  /** Side streams that may be joined at most. */
  readonly sideStreams: number;
}

export function parseHello(payload: Buffer): Hello {
  const value = parseJson(payload);
  const { ticket, secret, bytes, blockBytes, sideStreams } = value;
  if (typeof ticket !== 'string' || typeof secret !== 'string' || !isSize(bytes) || !isSize(blockBytes) || !isSize(sideStreams) || sideStreams > SIDE_STREAMS_MAX) {
    throw new Refusal('bad-json', 'hello');
  }
  return { ticket, secret, bytes, blockBytes, sideStreams };
}

/** Whether digests of what is there will follow, or everything there reads as zeros. */
export interface Ready {
  readonly compare: boolean;
  readonly disk: Geometry;
}

export function parseReady(payload: Buffer): { readonly compare: boolean } {
  const { compare } = parseJson(payload);
  if (typeof compare !== 'boolean') throw new Refusal('bad-json', 'ready');
  return { compare };
}

/** What the receiver found at the end. */
export interface Received {
  readonly digest: string;
  /** Bytes written to the image, zeros included where they had to be written; punched ranges do not count. */
  readonly bytesWritten: number;
  /** `device`: every block was read back past the page cache, or proven so before. */
  readonly proof: 'device' | 'cached';
  /** RFC 3339; when the oldest block was last proven. */
  readonly provenSince: string;
}

export function parseReceived(value: unknown): Received | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { digest, bytesWritten, proof, provenSince } = value as Record<string, unknown>;
  if (typeof digest !== 'string' || !isSize(bytesWritten) || (proof !== 'device' && proof !== 'cached') || typeof provenSince !== 'string') return undefined;
  return { digest, bytesWritten, proof, provenSince };
}

export function parseResult(payload: Buffer): Received {
  const result = parseReceived(parseJson(payload));
  if (result === undefined) throw new Refusal('bad-json', 'result');
  return result;
}

export function parseError(payload: Buffer): ErrorData {
  const value = parseJson(payload);
  if (!isErrorData(value)) throw new Refusal('bad-json', 'error');
  return value;
}

function parseJson(payload: Buffer): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(payload.toString('utf8'));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // refused below, like any other JSON that is not an object
  }
  throw new Refusal('bad-json');
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

/** A 64-bit number; one that is too large to be an index is kept too large, and refused where it is used. */
function number(payload: Buffer, offset: number): number {
  const value = payload.readBigUInt64LE(offset);
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
}
