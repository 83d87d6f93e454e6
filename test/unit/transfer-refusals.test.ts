import assert from 'node:assert/strict';
import { access, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, type Transform } from 'node:stream';
import { BlockPool } from '../../src/transfer/block-pool.js';
import { HEADER_BYTES, jsonFrame, haveFrame, preamble, PREAMBLE_BYTES, TYPE } from '../../src/transfer/frames.js';
import { digestOf } from '../../src/transfer/geometry.js';
import { identify } from '../../src/transfer/image-file.js';
import { receive } from '../../src/transfer/receive.js';
import { Refusal, REFUSALS, type RefusalName } from '../../src/transfer/refusals.js';
import { send } from '../../src/transfer/send.js';
import type { Offer } from '../../src/transfer/ticket.js';
import { CHANGE_NAMES, Dice, mutate, putTogether, takeApart, type Mutant, type Stream } from '../support/transfer-mutations.js';
import { pipe } from '../support/transfer-ground.js';

/** Small blocks, so that thousands of streams take seconds. 13 blocks, the last of 1536 bytes. */
const BLOCK = 4096;
const BYTES = 12 * BLOCK + 1536;
const STREAMS = Number(process.env['DR_TEST_STREAMS'] ?? '3000');
const SEED = Number(process.env['DR_TEST_SEED'] ?? '20261120');

