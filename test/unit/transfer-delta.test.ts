import assert from 'node:assert/strict';
import fc from 'fast-check';
import { open, readFile } from 'node:fs/promises';
import { Accounting } from '../../src/transfer/accounting.js';
import { Answers, type Outgoing } from '../../src/transfer/answers.js';
import { gather, MAP_BYTES, markedRanges, patchBytes, scatter } from '../../src/transfer/delta.js';
import { BlockPool } from '../../src/transfer/block-pool.js';
import { ASK_MAX, blockPrefix, TYPE } from '../../src/transfer/frames.js';
import { geometry, SECTOR_BYTES } from '../../src/transfer/geometry.js';
import { changedParts, digestParts } from '../../src/transfer/part-digests.js';
import { makeTicket } from '../../src/transfer/ticket.js';
import type { WireWriter } from '../../src/transfer/wire.js';
import { MIB, plainDigestOf, TransferGround } from '../support/transfer-ground.js';

describe('what has changed within a block', () => {
  const BLOCK = 4096; // parts of 16 bytes
  /** Two versions of a block, whole or short, that differ in a few ranges. */
  const versions = fc.record({
    old: fc.uint8Array({ minLength: 1, maxLength: BLOCK }),
    edits: fc.array(fc.record({ at: fc.nat(BLOCK - 1), bytes: fc.uint8Array({ minLength: 1, maxLength: 200 }) }), { maxLength: 6 }),
  }).map(({ old, edits }) => {
    const block = Uint8Array.from(old);
    for (const { at, bytes } of edits) block.set(bytes.subarray(0, Math.max(0, block.length - at)), Math.min(at, block.length));
    return { old, block };
  });

  it('is put together again from the changed parts and the old block, and is no more than what differs', () => {
    fc.assert(fc.property(versions, ({ old, block }) => {
      const map = changedParts(block, BLOCK, digestParts(old, BLOCK));
      const sent = Uint8Array.from(block);
      const bytes = gather(sent, map, BLOCK);
      assert.equal(bytes, patchBytes(map, block.length, BLOCK));
      const differing = new Set(Array.from(block, (byte, at) => byte === old[at] ? -1 : at >> 4));
      differing.delete(-1);
      assert.equal(Array.from(map).reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0), differing.size);
      const made = new Uint8Array(block.length).fill(0xaa);
      made.set(old);
      scatter(sent.subarray(0, bytes), map, BLOCK, made);
      assert.ok(Buffer.from(made).equals(block));
    }), { numRuns: 300 });
  });

  it('is written in whole sectors that hold all of it, or up to the end of the block', () => {
    const map = fc.uint8Array({ minLength: MAP_BYTES, maxLength: MAP_BYTES });
    fc.assert(fc.property(map, fc.integer({ min: 1, max: BLOCK }), (marks, length) => {
      const ranges = markedRanges(marks, length, BLOCK, 512);
      for (const [index, [start, end]] of ranges.entries()) {
        assert.ok(start % 512 === 0 && (end % 512 === 0 || end === length) && start < end && end <= length);
        assert.ok(index === 0 || start > (ranges[index - 1]?.[1] ?? 0));
      }
      for (let at = 0; at < length; at++) {
        const part = at >> 4;
        if (((marks[part >> 3] ?? 0) >> (part & 7) & 1) === 1) assert.ok(ranges.some(([start, end]) => start <= at && at < end), `byte ${String(at)}`);
      }
    }), { numRuns: 100 });
  });

  it('has no parts that the block does not have', () => {
    const map = new Uint8Array(MAP_BYTES);
    map[0] = 1;
    assert.equal(patchBytes(map, 10, BLOCK), 10);
    map[0] = 2;
    assert.equal(patchBytes(map, 16, BLOCK), undefined);
    assert.equal(patchBytes(map, 17, BLOCK), 1);
  });

  it('is asked about before it is told, in order, of what was offered, and not too far ahead', () => {
    const accounting = new Accounting(geometry(1000 * MIB));
    const refused = (index: number, refusal: string, offered = 1000): void => { assert.throws(() => { accounting.ask(index, offered); }, { refusal }); };
    accounting.ask(3, 1000);
    refused(3, 'duplicate');
    refused(2, 'duplicate');
    refused(10, 'not-offered', 10);
    accounting.run('same', { first: 0, count: 10 }, 1000);
    refused(9, 'duplicate');
    for (let index = 10; index < 10 + ASK_MAX; index++) accounting.ask(index, 1000);
    refused(10 + ASK_MAX, 'lookahead');
    accounting.data('patch', 10, 4096, Uint8Array.from({ length: MAP_BYTES }, (_, at) => at === 0 ? 1 : 0));
    accounting.ask(10 + ASK_MAX, 1000);
    accounting.run('same', { first: 11, count: 200 }, 1000);
    assert.throws(() => { accounting.data('patch', 211, 4096, new Uint8Array(MAP_BYTES)); }, { refusal: 'patch' });
  });
});

