import assert from 'node:assert/strict';
import { open, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { DrError } from '../../src/model/errors.js';
import { run } from '../../src/system/run.js';
import { BlockPool } from '../../src/transfer/block-pool.js';
import { hashImage } from '../../src/transfer/image-digest.js';
import { makeTicket, resultOf, ticketDigests } from '../../src/transfer/ticket.js';
import { MIB, plainDigestOf, TransferGround } from '../support/transfer-ground.js';

describe('moving a disk', function () {
  this.timeout(30_000);
  let ground: TransferGround;
  before(async () => { ground = await TransferGround.make(); });
  after(() => ground.remove());

  async function equal(a: string, b: string): Promise<void> {
    assert.ok((await readFile(a)).equals(await readFile(b)), `${a} and ${b} differ`);
  }

  it('fills a fresh image and leaves the holes', async () => {
    const source = await ground.disk('source', 'ab..c...');
    const path = await ground.disk('image', '........');
    const { sent, received } = await ground.move({ path: source, bytes: 8 * MIB }, { path, start: 'fresh' });
    await equal(source, path);
    assert.equal(sent.digest, await plainDigestOf(source));
    assert.equal(received.digest, sent.digest);
    assert.equal(received.bytesWritten, 3 * MIB);
    assert.equal(received.proof, 'device');
    assert.equal(sent.bytesRead, 8 * MIB);
    assert.ok(sent.bytesSent > 3 * MIB && sent.bytesSent < 3 * MIB + 1000, String(sent.bytesSent));
    assert.ok((await stat(path)).blocks * 512 < 4 * MIB, 'zeros took space');
  });

  it('sends only what differs from the digests of the image being recycled', async () => {
    const source = await ground.disk('source', 'abXdeYgh');
    const path = await ground.disk('image', 'abcdefgh');
    const digests = await ground.digestsOf(path, 8 * MIB);
    const { sent, received } = await ground.move({ path: source, bytes: 8 * MIB },
      { path, start: { recycle: digests, provenSince: '2026-01-01T00:00:00.000Z' }, now: new Date('2026-02-02T00:00:00Z') });
    await equal(source, path);
    assert.equal(received.bytesWritten, 2 * MIB);
    assert.ok(sent.bytesSent < 2 * MIB + 1000);
    assert.equal(received.provenSince, '2026-01-01T00:00:00.000Z', 'the proof is as old as its oldest block');
    assert.equal(received.digest, await plainDigestOf(source));
  });

  it('sends what can\'t be read of the image being recycled, and proves it like any other block', async () => {
    const source = await ground.disk('source', 'abcd');
    const path = await ground.disk('image', 'abcd');
    const pool = new BlockPool();
    const [run, parts] = [pool.run.bind(pool), pool.parts.bind(pool)];
    // A bad sector that writing cures.
    let bad = true;
    pool.parts = async (job) => job.offset === 2 * MIB && bad ? { kind: 'error', code: 'EIO', message: 'EIO: i/o error, read' } : await parts(job);
    pool.run = async (job) => {
      if (job.kind === 'write') bad = false;
      return job.kind === 'read' && job.offset === 2 * MIB && bad ? { kind: 'error', code: 'EIO', message: 'EIO: i/o error, read' } : await run(job);
    };
    const { sent, received } = await ground.move({ path: source, bytes: 4 * MIB }, { path, start: 'read', pool });
    await pool[Symbol.asyncDispose]();
    assert.equal(received.bytesWritten, MIB);
    assert.ok(sent.bytesSent > MIB && sent.bytesSent < MIB + 1000);
    assert.equal(received.digest, await plainDigestOf(source));
  });

  it('packs what shrinks while the link is slow, and only then', async () => {
    const letters = `a${'#'.repeat(30)}b#`;
    const bytes = letters.length * MIB - 5000;
    const source = await ground.disk('source', letters, bytes);
    const path = await ground.disk('image', '.', bytes);
    const quick = await ground.move({ path: source, bytes }, { path, start: 'read' });
    assert.ok(quick.sent.bytesSent > bytes);
    await equal(source, path);

    const other = await ground.disk('image', '.', bytes);
    const slow = await ground.move({ path: source, bytes }, { path: other, start: 'read' }, { limitBytesPerSecond: 8 * MIB });
    await equal(source, other);
    assert.equal(slow.received.digest, quick.received.digest);
    assert.equal(slow.received.bytesWritten, bytes);
    // When the link is known to be slow all memory is on its way already, as it is; noise always is.
    assert.ok(slow.sent.bytesSent < 20 * MIB, `${String(slow.sent.bytesSent)} bytes were sent`);
    assert.ok(slow.sent.bytesSent > 2 * MIB);
  });

  it('dates the proof from now when no block rests on an older one', async () => {
    const source = await ground.disk('source', 'XY');
    const path = await ground.disk('image', 'ab');
    const { received } = await ground.move({ path: source, bytes: 2 * MIB },
      { path, start: { recycle: await ground.digestsOf(path, 2 * MIB), provenSince: '2026-01-01T00:00:00.000Z' }, now: new Date('2026-02-02T00:00:00Z') });
    assert.equal(received.provenSince, '2026-02-02T00:00:00.000Z');
    const again = await ground.move({ path: source, bytes: 2 * MIB }, { path, start: 'read', now: new Date('2026-02-03T00:00:00Z') });
    assert.equal(again.received.provenSince, '2026-02-03T00:00:00.000Z', 'blocks that were read now are proven now');
  });

  it('compares by reading when nothing is known of the image', async () => {
    const source = await ground.disk('source', 'abc.e');
    const path = await ground.disk('image', 'aXc#e');
    const { sent, received } = await ground.move({ path: source, bytes: 5 * MIB }, { path, start: 'read' });
    await equal(source, path);
    assert.equal(received.bytesWritten, 2 * MIB);
    assert.ok(sent.bytesSent < MIB + 1000, 'only one block had to cross');
  });

  for (const start of ['read', 'recycle'] as const) {
    it(`zeroes old data full of 0xFF where the source has holes (${start})`, async () => {
      const source = await ground.disk('source', 'a..........b.', 13 * MIB - 1536);
      const path = await ground.disk('image', '#############', 13 * MIB - 1536);
      const digests = await ground.digestsOf(path, 13 * MIB - 1536);
      const { sent, received } = await ground.move({ path: source, bytes: 13 * MIB - 1536 },
        { path, start: start === 'read' ? 'read' : { recycle: digests, provenSince: '2026-01-01T00:00:00Z' } });
      await equal(source, path);
      assert.equal(received.digest, await plainDigestOf(source));
      assert.ok(sent.bytesSent < 2 * MIB + 1000);
      assert.ok((await stat(path)).blocks * 512 < 4 * MIB, 'a long run of zeros was written instead of punched');
    });
  }

  it('does not read what the source knows to be zero, and zeroes it all the same', async () => {
    const source = await ground.disk('source', 'a.......b.......', 16 * MIB);
    const path = await ground.disk('image', '################');
    const { sent } = await ground.move({ path: source, bytes: 16 * MIB, zeroMap: { image: source, format: 'raw' } }, { path, start: 'read' });
    await equal(source, path);
    assert.ok(sent.bytesRead <= 3 * MIB, `${String(sent.bytesRead)} bytes were read`);
    assert.equal(sent.digest, await plainDigestOf(source));
  });

  it('does not believe a zero map beyond whole blocks', async () => {
    const source = await ground.disk('source', 'abc', 3 * MIB);
    await run('fallocate', ['--punch-hole', '--keep-size', '--offset', String(MIB / 2), '--length', String(MIB), source]);
    const path = await ground.disk('image', '###');
    await ground.move({ path: source, bytes: 3 * MIB, zeroMap: { image: source, format: 'raw' } }, { path, start: 'read' });
    await equal(source, path);
  });

  for (const bytes of [0, 512, 1536, 4096, MIB - 512, MIB + 512, 3 * MIB + 4096, 5 * MIB + 3584]) {
    it(`moves a disk of ${String(bytes)} bytes`, async () => {
      const source = await ground.disk('source', 'abcdef', bytes);
      const path = await ground.disk('image', '######', bytes);
      const { received } = await ground.move({ path: source, bytes }, { path, start: 'read' });
      await equal(source, path);
      assert.equal(received.digest, await plainDigestOf(source));
      assert.equal(received.proof, 'device');
      const fresh = await ground.disk('fresh', '', bytes);
      await ground.move({ path: source, bytes }, { path: fresh, start: 'fresh' });
      await equal(source, fresh);
    });
  }

  it('writes nothing behind the disk\'s end when the image is larger', async () => {
    const source = await ground.disk('source', 'a.', MIB + 512);
    const path = await ground.disk('image', '###');
    await ground.move({ path: source, bytes: MIB + 512 }, { path, start: 'read' });
    const image = await readFile(path);
    assert.ok(image.subarray(0, MIB + 512).equals(await readFile(source)));
    assert.ok(image.subarray(MIB + 512).every((byte) => byte === 0xff), 'the slack was touched');
  });

  it('recycles what is known of a disk that grew, and reads the rest', async () => {
    const path = await ground.disk('image', 'abc', 2 * MIB + 512);
    const digests = await ground.digestsOf(path, 2 * MIB + 512);
    await truncate(path, 5 * MIB);
    const source = await ground.disk('source', 'abcde', 5 * MIB);
    const { sent } = await ground.move({ path: source, bytes: 5 * MIB }, { path, start: { recycle: digests, provenSince: '2026-01-01T00:00:00Z' } });
    await equal(source, path);
    assert.ok(sent.bytesSent > 3 * MIB && sent.bytesSent < 3 * MIB + 1000);
  });

  it('recycles what is left of a disk that shrank', async () => {
    const path = await ground.disk('image', 'abcdef');
    const digests = await ground.digestsOf(path, 6 * MIB);
    await truncate(path, 3 * MIB - 512);
    const source = await ground.disk('source', 'abc', 3 * MIB - 512);
    const { sent } = await ground.move({ path: source, bytes: 3 * MIB - 512 }, { path, start: { recycle: digests, provenSince: '2026-01-01T00:00:00Z' } });
    await equal(source, path);
    assert.ok(sent.bytesSent < MIB + 1000);
  });

  for (const [what, spoil] of [['are gone', undefined], ['are cut short', 33], ['are fewer', 64]] as const) {
    it(`reads the image when its digests ${what}`, async () => {
      const source = await ground.disk('source', 'abcde');
      const path = await ground.disk('image', 'abcd#');
      const digests = await ground.digestsOf(path, 5 * MIB);
      if (spoil !== undefined) await truncate(digests, spoil);
      const { sent, received } = await ground.move({ path: source, bytes: 5 * MIB },
        { path, start: { recycle: spoil === undefined ? `${digests}-gone` : digests, provenSince: '2026-01-01T00:00:00Z' } });
      await equal(source, path);
      assert.ok(sent.bytesSent < MIB + 1000);
      assert.equal(received.bytesWritten, MIB);
    });
  }

  it('does not take a file for fresh that has data in it', async () => {
    const source = await ground.disk('source', 'a..d');
    const path = await ground.disk('image', '.#..');
    await ground.move({ path: source, bytes: 4 * MIB }, { path, start: 'fresh' });
    await equal(source, path);
  });

  it('believes no digests of an image that was written to after the offer', async () => {
    const source = await ground.disk('source', 'abcd');
    const path = await ground.disk('image', 'abcd');
    const made = await makeTicket({ path, bytes: 4 * MIB, start: { recycle: await ground.digestsOf(path, 4 * MIB), provenSince: '2026-01-01T00:00:00Z' }, readBack: true });
    const handle = await open(path, 'r+');
    await handle.write('booted by hand', 2 * MIB);
    await handle.close();
    const { received } = await ground.move({ path: source, bytes: 4 * MIB }, { path, start: 'read', ticket: made });
    await equal(source, path);
    assert.equal(received.bytesWritten, 4096);
    assert.notEqual(received.provenSince, '2026-01-01T00:00:00Z');
  });

  it('takes a fully allocated file without data for fresh', async () => {
    const source = await ground.disk('source', 'a..d');
    const path = await ground.disk('image', '....');
    await run('fallocate', ['--length', String(4 * MIB), path]);
    const { received } = await ground.move({ path: source, bytes: 4 * MIB }, { path, start: 'fresh' });
    await equal(source, path);
    assert.equal(received.bytesWritten, 2 * MIB);
  });

  it('keeps the digests of all blocks and a result that adds up', async () => {
    const source = await ground.disk('source', 'ab.d', 4 * MIB - 1024);
    const path = await ground.disk('image', '#b..', 4 * MIB - 1024);
    const { ticket, received } = await ground.move({ path: source, bytes: 4 * MIB - 1024 }, { path, start: 'read' });
    const blocks: string[] = [];
    const { digest, direct } = await hashImage(path, 4 * MIB - 1024, (_, each) => blocks.push(Buffer.from(each).toString('hex')));
    assert.equal(direct, true);
    assert.equal(digest, received.digest);
    assert.equal((await readFile(ticketDigests(ticket))).toString('hex'), blocks.join(''));
    assert.deepEqual(await resultOf(ticket), received);
    await writeFile(ticketDigests(ticket), 'spoilt');
    await assert.rejects(resultOf(ticket), { code: 'digest-mismatch' });
  });

  it('says that the proof is only cached when reading back was not wanted', async () => {
    const source = await ground.disk('source', 'a.b');
    const path = await ground.disk('image', '#..');
    const { received } = await ground.move({ path: source, bytes: 3 * MIB }, { path, start: 'read', readBack: false });
    await equal(source, path);
    assert.equal(received.proof, 'cached');
  });

  describe('refuses, and completes nothing,', () => {
    const refused = async (code: string, work: Promise<unknown>): Promise<DrError> => {
      const error: unknown = await work.then(() => undefined, (thrown: unknown) => thrown);
      assert.ok(error instanceof DrError, `expected ${code}, got ${String(error)}`);
      assert.equal(error.code, code, error.message);
      return error;
    };

    it('a secret that is not the ticket\'s', async () => {
      const source = await ground.disk('source', 'a');
      const path = await ground.disk('image', '#');
      const made = await makeTicket({ path, bytes: MIB, start: 'read', readBack: true });
      await refused('not-ours', ground.move({ path: source, bytes: MIB }, { path, start: 'read', ticket: { ...made, secret: made.secret.replace(/^./, (first) => first === '0' ? '1' : '0') } }));
      await refused('not-ours', ground.move({ path: source, bytes: MIB }, { path, start: 'read', ticket: { ...made, ticket: '0'.repeat(32) } }));
      await refused('not-ours', ground.move({ path: source, bytes: MIB }, { path, start: 'read', ticket: { ...made, ticket: '../../etc' } }));
      assert.ok((await readFile(path)).every((byte) => byte === 0xff), 'something was written');
      await refused('transfer-failed', resultOf(made.ticket));
    });

    it('a disk of another size than the ticket\'s', async () => {
      const source = await ground.disk('source', 'ab');
      const path = await ground.disk('image', '##');
      const made = await makeTicket({ path, bytes: MIB, start: 'read', readBack: true });
      await refused('transfer-protocol', ground.move({ path: source, bytes: 2 * MIB }, { path, start: 'read', ticket: made }));
      assert.ok((await readFile(path)).every((byte) => byte === 0xff), 'something was written');
    });

    it('an image that was replaced after the offer', async () => {
      const source = await ground.disk('source', 'a');
      const path = await ground.disk('image', '#');
      const made = await makeTicket({ path, bytes: MIB, start: 'read', readBack: true });
      const other = await ground.disk('other', '#');
      await run('mv', [other, path]);
      await refused('state-changed', ground.move({ path: source, bytes: MIB }, { path, start: 'read', ticket: made }));
      assert.ok((await readFile(path)).every((byte) => byte === 0xff), 'something was written');
    });

    it('an image that is too small, missing, or no file', async () => {
      const path = await ground.disk('image', '#');
      await refused('state-changed', makeTicket({ path, bytes: 2 * MIB, start: 'read', readBack: true }));
      await refused('state-changed', makeTicket({ path: `${path}-gone`, bytes: MIB, start: 'read', readBack: true }));
      await refused('state-changed', makeTicket({ path: '/tmp', bytes: 0, start: 'read', readBack: true }));
      await run('mkfifo', [ground.path('fifo')]);
      await refused('state-changed', makeTicket({ path: ground.path('fifo'), bytes: 0, start: 'read', readBack: true }));
      const source = await ground.disk('source', 'a');
      const made = await makeTicket({ path, bytes: MIB, start: 'read', readBack: true });
      await truncate(path, MIB / 2);
      await refused('state-changed', ground.move({ path: source, bytes: MIB }, { path, start: 'read', ticket: made }));
    });

    it('a source that is missing, too small, or a directory, and blames the source', async () => {
      const path = await ground.disk('image', '##');
      const source = await ground.disk('source', 'a');
      for (const bad of [`${source}-gone`, source, '/tmp']) {
        const error = await refused('source-failed', ground.move({ path: bad, bytes: 2 * MIB }, { path, start: 'read' }));
        assert.match(error.message, new RegExp(bad));
      }
    });

    it('a ticket that completed once is not used for a second image state', async () => {
      const source = await ground.disk('source', 'ab');
      const path = await ground.disk('image', '..');
      const made = await makeTicket({ path, bytes: 2 * MIB, start: 'fresh', readBack: true });
      await ground.move({ path: source, bytes: 2 * MIB }, { path, start: 'fresh', ticket: made });
      const other = await ground.disk('source', '.c');
      await ground.move({ path: other, bytes: 2 * MIB }, { path, start: 'fresh', ticket: made }); // compared by reading: fresh it was once
      await equal(other, path);
    });
  });
});
