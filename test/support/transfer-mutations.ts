import { DATA_PREFIX_BYTES, HEADER_BYTES, PREAMBLE_BYTES, TYPE } from '../../src/transfer/frames.js';

/** A recorded stream taken to pieces, and everything that can go wrong with it. */
export interface Stream {
  readonly preamble: Buffer;
  readonly frames: readonly Buffer[];
}

/** A seeded source of numbers, so that a failing stream can be made again. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 ≤ n < below (mulberry32). */
  roll(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.roll(from.length)] as T;
  }
}

export function takeApart(bytes: Buffer): Stream {
  const frames: Buffer[] = [];
  for (let at = PREAMBLE_BYTES; at + HEADER_BYTES <= bytes.length;) {
    const length = HEADER_BYTES + bytes.readUInt32LE(at + 4);
    frames.push(Buffer.from(bytes.subarray(at, at + length)));
    at += length;
  }
  return { preamble: Buffer.from(bytes.subarray(0, PREAMBLE_BYTES)), frames };
}

export function putTogether(stream: Stream): Buffer {
  return Buffer.concat([stream.preamble, ...stream.frames]);
}

/** Bytes of one mutated stream, in what they were changed, and whether the stream then stays open without a word. */
export interface Mutant {
  readonly what: string;
  readonly bytes: Buffer;
  readonly silent?: boolean;
}

type Change = (stream: Stream, dice: Dice) => Mutant;

const frameOf = (type: number, payload: Buffer): Buffer => {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(type, 0);
  header.writeUInt32LE(payload.length, 4);
  return Buffer.concat([header, payload]);
};

function replaceFrame(stream: Stream, index: number, ...by: readonly Buffer[]): Buffer {
  return putTogether({ ...stream, frames: [...stream.frames.slice(0, index), ...by, ...stream.frames.slice(index + 1)] });
}

function ofType(stream: Stream, ...types: readonly number[]): number[] {
  return stream.frames.flatMap((frame, index) => types.includes(frame.readUInt8(0)) ? [index] : []);
}

function edited(stream: Stream, index: number, edit: (frame: Buffer) => void): Buffer {
  const frame = Buffer.from(stream.frames[index] as Buffer);
  edit(frame);
  return replaceFrame(stream, index, frame);
}

const hello = (stream: Stream, change: (greeting: Record<string, unknown>) => unknown): Buffer => {
  const greeting = JSON.parse((stream.frames[0] as Buffer).subarray(HEADER_BYTES).toString()) as Record<string, unknown>;
  return replaceFrame(stream, 0, frameOf(TYPE.hello, Buffer.from(JSON.stringify(change(greeting)))));
};

/** Answers that have a block's bytes, or some of them. */
const BLOCKS: readonly number[] = [TYPE.data, TYPE.packed, TYPE.patch, TYPE['packed-patch']];

const numbers = (dice: Dice): bigint => dice.pick([0n, 1n, 2n, 3n, 5n, 9n, 13n, 14n, 1000n, 2n ** 32n, 2n ** 53n, 2n ** 64n - 1n]);

