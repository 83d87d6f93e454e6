import assert from 'node:assert/strict';
import { access, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, type Transform } from 'node:stream';
import { DrError } from '../../src/model/errors.js';
import { BlockPool } from '../../src/transfer/block-pool.js';
import { DATA_PREFIX_BYTES, HEADER_BYTES, digestsFrame, jsonFrame, preamble, PREAMBLE_BYTES, TYPE } from '../../src/transfer/frames.js';
import { PART_DIGEST_BYTES } from '../../src/transfer/delta.js';
import { digestOf } from '../../src/transfer/geometry.js';
import { identify } from '../../src/transfer/image-file.js';
import { receive } from '../../src/transfer/receive.js';
import { Refusal, REFUSALS, type RefusalName } from '../../src/transfer/refusals.js';
import { send } from '../../src/transfer/send.js';
import type { Offer } from '../../src/transfer/ticket.js';
import { StreamSource } from '../../src/transfer/wire-source.js';
import { SOAK } from '../support/skip.js';
import { ANY_STREAM_CHANGES, CHANGE_NAMES, Dice, mutate, putTogether, takeApart, type Mutant, type Stream } from '../support/transfer-mutations.js';
import { pipe } from '../support/transfer-ground.js';

/** Small blocks, so that thousands of streams take seconds. 13 blocks, the last of 1536 bytes. */
const BLOCK = 4096;
const BLOCKS = 13;
const BYTES = 12 * BLOCK + 1536;
const STREAMS = SOAK ? 100_000 : 10_000;
/** Each of these needs threads of its own, which a failure spoils. */
const BACKWARD_STREAMS = STREAMS / 200;
const SEED = Number(process.env['DR_SEED'] ?? '20261120');

/** Good transfers whose streams are recorded and then spoiled. One letter per block: `.` zeros, any other its own noise. */
const TALES = {
  compared: { source: 'ab...cdabcabe', old: 'abfffffabfabf' },
  fresh: { source: 'ab...cd..abce', old: undefined },
  /** Five blocks of zeros are punched instead of written, by a program: few of these. */
  punched: { source: 'ab.....cdabce', old: 'abfffffffabff' },
  /** `#` is the same byte throughout, and goes packed. */
  packed: { source: 'a##..b#cd##a#', old: undefined },
  /** A capital is its letter with another byte, `Z` is `z` with many that are the same. */
  patched: { source: 'aBZ..cdabcAbE', old: 'abzffffabfabe' },
  /** One question: for what a receiver says. */
  asked: { source: 'abzffffabfAbe', old: 'abzffffabfabe' },
} as const;
type Tale = keyof typeof TALES;