describe('answers that wait for one that is being prepared', () => {
  it('come in order, and take little memory and time for millions of zeros', async () => {
    const said: string[] = [];
    const send = (frame: Buffer): Promise<void> => {
      const type = frame.readUInt8(0);
      said.push(type === TYPE.zero || type === TYPE.same ? `${type === TYPE.zero ? 'zero' : 'same'} ${String(frame.readBigUInt64LE(8))}+${String(frame.readBigUInt64LE(16))}` : type === TYPE.end ? 'end' : 'block');
      return Promise.resolve();
    };
    const answers = new Answers({ send, block: send } as unknown as WireWriter, (error) => { throw error; });
    let ready: (block: Outgoing) => void = () => undefined;
    const block = (): Outgoing => ({ prefix: blockPrefix('data', 0, Buffer.alloc(32), 1), bytes: Buffer.alloc(1), out: () => undefined });
    await answers.run('same', 0);
    await answers.block(new Promise((resolve) => { ready = resolve; }));
    for (let index = 2; index < 1_000_002; index++) assert.equal(answers.run('zero', index), undefined);
    await answers.block(block());
    await answers.run('same', 1_000_003);
    assert.equal(said.length, 0);
    const began = performance.now();
    ready(block());
    await answers.end(Buffer.alloc(32));
    assert.ok(performance.now() - began < 5_000, 'a hole that waited took too long');
    assert.deepEqual([said.slice(0, 3), said.slice(-3)], [['same 0+1', 'block', 'zero 2+256'], ['block', 'same 1000003+1', 'end']]);
    const zeros = said.filter((each) => each.startsWith('zero')).map((each) => each.slice(5).split('+').map(Number));
    assert.equal(zeros.reduce((next, [first, count = 0]) => { assert.equal(first, next); return next + count; }, 2), 1_000_002);
  });

  it('fail with what could not be prepared', async () => {
    const answers = new Answers({ send: () => Promise.resolve() } as unknown as WireWriter, () => assert.fail('nothing failed on the wire'));
    await answers.block(Promise.reject(new Error('no memory')));
    await answers.run('zero', 1);
    await assert.rejects(answers.end(Buffer.alloc(32)), /no memory/);
  });
});

