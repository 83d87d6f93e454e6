import assert from 'node:assert/strict';
import { open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import fc from 'fast-check';
import type { DataSource } from '../../src/model/host.js';
import { DrError } from '../../src/model/errors.js';
import { BlockSet } from '../../src/transfer/block-set.js';
import { geometry } from '../../src/transfer/geometry.js';
import { digestRecord } from '../../src/transfer/kept-digests.js';
import { resultOf, ticketDigests, type Start } from '../../src/transfer/ticket.js';
import { blockOf, MIB, plainDigestOf, TransferGround } from '../support/transfer-ground.js';

const range = fc.tuple(fc.nat(120_000), fc.nat(30_000));
const disk = fc.integer({ min: 1, max: 100_000 }).map((bytes) => geometry(bytes, 4096));

describe('a set of blocks made of ranges', () => {
  it('has every block of which a byte was touched, and no other', () => {
    fc.assert(fc.property(disk, fc.array(range, { maxLength: 6 }), (of, ranges) => {
      const set = new BlockSet(of);
      for (const [start, length] of ranges) set.addTouched(start, length);
      for (let index = 0; index < of.blocks; index++) {
        const [from, until] = [index * 4096, Math.min(of.bytes, (index + 1) * 4096)];
        const touched = ranges.some(([start, length]) => Math.max(start, from) < Math.min(start + length, until));
        if (touched) assert.ok(set.has(index), `block ${String(index)} was left out`);
        // A range behind the end of a short last block may touch it: that only has it read.
        else if (until - from === 4096) assert.ok(!set.has(index));
      }
    }));
  });

  it('has the blocks that lie wholly inside one, the short last one too, and gives them out in runs', () => {
    fc.assert(fc.property(disk, fc.array(range, { maxLength: 6 }), (of, ranges) => {
      const set = new BlockSet(of);
      for (const [start, length] of ranges) set.addInside(start, length);
      for (let index = 0; index < of.blocks; index++) {
        const [from, until] = [index * 4096, Math.min(of.bytes, (index + 1) * 4096)];
        assert.equal(set.has(index), ranges.some(([start, length]) => start <= from && start + length >= until), `block ${String(index)}`);
        let run = 0;
        while (run < 5 && index + run < of.blocks && set.has(index + run)) run += 1;
        assert.equal(set.runFrom(index, 5), run);
      }
    }));
  });
});

const LETTERS = 'abcdefg..hijklmn..op';

describe('a hint of what has changed', function () {
  this.timeout(60_000);
  let ground: TransferGround;
  let digests: string;
  let changed: string;
  before(async () => { ground = await TransferGround.make(); });
  after(() => ground.remove());
  beforeEach(() => {
    digests = ground.path('bases/base.digests');
    changed = ground.path('changed.json');
  });

  interface Moved {
    readonly note?: string;
    readonly bytesRead: number;
    readonly bytesSent: number;
    readonly ticket: string;
  }

  async function move(path: string, more: Partial<DataSource>, image: string, start: Start, progress?: () => void): Promise<Moved> {
    const { size } = await stat(path);
    const { sent, received, ticket } = await ground.move({ path, bytes: size, ...more }, { path: image, start }, progress === undefined ? {} : { progress });
    assert.ok((await readFile(image)).equals(await readFile(path)), 'the image is not what the source is');
    assert.equal(received.digest, await plainDigestOf(path));
    return { ...sent, ticket };
  }

  /** Captures a disk, whose digests are kept, into an image; then what recycling that image starts with. */
  async function captured(letters: string): Promise<{ readonly source: string; readonly image: string; readonly start: Start }> {
    const source = await ground.disk('source', letters);
    const image = await ground.disk('image', '.'.repeat(letters.length));
    const { ticket } = await move(source, { keepDigests: digests }, image, 'fresh');
    return { source, image, start: { recycle: ticketDigests(ticket), provenSince: new Date().toISOString() } };
  }

  async function put(path: string, block: number, letter: string): Promise<void> {
    const handle = await open(path, 'r+');
    await handle.write(blockOf(letter), 0, MIB, block * MIB);
    await handle.sync();
    await handle.close();
  }

  const say = (ranges: unknown): Promise<void> => writeFile(changed, JSON.stringify(ranges));

  it('is made of kept digests that add up to their record', async () => {
    const { start } = await captured(LETTERS);
    assert.ok(typeof start === 'object');
    assert.ok((await readFile(digests)).equals(await readFile('recycle' in start ? start.recycle : '')));
    const record = await digestRecord(digests);
    assert.deepEqual({ bytes: record?.bytes, digest: record?.digest }, { bytes: LETTERS.length * MIB, digest: await plainDigestOf(ground.path('source')) });
  });

  it('has only what changed, and a sample, be read; and the next one is made of both', async () => {
    const { source, image, start } = await captured(LETTERS.repeat(11));
    const since = (await digestRecord(digests))?.readSince;
    await put(source, 3, 'X');
    await put(source, 150, '#');
    await put(source, 2, '.');
    await say([[150 * MIB + 4096, 512], [3 * MIB, MIB], [2 * MIB, MIB]]);
    const next = ground.path('bases/next.digests');
    const { note, bytesRead, bytesSent } = await move(source, { hint: { digests, changed }, keepDigests: next }, image, start);
    assert.equal(note, undefined);
    assert.ok(bytesRead <= (3 + 64 + 44) * MIB && bytesRead >= (3 + 64) * MIB, `${String(bytesRead / MIB)} MiB were read`); // 44 are zero
    assert.ok(bytesSent < 3 * MIB);
    assert.equal((await digestRecord(next))?.digest, await plainDigestOf(source));
    assert.equal((await digestRecord(next))?.readSince, since, 'what was not read now was read then');
  });

  it('has what the destination lacks be read, sent, and held against it', async () => {
    const { source } = await captured(LETTERS);
    await put(source, 1, 'X');
    await say([[MIB, MIB]]);
    for (const [start, fill] of [['fresh', '.'], ['stale', '#'], ['read', 'a']] as const) {
      const other = await ground.disk('other', fill.repeat(LETTERS.length));
      assert.equal((await move(source, { hint: { digests, changed } }, other, start)).note, undefined);
    }
  });

  const LIES: Readonly<Record<string, (source: string) => Promise<void>>> = {
    'leaves out a block that changed': async (source) => { await put(source, 12, 'X'); },
    'leaves out a block that was zero': async (source) => { await put(source, 7, 'X'); },
    'leaves out a block that became zero': async (source) => { await put(source, 10, '.'); },
    'comes with digests that are not those of the record': async () => { const bytes = await readFile(digests); bytes[77] = (bytes[77] ?? 0) ^ 1; await writeFile(digests, bytes); },
    'comes with digests cut short': async () => { await truncate(digests, 32 * 9); },
    'comes with digests cut in the middle of one': async () => { await truncate(digests, 32 * 9 + 7); },
    'comes with more digests than blocks': async () => { await writeFile(digests, Buffer.concat([await readFile(digests), Buffer.alloc(32)])); },
    'comes without digests': async () => { await truncate(digests, 0); },
    'comes without a record': async () => { await writeFile(`${digests}.json`, '{"version":1'); },
    'comes with the digests of another disk': async () => {
      const other = await ground.disk('another', [...LETTERS].reverse().join(''));
      await ground.move({ path: other, bytes: LETTERS.length * MIB, keepDigests: digests }, { path: await ground.disk('sink', '.'.repeat(LETTERS.length)), start: 'fresh' });
    },
    'comes with the digests of an empty disk': async () => {
      const other = await ground.disk('another', '.'.repeat(LETTERS.length));
      await ground.move({ path: other, bytes: LETTERS.length * MIB, keepDigests: digests }, { path: await ground.disk('sink', '.'.repeat(LETTERS.length)), start: 'fresh' });
    },
    'comes with the digests of a smaller disk': async () => {
      const other = await ground.disk('another', LETTERS.slice(1));
      await ground.move({ path: other, bytes: (LETTERS.length - 1) * MIB, keepDigests: digests }, { path: await ground.disk('sink', '.'.repeat(LETTERS.length - 1)), start: 'fresh' });
    },
    'comes from a disk that grew since': async (source) => { await truncate(source, LETTERS.length * MIB + 512); await truncate(ground.path('image'), LETTERS.length * MIB + 512); },
    'is of a disk that was not read as a whole for too long': async () => {
      await writeFile(`${digests}.json`, JSON.stringify({ ...await digestRecord(digests), readSince: new Date(Date.now() - 31 * 86_400_000).toISOString() }));
    },
    'comes with a list that is cut short': async () => { await writeFile(changed, '[[0,512],[104'); },
    'comes with a list of something else': async () => { await say([[0, -5]]); },
    'comes without a list': async () => { await writeFile(changed, ''); },
  };

  for (const [what, lie] of Object.entries(LIES)) {
    it(`is dropped with a note when it ${what}: the whole disk is read, and the image is right`, async () => {
      const { source, image, start } = await captured(LETTERS);
      await put(source, 5, 'Y');
      await say([[5 * MIB, MIB]]);
      await lie(source);
      const { note, bytesRead } = await move(source, { hint: { digests, changed } }, image, start);
      assert.match(note ?? '', /the hint of what has changed in .*source was not used: .*; the whole disk was read/);
      assert.ok(bytesRead >= LETTERS.length * MIB);
      assert.equal(await digestRecord(digests), undefined, 'it would be taken again');
    });
  }

  it('that is found out after others of its blocks were believed voids the transfer, and is never taken again', async () => {
    const LONG = LETTERS.repeat(2);
    const { source } = await captured(LONG);
    await say([]);
    const bytes = LONG.length * MIB;
    const image = await ground.disk('other', '#'.repeat(LONG.length)); // lacks all of them
    let put_: Promise<void> | undefined;
    const moving = ground.move({ path: source, bytes, hint: { digests, changed } }, { path: image, start: 'stale' },
      { limitBytesPerSecond: 20 * MIB, progress: () => { put_ ??= put(source, 39, 'X'); } }); // the sample has been taken by now
    await assert.rejects(moving, (error: unknown) => {
      assert.ok(error instanceof DrError);
      assert.equal(error.code, 'source-failed');
      assert.match(error.message, new RegExp(`hint of what has changed in .*source is wrong at offset ${String(39 * MIB)}`));
      return true;
    });
    await put_;
    assert.equal(await digestRecord(digests), undefined);
    assert.match((await move(source, { hint: { digests, changed } }, image, 'read')).note ?? '', /are not there/);
  });

  it('that turns out wrong for a second target voids what the first was sent on its word, and neither\'s digests are taken again', async () => {
    const { source, image, start } = await captured(LETTERS);
    await say([]);
    const next = ground.path('bases/next.digests');
    const known = { hint: { digests, changed }, keepDigests: next };
    assert.equal((await move(source, known, image, start)).note, undefined);
    assert.ok(await digestRecord(next) !== undefined);
    await put(source, 12, 'X');
    await assert.rejects(move(source, known, await ground.disk('other', '#'.repeat(LETTERS.length)), 'read'), { code: 'source-failed', message: /hint of what has changed in .* is wrong at offset 12582912/ });
    assert.deepEqual([await digestRecord(digests), await digestRecord(next)], [undefined, undefined]);
  });

  it('costs nothing but itself when digests can\'t be kept', async () => {
    const source = await ground.disk('source', 'abc');
    await writeFile(ground.path('file'), '');
    const { ticket } = await move(source, { keepDigests: ground.path('file/x.digests') }, await ground.disk('image', '...'), 'fresh');
    assert.equal((await resultOf(ticket)).digest, await plainDigestOf(source));
  });
});