describe('a stream that is not what it should be', function () {
  this.timeout(SOAK ? 1_200_000 : 120_000);
  const hits = new Map<RefusalName | 'arrived whole', number>();
  let place: string;
  let pool: BlockPool;
  const streams = new Map<Tale, Stream>();
  /** What a good receiver says. */
  let answer: Stream;

  const hit = (name: RefusalName | 'arrived whole'): void => { hits.set(name, (hits.get(name) ?? 0) + 1); };
  const path = (name: string): string => join(place, name);

  before(async () => {
    place = await memoryDirectory();
    pool = new BlockPool({ slots: 12, workers: 2, blockBytes: BLOCK });
    await mkdir(path('ticket'));
    for (const tale of Object.keys(TALES) as Tale[]) streams.set(tale, await record(tale));
  });
  after(async () => {
    await pool[Symbol.asyncDispose]();
    await rm(place, { recursive: true, force: true });
  });

  const streamOf = (tale: Tale): Stream => streams.get(tale) ?? assert.fail(`nothing was recorded of ${tale}`);

  async function offer(tale: Tale, readBack: boolean): Promise<Offer> {
    const { old } = TALES[tale];
    await writeFile(path('image'), old === undefined ? '' : disk(old));
    if (old === undefined) await truncate(path('image'), BYTES);
    await rm(path('ticket/result.json'), { force: true });
    const { identity, mtime } = await identify(path('image'));
    return { version: 1, path: path('image'), bytes: BYTES, start: old === undefined ? 'fresh' : 'read', readBack, secretHash: '', identity, mtime, owner: { pid: 0, startTime: '', bootId: '' } };
  }

  function receiving(input: Readable, output: Transform, what: Offer, silenceMs = 5_000): Promise<unknown> {
    return receive(new StreamSource(input), output, {
      pool, blockBytes: BLOCK, silenceMs,
      admit: (hello) => {
        if (hello.ticket !== 'ours' || hello.secret !== 'secret') return Promise.reject(new Refusal('ticket'));
        return Promise.resolve({ directory: path('ticket'), offer: what, usedBefore: false, [Symbol.asyncDispose]: () => Promise.resolve() });
      },
    });
  }

  /** What a good sender says; what the receiver answers is kept, too. */
  async function record(tale: Tale): Promise<Stream> {
    const [there, back, heard] = [pipe(), pipe(), pipe()];
    const [said, answered]: [Buffer[], Buffer[]] = [[], []];
    there.on('data', (chunk: Buffer) => said.push(chunk));
    back.on('data', (chunk: Buffer) => {
      answered.push(chunk);
      heard.write(chunk);
    });
    await writeFile(path('source'), disk(TALES[tale].source));
    const received = receiving(there, back, await offer(tale, true));
    await send({ source: { path: path('source'), bytes: BYTES, direct: true }, to: { host: 'local', agentCommand: [] }, ticket: 'ours', secret: 'secret' },
      { blockBytes: BLOCK, ...(tale === 'packed' || tale === 'patched' ? { packBelow: Number.POSITIVE_INFINITY } : {}), connect: () => ({ input: heard, output: there, ended: () => Promise.resolve('it ended'), kill: () => undefined }) });
    await received;
    assert.ok((await readFile(path('image'))).equals(disk(TALES[tale].source)));
    const recorded = takeApart(Buffer.concat(said));
    const types = recorded.frames.map((frame) => frame.readUInt8(0));
    if (tale === 'asked') {
      answer = takeApart(Buffer.concat(answered));
      return recorded;
    }
    for (const type of [TYPE.hello, ...(TALES[tale].old === undefined ? [] : [TYPE.same]), ...(tale === 'packed' ? [TYPE.packed] : []), ...(tale === 'patched' ? [TYPE.ask, TYPE.patch, TYPE['packed-patch']] : []), TYPE.zero, TYPE.data, TYPE.end]) assert.ok(types.includes(type), `the recorded stream has no frame of type ${String(type)}`);
    return recorded;
  }

  /** Plays a stream to a receiver; what it was refused for. A good one must have arrived whole, a refused one must not be complete. */
  async function play(tale: Tale, mutant: Mutant, readBack: boolean): Promise<RefusalName | 'arrived whole'> {
    const what = await offer(tale, readBack);
    const output = pipe();
    let offered: () => void = () => undefined;
    const allOffered = new Promise<void>((resolve) => { offered = resolve; });
    let said = Buffer.alloc(0);
    output.on('data', (chunk: Buffer) => {
      said = Buffer.concat([said, chunk]);
      if (what.start === 'fresh' ? said.length > PREAMBLE_BYTES : digestsIn(said) === BLOCKS) offered();
    });
    output.on('end', offered).on('close', offered);
    const greeting = greetingOf(mutant.bytes);
    // The answers wait until everything was offered: a good sender does not know of blocks before.
    const input = Readable.from((async function* () {
      yield mutant.bytes.subarray(0, greeting);
      if (mutant.bytes.length > greeting) {
        await allOffered;
        yield mutant.bytes.subarray(greeting);
      }
      if (mutant.silent === true) await new Promise<void>((resolve) => { output.on('end', resolve); });
    })(), { objectMode: true });
    const failure: unknown = await receiving(input, output, what, mutant.silent === true ? 100 : 5_000).then(() => undefined, (error: unknown) => error);
    const complete = await access(path('ticket/result.json')).then(() => true, () => false);
    if (failure === undefined) {
      assert.ok(complete, `${mutant.what}: no result was kept`);
      assert.ok((await readFile(path('image'))).equals(disk(TALES[tale].source)), `${mutant.what}: called complete, and is not`);
      return 'arrived whole';
    }
    assert.ok(failure instanceof Refusal, `${mutant.what}: ${String(failure)}`);
    assert.ok(!complete, `${mutant.what}: refused and complete`);
    return failure.refusal;
  }

  it('arrives whole when nothing is changed, and again', async () => {
    for (const [tale, stream] of streams) {
      for (const readBack of [true, false]) assert.equal(await play(tale, { what: 'unchanged', bytes: putTogether(stream) }, readBack), 'arrived whole');
    }
  });

  for (const tale of ['compared', 'fresh', 'packed', 'patched'] as const) {
    it(`is refused as truncated wherever it ends between two frames, or within what comes before a block's bytes (${tale})`, async () => {
      const whole = putTogether(streamOf(tale));
      const ends = endsOf(streamOf(tale));
      for (const end of ends) {
        assert.equal(await play(tale, { what: `ends at ${String(end)}`, bytes: whole.subarray(0, end) }, false), 'truncated', `it ended at ${String(end)}`);
        hit('truncated');
      }
      assert.ok(ends.length > 400, `only ${String(ends.length)} ends were tried`);
    });
  }

  it('is refused when it calls blocks the same that were never compared', async () => {
    const output = pipe().resume();
    await assert.rejects(receiving(Readable.from([putTogether(streamOf('compared'))]), output, await offer('fresh', true)), { refusal: 'not-offered' });
    hit('not-offered');
  });

  it('is given up when it stays open and says nothing', async () => {
    const whole = putTogether(streamOf('compared'));
    for (const at of [0, 5, PREAMBLE_BYTES, whole.length - 30, whole.length]) {
      assert.equal(await play('compared', { what: `silent at ${String(at)}`, bytes: whole.subarray(0, at), silent: true }, true), 'silence');
      hit('silence');
    }
  });

  it(`is refused, or arrives whole, in ${String(STREAMS)} mutations`, async () => {
    const dice = new Dice(SEED);
    for (let round = 0; round < STREAMS; round++) {
      const tale = round % 80 === 7 ? 'punched' : (['compared', 'patched', 'packed', 'fresh'] as const)[round % 4] ?? 'compared';
      const mutant = mutate(dice.pick(CHANGE_NAMES), streamOf(tale), dice);
      hit(await play(tale, { ...mutant, what: `round ${String(round)} of seed ${String(SEED)}: ${mutant.what}` }, round % 100 === 0));
    }
  });

  describe('on its way back to the sender', () => {
    const zero = Buffer.alloc(32);
    const cases: readonly (readonly [RefusalName, string, (greeted: Buffer) => Buffer])[] = [
      ['lookahead', 'digests that leave out a block', (ready) => Buffer.concat([ready, digestsFrame('have', 1, zero)])],
      ['out-of-place', 'parts that were not asked for', (ready) => Buffer.concat([ready, digestsFrame('parts', 0, Buffer.alloc(256 * PART_DIGEST_BYTES))])],
      ['lookahead', 'digests of blocks that the disk does not have', (ready) => Buffer.concat([ready, digestsFrame('have', 0, Buffer.alloc(14 * 32))])],
      ['out-of-place', 'a result before the end', (ready) => Buffer.concat([ready, jsonFrame('result', { digest: 'x', bytesWritten: 0, proof: 'device', provenSince: '' })])],
      ['out-of-place', 'readiness twice', (ready) => Buffer.concat([ready, jsonFrame('ready', { compare: true })])],
      ['out-of-place', 'digests before readiness', () => Buffer.concat([preamble(), digestsFrame('have', 0, zero)])],
      ['out-of-place', 'a greeting', (ready) => Buffer.concat([ready, jsonFrame('hello', {})])],
      ['bad-json', 'readiness for what', () => Buffer.concat([preamble(), jsonFrame('ready', { compare: 'perhaps' })])],
      ['bad-json', 'an error without a code', (ready) => Buffer.concat([ready, jsonFrame('error', { message: 'no' })])],
      ['unknown-type', 'an unknown frame', (ready) => Buffer.concat([ready, Buffer.from([0x55, 0, 0, 0, 0, 0, 0, 0])])],
      ['frame-length', 'a frame of impossible length', (ready) => Buffer.concat([ready, Buffer.from([TYPE.have, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f])])],
      ['reserved', 'a header with other bits', (ready) => Buffer.concat([ready, Buffer.from([TYPE.ping, 1, 0, 0, 0, 0, 0, 0])])],
      ['version', 'another version', () => { const other = preamble(); other[8] = 9; return other; }],
    ];
    for (const [refusal, what, bytes] of cases) {
      it(`refuses ${what} (${refusal})`, async () => {
        const error = await sendTo(bytes(Buffer.concat([preamble(), jsonFrame('ready', { compare: true })])));
        assert.ok(error instanceof Refusal && error.refusal === refusal, String(error));
        hit(refusal);
      });
    }

    it(`is refused, or as good as it was, in ${String(BACKWARD_STREAMS)} mutations`, async () => {
      const dice = new Dice(SEED + 1);
      for (let round = 0; round < BACKWARD_STREAMS; round++) await answered(mutate(dice.pick(ANY_STREAM_CHANGES), answer, dice));
    });

    it('is not believed wherever it ends between two frames, or in the result', async () => {
      const whole = putTogether(answer);
      const last = answer.frames.at(-1)?.length ?? 0;
      const ends = [...framesEnd(answer), ...[1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, last - 1].map((into) => whole.length - last + into)];
      for (const end of ends) assert.equal(await answered({ what: `ends at ${String(end)}`, bytes: whole.subarray(0, end) }), 'connection-lost');
    });

    /** Plays what a receiver says to a sender, nothing before it is due: parts after the question, the result after the end. How that ended. */
    async function answered({ what, bytes }: Mutant): Promise<string> {
      const [there, back] = [pipe(), pipe()];
      const due = Math.max(0, bytes.length - (answer.frames.at(-1)?.length ?? 0));
      const parts = Math.min(due, (framesEnd(answer)[1 + answer.frames.findIndex((frame) => frame.readUInt8(0) === TYPE.parts)] ?? 0));
      let heard = Buffer.alloc(0);
      let asked = false;
      there.on('data', (chunk: Buffer) => {
        heard = Buffer.concat([heard, chunk]);
        if (asked || !takeApart(heard).frames.some((frame) => frame.length === HEADER_BYTES + 8 && frame.readUInt8(0) === TYPE.ask)) return;
        asked = true;
        back.write(bytes.subarray(parts, due));
      });
      there.on('end', () => { back.end(bytes.subarray(asked ? due : parts)); });
      back.write(bytes.subarray(0, parts));
      await using threads = new BlockPool({ slots: 4, workers: 1, blockBytes: BLOCK });
      const error: unknown = await sendOver(there, back, 100, threads).then(() => undefined, (thrown: unknown) => thrown);
      if (error === undefined) return 'sent';
      assert.ok(error instanceof DrError && error.code !== 'internal', `${what}: ${String(error)}`);
      if (error instanceof Refusal) hit(error.refusal);
      return error.code;
    }

    it('says what came instead of our protocol', async () => {
      const error = await sendTo(Buffer.from('Welcome to dr01!\nLast login: yesterday\n'), true);
      assert.match(String(error), /ended early: .*not our protocol/);
      hit('not-ours');
    });

    it('takes over the receiver\'s own error', async () => {
      const error = await sendTo(Buffer.concat([preamble(), jsonFrame('error', { code: 'no-space', message: 'full', hint: 'free some' })]));
      assert.deepEqual({ ...(error as { toJSON(): object }).toJSON() }, { code: 'no-space', message: 'full', hint: 'free some' });
    });

    it('gives up on a receiver that says nothing', async () => {
      const error = await sendTo(preamble(), false, 100);
      assert.ok(error instanceof Refusal && error.refusal === 'silence', String(error));
    });

    it('believes no result with another digest', async () => {
      const [there, back] = [pipe(), pipe()];
      there.resume();
      back.write(Buffer.concat([preamble(), jsonFrame('ready', { compare: false })]));
      there.on('end', () => { back.end(jsonFrame('result', { digest: `sha256-1MiB:${digestOf(Buffer.from('x')).toString('hex')}`, bytesWritten: 0, proof: 'device', provenSince: '' })); });
      await assert.rejects(sendOver(there, back), { code: 'digest-mismatch' });
    });

    async function sendTo(bytes: Buffer, end = false, silenceMs = 5_000): Promise<unknown> {
      const [there, back] = [pipe(), pipe()];
      there.resume();
      if (end) back.end(bytes);
      else back.write(bytes);
      return sendOver(there, back, silenceMs).then(() => undefined, (error: unknown) => error);
    }

    function sendOver(there: Transform, back: Transform, silenceMs = 5_000, threads?: BlockPool): Promise<unknown> {
      return send({ source: { path: path('source'), bytes: BYTES, direct: true }, to: { host: 'local', agentCommand: [] }, ticket: 'ours', secret: 'secret' },
        { blockBytes: BLOCK, silenceMs, ...(threads === undefined ? {} : { pool: threads }), connect: () => ({ input: back, output: there, ended: () => Promise.resolve('it ended'), kill: () => undefined }) });
    }
  });

  describe('altogether', () => {
    it('was refused for every reason there is', () => {
      const rows = (Object.keys(REFUSALS) as RefusalName[]).map((name) => `${String(hits.get(name) ?? 0).padStart(6)}  ${name}`);
      console.log(`      seed ${String(SEED)} (DR_SEED repeats it), ${String(STREAMS)} mutated streams; refusals by reason:\n${[...rows, `${String(hits.get('arrived whole') ?? 0).padStart(6)}  (arrived whole)`].map((row) => `      ${row}`).join('\n')}`);
      for (const name of Object.keys(REFUSALS) as RefusalName[]) assert.ok((hits.get(name) ?? 0) > 0, `nothing was refused for ${name}`);
      assert.ok((hits.get('arrived whole') ?? 0) > 50, 'hardly a harmless mutation: the mutations do not know the structure');
    });
  });
});