describe('sending what has changed within blocks', function () {
  this.timeout(30_000);
  let ground: TransferGround;
  before(async () => { ground = await TransferGround.make(); });
  after(() => ground.remove());

  /** Changes bytes of a disk here and there. */
  async function change(path: string, offsets: readonly number[], bytes = 512): Promise<void> {
    const handle = await open(path, 'r+');
    for (const offset of offsets) await handle.write(Buffer.alloc(bytes, 0x5a), 0, bytes, offset);
    await handle.sync();
    await handle.close();
  }

  async function allGivenBack(pool: BlockPool, slots: number): Promise<void> {
    await pool.settled(1_000);
    for (let slot = 0; slot < slots; slot++) assert.ok(pool.tryAcquire() !== undefined, 'a slot was not given back');
  }

  const same = async (a: string, b: string): Promise<void> => { assert.ok((await readFile(a)).equals(await readFile(b)), 'they differ'); };

  for (const readBack of [true, false]) {
    for (const start of ['recycle', 'read'] as const) {
      it(`sends and writes 4 KiB for 512 changed bytes (${start}${readBack ? '' : ', not read back'})`, async () => {
        const bytes = 9 * MIB + 6000;
        const image = await ground.disk('image', 'abcdefghij', bytes);
        const source = await ground.disk('source', 'abcdefghij', bytes);
        // In one part, across two, at both ends of a block, in the last sectors, and two blocks that are the same.
        await change(source, [0, MIB + 8192 - 100, 3 * MIB - 512, 3 * MIB, 5 * MIB + 4096 * 7, 5 * MIB + 4096 * 8, bytes - 512]);
        const { sent, received } = await ground.move({ path: source, bytes }, { path: image, readBack, start: start === 'read' ? 'read' : { recycle: await ground.digestsOf(image, bytes), provenSince: '2026-01-01T00:00:00Z' } });
        await same(source, image);
        assert.equal(received.digest, await plainDigestOf(source));
        const parts = 7 * 4096 + (bytes % 4096); // one of them is the last, short one
        assert.equal(received.bytesWritten, parts);
        assert.ok(sent.bytesSent < parts + 2000, String(sent.bytesSent));
      });
    }
  }

  for (const [where, slots] of [['in memory', 20], ['on the disk', 4]] as const) {
    it(`puts a block together from what it finds ${where}`, async () => {
      const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN';
      const image = await ground.disk('image', letters);
      const source = await ground.disk('source', letters);
      await change(source, Array.from({ length: 40 }, (_, index) => index * MIB + 4096 * 3));
      await using pool = new BlockPool({ slots });
      const run = pool.run.bind(pool);
      const kept: boolean[] = [];
      pool.run = (job) => {
        if (job.kind === 'write') kept.push(job.old !== undefined);
        return run(job);
      };
      const { received } = await ground.move({ path: source, bytes: 40 * MIB }, { path: image, start: 'read', pool });
      await same(source, image);
      assert.equal(received.bytesWritten, 40 * 4096);
      assert.equal(kept.length, 40);
      assert.ok(kept.filter((each) => each === (where === 'in memory')).length >= 30, JSON.stringify(kept));
      await allGivenBack(pool, slots);
    });
  }

  it('does so with smaller blocks than the pool has', async () => {
    const blockBytes = 64 * 1024;
    const [image, source] = [await ground.disk('image', 'abcd'), await ground.disk('source', 'abcd')];
    await change(source, [blockBytes * 3 + 100, MIB]);
    const { sent, received } = await ground.move({ path: source, bytes: 4 * MIB }, { path: image, start: 'read' }, { blockBytes });
    await same(source, image);
    assert.equal(received.bytesWritten, 2 * 4096); // parts of 256 bytes, written in sectors
    assert.ok(sent.bytesSent < 3000, String(sent.bytesSent));
  });

  it('packs the changed parts while the link is slow', async () => {
    const bytes = 40 * MIB;
    const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN';
    const image = await ground.disk('image', letters);
    const source = await ground.disk('source', letters);
    await change(source, Array.from({ length: 40 }, (_, index) => index * MIB + 4096 * 3), 256 * 1024);
    const { sent } = await ground.move({ path: source, bytes }, { path: image, start: 'read' }, { packBelow: Number.POSITIVE_INFINITY });
    await same(source, image);
    assert.ok(sent.bytesSent < MIB, String(sent.bytesSent));
  });

  it('asks seldom where it does not pay', async () => {
    const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN';
    const image = await ground.disk('image', letters);
    const source = await ground.disk('source', [...letters].reverse().join(''));
    let [asked, kept] = [0, 0];
    await using pool = new BlockPool({ slots: 20 });
    const parts = pool.parts.bind(pool);
    pool.parts = (job) => {
      asked += 1;
      if (job.slot !== undefined) kept += 1;
      return parts(job);
    };
    await ground.move({ path: source, bytes: 40 * MIB }, { path: image, start: 'read', pool });
    await same(source, image);
    assert.ok(asked >= 6 && asked < 30, String(asked));
    assert.ok(kept > 0);
    await allGivenBack(pool, 20); // what was kept for a patch is of no use for a whole block
  });

  it('writes nothing of a block that is what it should be, though its digest was lost', async () => {
    const [image, source] = [await ground.disk('image', 'abcd'), await ground.disk('source', 'abcd')];
    const digests = await ground.digestsOf(image, 4 * MIB);
    await change(digests, [32], 8);
    const { sent, received } = await ground.move({ path: source, bytes: 4 * MIB }, { path: image, start: { recycle: digests, provenSince: '2026-01-01T00:00:00Z' } });
    await same(source, image);
    assert.deepEqual([received.bytesWritten, received.digest], [0, await plainDigestOf(source)]);
    assert.ok(sent.bytesSent < 1000);
  });

  it('sends the whole block where the destination has rotted since its proof, and heals it', async () => {
    const [image, source] = [await ground.disk('image', 'abcd'), await ground.disk('source', 'abcd')];
    const digests = await ground.digestsOf(image, 4 * MIB);
    await change(source, [MIB + 5 * 4096]);
    const offered = await makeTicket({ path: image, bytes: 4 * MIB, start: { recycle: digests, provenSince: '2026-01-01T00:00:00Z' }, readBack: true });
    const rotten = ground.pool.parts.bind(ground.pool);
    // Between its proof and now a part that nobody changed has become something else: the parts are those that are there now.
    ground.pool.parts = async (job) => {
      const there = await open(image, 'r+');
      await there.write(Buffer.alloc(100, 7), 0, 100, MIB + 200 * 4096);
      await there.sync();
      await there.close();
      return await rotten(job);
    };
    const { received } = await ground.move({ path: source, bytes: 4 * MIB }, { path: image, start: 'read', ticket: offered }).finally(() => { ground.pool.parts = rotten; });
    await same(source, image);
    assert.equal(received.bytesWritten, 2 * 4096);
  });

  it('refuses a patch that does not make the block it should', async () => {
    const [image, source] = [await ground.disk('image', 'abcd'), await ground.disk('source', 'abcd')];
    await change(source, [MIB + 5 * 4096]);
    const parts = ground.pool.parts.bind(ground.pool);
    // What the destination says of its parts is not what it has: a part that must change looks as if it were right.
    ground.pool.parts = async (job) => {
      const wrong = digestParts((await readFile(source)).subarray(job.offset, job.offset + job.length), MIB);
      const told = await parts(job);
      return told.kind === 'parts' ? { ...told, digests: wrong } : told;
    };
    try {
      await assert.rejects(ground.move({ path: source, bytes: 4 * MIB }, { path: image, start: 'read' }), { code: 'patch-failed', message: /patch-digest/ });
    } finally {
      ground.pool.parts = parts;
    }
  });

  it('moves parts of sectors only in whole ones', () => {
    assert.equal(MIB / 256, SECTOR_BYTES);
  });
});