/** Each knows the stream's structure; some of what they make is still a good stream, and must then arrive whole. */
const CHANGES: Readonly<Record<string, Change>> = {
  'a bit flipped anywhere': (stream, dice) => {
    const bytes = putTogether(stream);
    const at = dice.roll(bytes.length);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << dice.roll(8));
    return { what: `bit at ${String(at)}`, bytes };
  },
  'a bit flipped in a header': (stream, dice) => {
    const index = dice.roll(stream.frames.length);
    return { what: `header ${String(index)}`, bytes: edited(stream, index, (frame) => { const at = dice.roll(HEADER_BYTES); frame[at] = (frame[at] ?? 0) ^ (1 << dice.roll(8)); }) };
  },
  'the preamble changed': (stream, dice) => {
    const preamble = Buffer.from(stream.preamble);
    preamble[dice.roll(preamble.length)] = dice.roll(256);
    return { what: 'preamble', bytes: putTogether({ ...stream, preamble }) };
  },
  'another greeting': (stream, dice) => {
    const how = dice.roll(8);
    return { what: `greeting ${String(how)}`, bytes: hello(stream, (greeting) => [
      { ...greeting, secret: `${String(greeting['secret'])}0` }, { ...greeting, ticket: 'x' }, { ...greeting, bytes: dice.roll(100_000) },
      { ...greeting, blockBytes: 512 }, { ...greeting, bytes: -1 }, { ...greeting, secret: 5 }, [greeting], { ...greeting, more: true },
    ][how]) };
  },
  'JSON that is none': (stream, dice) => ({ what: 'broken JSON', bytes: edited(stream, 0, (frame) => { frame[HEADER_BYTES + dice.roll(frame.length - HEADER_BYTES)] = 0x22; }) }),
  'a frame left out': (stream, dice) => {
    const index = dice.roll(stream.frames.length);
    return { what: `without frame ${String(index)}`, bytes: replaceFrame(stream, index) };
  },
  'a frame twice': (stream, dice) => {
    const index = dice.roll(stream.frames.length);
    const frame = stream.frames[index] as Buffer;
    return { what: `frame ${String(index)} twice`, bytes: replaceFrame(stream, index, frame, frame) };
  },
  'two frames exchanged': (stream, dice) => {
    const frames = [...stream.frames];
    const [a, b] = [dice.roll(frames.length), dice.roll(frames.length)];
    [frames[a], frames[b]] = [frames[b] as Buffer, frames[a] as Buffer];
    return { what: `frames ${String(a)} and ${String(b)} exchanged`, bytes: putTogether({ ...stream, frames }) };
  },
  'a frame put in': (stream, dice) => {
    const index = dice.roll(stream.frames.length);
    const type = dice.pick([...Object.values(TYPE), 0, 0x7f, 0xff]);
    const extra = frameOf(type, Buffer.alloc(dice.pick([0, 1, 8, 16, 40, 56, 100]), dice.roll(2)));
    return { what: `frame of type ${String(type)} before ${String(index)}`, bytes: replaceFrame(stream, index, extra, stream.frames[index] as Buffer) };
  },
  'a ping put in': (stream, dice) => {
    const index = dice.roll(stream.frames.length);
    return { what: `ping before ${String(index)}`, bytes: replaceFrame(stream, index, frameOf(TYPE.ping, Buffer.alloc(0)), stream.frames[index] as Buffer) };
  },
  'a frame of another length': (stream, dice) => {
    const index = dice.roll(stream.frames.length);
    return { what: `length of ${String(index)}`, bytes: edited(stream, index, (frame) => { frame.writeUInt32LE(dice.pick([0, 1, 16, 17, 41, 4136, 4137, 0xffffffff, frame.readUInt32LE(4) + 1]), 4); }) };
  },
  'a run of other blocks': (stream, dice) => {
    const index = dice.pick(ofType(stream, TYPE.same, TYPE.zero));
    return { what: `run in ${String(index)}`, bytes: edited(stream, index, (frame) => { frame.writeBigUInt64LE(numbers(dice), HEADER_BYTES + 8 * dice.roll(2)); }) };
  },
  'a run split in two': (stream, dice) => {
    const index = dice.pick(ofType(stream, TYPE.same, TYPE.zero));
    const frame = stream.frames[index] as Buffer;
    const [first, count] = [frame.readBigUInt64LE(HEADER_BYTES), frame.readBigUInt64LE(HEADER_BYTES + 8)];
    const cut = BigInt(dice.roll(Number(count) + 1)); // 0 and all make an empty part, which is refused
    const part = (from: bigint, many: bigint): Buffer => { const copy = Buffer.from(frame); copy.writeBigUInt64LE(from, HEADER_BYTES); copy.writeBigUInt64LE(many, HEADER_BYTES + 8); return copy; };
    return { what: `run ${String(index)} split`, bytes: replaceFrame(stream, index, part(first, cut), part(first + cut, count - cut)) };
  },
  'same called zero, or zero same': (stream, dice) => {
    const index = dice.pick(ofType(stream, TYPE.same, TYPE.zero));
    return { what: `kind of run ${String(index)}`, bytes: edited(stream, index, (frame) => { frame[0] = frame[0] === TYPE.same ? TYPE.zero : TYPE.same; }) };
  },
  'a block of another index': (stream, dice) => {
    const index = dice.pick(ofType(stream, ...BLOCKS, TYPE.ask));
    return { what: `index in ${String(index)}`, bytes: edited(stream, index, (frame) => { frame.writeBigUInt64LE(numbers(dice), HEADER_BYTES); }) };
  },
  'a block called something else': (stream, dice) => {
    const index = dice.pick(ofType(stream, ...BLOCKS));
    return { what: `kind of block ${String(index)}`, bytes: edited(stream, index, (frame) => { frame[0] = dice.pick(BLOCKS.filter((type) => type !== frame[0])); }) };
  },
  'a patch of other parts': (stream, dice) => {
    const patches = ofType(stream, TYPE.patch, TYPE['packed-patch']);
    const index = dice.pick(patches.length > 0 ? patches : ofType(stream, ...BLOCKS));
    return { what: `map of ${String(index)}`, bytes: edited(stream, index, (frame) => { const at = HEADER_BYTES + DATA_PREFIX_BYTES + dice.roll(32); if (at < frame.length) frame[at] = (frame[at] ?? 0) ^ (1 << dice.roll(8)); }) };
  },
  'a question left out': (stream, dice) => {
    const questions = ofType(stream, TYPE.ask);
    const index = questions.length > 0 ? dice.pick(questions) : dice.roll(stream.frames.length);
    return { what: `without question ${String(index)}`, bytes: replaceFrame(stream, index) };
  },
  'a block\'s bytes or digest changed': (stream, dice) => {
    const index = dice.pick(ofType(stream, ...BLOCKS));
    return { what: `content of ${String(index)}`, bytes: edited(stream, index, (frame) => { const at = HEADER_BYTES + 8 + dice.roll(frame.length - HEADER_BYTES - 8); frame[at] = (frame[at] ?? 0) ^ 0x10; }) };
  },
  'a block cut short': (stream, dice) => {
    const index = dice.pick(ofType(stream, ...BLOCKS));
    const frame = stream.frames[index] as Buffer;
    return { what: `block ${String(index)} cut`, bytes: replaceFrame(stream, index, frameOf(frame[0] ?? 0, frame.subarray(HEADER_BYTES, frame.length - 1 - dice.roll(Math.max(1, frame.length - HEADER_BYTES - 42))))) };
  },
  'another block in its place, with its digest': (stream, dice) => {
    const data = ofType(stream, TYPE.data).slice(0, -1); // the last one has another length
    const [a, b] = [dice.pick(data), dice.pick(data)];
    const other = Buffer.from(stream.frames[b] as Buffer);
    (stream.frames[a] as Buffer).copy(other, HEADER_BYTES, HEADER_BYTES, HEADER_BYTES + 8);
    return { what: `block ${String(b)} as ${String(a)}`, bytes: replaceFrame(stream, a, other) };
  },
  'an end that does not add up': (stream, dice) => ({
    what: 'end', bytes: edited(stream, stream.frames.length - 1, (frame) => { const at = HEADER_BYTES + dice.roll(frame.length - HEADER_BYTES); frame[at] = (frame[at] ?? 0) ^ (1 << dice.roll(8)); }),
  }),
  'something after the end': (stream, dice) => ({ what: 'garbage', bytes: Buffer.concat([putTogether(stream), dice.pick([Buffer.from([0]), frameOf(TYPE.ping, Buffer.alloc(0)), stream.frames.at(-1) as Buffer, Buffer.alloc(100)])]) }),
  'cut off anywhere': (stream, dice) => {
    const bytes = putTogether(stream);
    const at = dice.roll(bytes.length);
    return { what: `cut at ${String(at)}`, bytes: bytes.subarray(0, at) };
  },
};

export const CHANGE_NAMES = Object.keys(CHANGES);

/** Those that need no frame that only senders send. */
export const ANY_STREAM_CHANGES: readonly string[] = [
  'a bit flipped anywhere', 'a bit flipped in a header', 'the preamble changed', 'a frame left out', 'a frame twice', 'two frames exchanged', 'a frame put in', 'a ping put in',
  'a frame of another length', 'something after the end', 'cut off anywhere',
];

export function mutate(change: string, stream: Stream, dice: Dice): Mutant {
  const made = (CHANGES[change] as Change)(stream, dice);
  return { ...made, what: `${change}: ${made.what}` };
}