const disks = new Map<string, Buffer>();

/** A disk of these letters. */
function disk(letters: string): Buffer {
  let made = disks.get(letters);
  if (made === undefined) {
    made = Buffer.concat([...letters].map((letter) => {
      if (letter === '.' || letter === '#') return Buffer.alloc(BLOCK, letter === '.' ? 0 : 0xff);
      const dice = new Dice(letter.toLowerCase().charCodeAt(0));
      const block = Buffer.from(Array.from({ length: BLOCK }, () => dice.roll(256)));
      if (letter === 'Z') block.fill(0x55, 1000, 3000);
      else if (letter !== letter.toLowerCase()) block[500] = 255 - (block[500] ?? 0);
      return block;
    })).subarray(0, BYTES);
    disks.set(letters, made);
  }
  return made;
}

/** Where a stream can be cut between two frames; not its own end. */
function framesEnd({ frames }: Stream): number[] {
  const ends = [0, PREAMBLE_BYTES];
  for (const frame of frames) ends.push((ends.at(-1) ?? 0) + frame.length);
  return ends.slice(0, -1);
}

/** Where a stream can be cut: between two frames, and at every byte of the preamble, of headers, and of payloads up to a block's own bytes. */
function endsOf(stream: Stream): number[] {
  const starts = framesEnd(stream).slice(1);
  const within = stream.frames.flatMap((frame, index) => {
    const told = [TYPE.data, TYPE.patch].some((type) => type === frame.readUInt8(0)) ? HEADER_BYTES + DATA_PREFIX_BYTES + 1 : frame.length - 1;
    return Array.from({ length: told }, (_, byte) => (starts[index] ?? 0) + byte + 1);
  });
  return [...new Set([...Array.from({ length: PREAMBLE_BYTES }, (_, byte) => byte), ...starts, ...within])];
}