describe('a stream that is not what it should be', function () {
  this.timeout(120_000);
  const hits = new Map<RefusalName | 'arrived whole', number>();
  let place: string;
  let pool: BlockPool;
  let stream: Stream;
  let source: Buffer;
  let old: Buffer;

  const hit = (name: RefusalName | 'arrived whole'): void => { hits.set(name, (hits.get(name) ?? 0) + 1); };
  const path = (name: string): string => join(place, name);

  before(async () => {
    place = await memoryDirectory();
    pool = new BlockPool({ slots: 12, workers: 2, blockBytes: BLOCK });
    await mkdir(path('ticket'));
    const dice = new Dice(SEED);
    const block = (): Buffer => Buffer.from(Array.from({ length: BLOCK }, () => dice.roll(256)));
    const [a, b, c, d, e, f] = [block(), block(), block(), block(), block(), block()];
    const zero = Buffer.alloc(BLOCK);
    source = Buffer.concat([a, b, zero, zero, zero, zero, zero, c, d, a, b, c, e.subarray(0, 1536)]);
    old = Buffer.concat([a, b, f, f, f, f, f, f, f, a, b, f, f.subarray(0, 1536)]);
    await writeFile(path('source'), source);
    stream = await record();
  });
  after(async () => {
    await pool[Symbol.asyncDispose]();
    await rm(place, { recursive: true, force: true });
  });

  async function offer(readBack: boolean): Promise<Offer> {
    await writeFile(path('image'), old);
    await rm(path('ticket/result.json'), { force: true });
    const { identity, mtime } = await identify(path('image'));
    return { version: 1, path: path('image'), bytes: BYTES, start: 'read', readBack, secretHash: '', identity, mtime, owner: { pid: 0, startTime: '', bootId: '' } };
  }

  function receiving(input: Readable, output: Transform, what: Offer, silenceMs = 5_000): Promise<unknown> {
    return receive(input, output, {
      pool, blockBytes: BLOCK, silenceMs,
      admit: (hello) => {
        if (hello.ticket !== 'ours' || hello.secret !== 'secret') return Promise.reject(new Refusal('ticket'));
        return Promise.resolve({ directory: path('ticket'), offer: what, usedBefore: false, [Symbol.asyncDispose]: () => Promise.resolve() });
      },
    });
  }

  /** What a good sender says. */
  async function record(): Promise<Stream> {
    const [there, back] = [pipe(), pipe()];
    const said: Buffer[] = [];
    there.on('data', (chunk: Buffer) => said.push(chunk));
    const received = receiving(there, back, await offer(true));
    await send({ source: { path: path('source'), bytes: BYTES, direct: true }, to: { host: 'local', agentCommand: [] }, ticket: 'ours', secret: 'secret' },
      { blockBytes: BLOCK, connect: () => ({ input: back, output: there, ended: () => Promise.resolve('it ended'), kill: () => undefined }) });
    await received;
    assert.ok((await readFile(path('image'))).equals(source));
    const recorded = takeApart(Buffer.concat(said));
    const types = recorded.frames.map((frame) => frame.readUInt8(0));
    for (const type of [TYPE.hello, TYPE.same, TYPE.zero, TYPE.data, TYPE.end]) assert.ok(types.includes(type), `the recorded stream has no frame of type ${String(type)}`);
    return recorded;
  }

  /** Plays a stream to a receiver; what it was refused for. A good one must have arrived whole, a refused one must not be complete. */
  async function play(mutant: Mutant, readBack: boolean): Promise<RefusalName | 'arrived whole'> {
    const what = await offer(readBack);
    const output = pipe();
    let offered: () => void = () => undefined;
    const allOffered = new Promise<void>((resolve) => { offered = resolve; });
    let said = Buffer.alloc(0);
    output.on('data', (chunk: Buffer) => {
      said = Buffer.concat([said, chunk]);
      if (digestsIn(said) === 13) offered();
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
      assert.ok((await readFile(path('image'))).equals(source), `${mutant.what}: called complete, and is not`);
      return 'arrived whole';
    }
    assert.ok(failure instanceof Refusal, `${mutant.what}: ${String(failure)}`);
    assert.ok(!complete, `${mutant.what}: refused and complete`);
    return failure.refusal;
  }

  it('arrives whole when nothing is changed, and again', async () => {
    for (const readBack of [true, false]) assert.equal(await play({ what: 'unchanged', bytes: putTogether(stream) }, readBack), 'arrived whole');
  });

  it('is refused as truncated wherever between two frames it ends', async () => {
    const whole = putTogether(stream);
    const ends = stream.frames.reduce<number[]>((found, frame) => [...found, (found.at(-1) ?? 0) + frame.length], [PREAMBLE_BYTES]);
    assert.equal(ends.at(-1), whole.length);
    for (const end of [0, ...ends.slice(0, -1)]) {
      assert.equal(await play({ what: `ends at ${String(end)}`, bytes: whole.subarray(0, end) }, true), 'truncated');
      hit('truncated');
    }
  });

  it('is refused when it calls blocks the same that were never compared', async () => {
    const before = await offer(true);
    await writeFile(path('image'), '');
    await truncate(path('image'), BYTES);
    const what = { ...before, ...await identify(path('image')), start: 'fresh' as const };
    const output = pipe().resume();
    await assert.rejects(receiving(Readable.from([putTogether(stream)]), output, what), { refusal: 'not-offered' });
    hit('not-offered');
  });

  it('is given up when it stays open and says nothing', async () => {
    const whole = putTogether(stream);
    for (const at of [0, 5, PREAMBLE_BYTES, whole.length - 30, whole.length]) {
      assert.equal(await play({ what: `silent at ${String(at)}`, bytes: whole.subarray(0, at), silent: true }, true), 'silence');
      hit('silence');
    }
  });

  it(`is refused, or arrives whole, in ${String(STREAMS)} mutations`, async () => {
    const dice = new Dice(SEED);
    for (let round = 0; round < STREAMS; round++) {
      const mutant = mutate(CHANGE_NAMES[round % CHANGE_NAMES.length] as string, stream, dice);
      hit(await play(mutant, round % 20 === 0));
    }
  });

  describe('on its way back to the sender', () => {
    const zero = Buffer.alloc(32);
    const cases: readonly (readonly [RefusalName, string, (greeted: Buffer) => Buffer])[] = [
      ['lookahead', 'digests that leave out a block', (ready) => Buffer.concat([ready, haveFrame(1, zero)])],
      ['lookahead', 'digests of blocks that the disk does not have', (ready) => Buffer.concat([ready, haveFrame(0, Buffer.alloc(14 * 32))])],
      ['out-of-place', 'a result before the end', (ready) => Buffer.concat([ready, jsonFrame('result', { digest: 'x', bytesWritten: 0, proof: 'device', provenSince: '' })])],
      ['out-of-place', 'readiness twice', (ready) => Buffer.concat([ready, jsonFrame('ready', { compare: true })])],
      ['out-of-place', 'digests before readiness', () => Buffer.concat([preamble(), haveFrame(0, zero)])],
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

    function sendOver(there: Transform, back: Transform, silenceMs = 5_000): Promise<unknown> {
      return send({ source: { path: path('source'), bytes: BYTES, direct: true }, to: { host: 'local', agentCommand: [] }, ticket: 'ours', secret: 'secret' },
        { blockBytes: BLOCK, silenceMs, connect: () => ({ input: back, output: there, ended: () => Promise.resolve('it ended'), kill: () => undefined }) });
    }
  });

  describe('altogether', () => {
    it('was refused for every reason there is', () => {
      const rows = (Object.keys(REFUSALS) as RefusalName[]).map((name) => `${String(hits.get(name) ?? 0).padStart(6)}  ${name}`);
      console.log(`      seed ${String(SEED)}, ${String(STREAMS)} mutated streams; refusals by reason:\n${[...rows, `${String(hits.get('arrived whole') ?? 0).padStart(6)}  (arrived whole)`].map((row) => `      ${row}`).join('\n')}`);
      for (const name of Object.keys(REFUSALS) as RefusalName[]) assert.ok((hits.get(name) ?? 0) > 0, `nothing was refused for ${name}`);
      assert.ok((hits.get('arrived whole') ?? 0) > 50, 'hardly a harmless mutation: the mutations do not know the structure');
    });
  });
});

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