/** In memory if there is such a place: what is refused does not depend on the disk, and thousands of syncs take their time. */
async function memoryDirectory(): Promise<string> {
  const root = await access('/dev/shm').then(() => '/dev/shm', () => tmpdir());
  return mkdtemp(join(root, 'dr-test-refusals-'));
}

/** How many bytes of a stream are a greeting that a receiver will take, so that he offers digests; all, if there is none. */
function greetingOf(bytes: Buffer): number {
  if (bytes.length < PREAMBLE_BYTES + HEADER_BYTES || !bytes.subarray(0, PREAMBLE_BYTES).equals(preamble())) return bytes.length;
  const end = PREAMBLE_BYTES + HEADER_BYTES + bytes.readUInt32LE(PREAMBLE_BYTES + 4);
  try {
    const said = JSON.parse(bytes.subarray(PREAMBLE_BYTES + HEADER_BYTES, end).toString()) as Record<string, unknown>;
    return bytes.readUInt32LE(PREAMBLE_BYTES) === TYPE.hello && said['ticket'] === 'ours' && said['secret'] === 'secret' && said['bytes'] === BYTES && said['blockBytes'] === BLOCK ? end : bytes.length;
  } catch {
    return bytes.length;
  }
}

/** How many digests a receiver has offered in what it said so far. */
function digestsIn(said: Buffer): number {
  let count = 0;
  for (let at = PREAMBLE_BYTES; at + HEADER_BYTES <= said.length;) {
    const length = said.readUInt32LE(at + 4);
    if (said.readUInt8(at) === TYPE.have && at + HEADER_BYTES + length <= said.length) count += (length - 8) / 32;
    at += HEADER_BYTES + length;
  }
  return count;
}
