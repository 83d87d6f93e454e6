import assert from 'node:assert/strict';
import { mkdir, open, readFile, rm, stat, truncate } from 'node:fs/promises';
import fc from 'fast-check';
import type { DataSource } from '../../src/model/host.js';
import { inCommon } from '../../src/jobs/common-digests.js';
import { blockOf, MIB, plainDigestOf, TransferGround } from '../support/transfer-ground.js';

const OLD = 'abcd#.efgh..ij';
const NEW = 'aXcd#.eYg...iZ';
const BYTES = NEW.length * MIB - 5000;
/** X, Y and Z, and the block that became zero takes nothing. */
const DIFFERS = 3;

describe('a copy of what a destination lacks', function () {
  this.timeout(60_000);
  let ground: TransferGround;
  beforeEach(async () => { ground = await TransferGround.make(); });
  afterEach(() => ground.remove());

  /** A disk, an image with an earlier state of it, and a copy of the disk that holds only what differs. */
  async function cached(old = OLD, without?: string): Promise<{ readonly disk: string; readonly image: string; readonly source: DataSource; readonly digest: string; readonly bytesWritten: number }> {
    const disk = await ground.disk('disk', NEW, BYTES);
    const image = await ground.disk('image', old, BYTES);
    const base = without ?? await ground.digestsOf(image, BYTES);
    const copy = await ground.disk('copy', '', BYTES);
    const { received, ticket } = await ground.move({ path: disk, bytes: BYTES }, { path: copy, start: { without: base }, readBack: false });
    return { disk, image, digest: received.digest, bytesWritten: received.bytesWritten, source: { path: copy, bytes: BYTES, direct: true, partial: { ticket, base } } };
  }

  const equal = async (a: string, b: string): Promise<void> => { assert.ok((await readFile(a)).equals(await readFile(b)), `${a} and ${b} differ`); };
  const recycled = async (image: string): Promise<{ recycle: string; provenSince: string }> => ({ recycle: await ground.digestsOf(image, BYTES), provenSince: new Date().toISOString() });

  it('takes the room of what differs, and has the digest of the whole', async () => {
    const { disk, source, digest, bytesWritten } = await cached();
    assert.equal(digest, await plainDigestOf(disk));
    assert.ok(bytesWritten <= DIFFERS * MIB, String(bytesWritten));
    assert.ok((await stat(source.path)).blocks * 512 <= (DIFFERS + 1) * MIB);
  });

  for (const start of ['recycled', 'read'] as const) {
    it(`makes the destination what the disk is (${start}), and only what differs is read and sent`, async () => {
      const { disk, image, source, digest } = await cached();
      const { sent, received } = await ground.move(source, { path: image, start: start === 'read' ? 'read' : await recycled(image) });
      await equal(image, disk);
      assert.equal(received.digest, digest);
      assert.equal(sent.bytesRead, DIFFERS * MIB - 5000);
      assert.ok(sent.bytesSent < DIFFERS * MIB + 1000);
    });
  }

  it('is as good for a destination that has some of it already', async () => {
    const { disk, source } = await cached();
    const ahead = await ground.disk('ahead', 'aXcd#.eYgh..ij', BYTES);
    const { sent } = await ground.move(source, { path: ahead, start: 'read' });
    await equal(ahead, disk);
    assert.ok(sent.bytesRead <= MIB);
  });

  it('is the same when writing it was begun twice', async () => {
    const { disk, image, source } = await cached();
    const noise = await open(source.path, 'r+'); // of a try that failed
    await noise.write(blockOf('X'), 0, MIB, MIB);
    await noise.close();
    const again = await ground.move({ path: disk, bytes: BYTES }, { path: source.path, start: { without: source.partial?.base ?? '' }, readBack: false });
    await ground.move({ ...source, partial: { base: source.partial?.base ?? '', ticket: again.ticket } }, { path: image, start: 'read' });
    await equal(image, disk);
  });

  it('leaves out nothing where nothing is known, or where what is known ends', async () => {
    const { disk, image, source } = await cached(OLD, await (async () => {
      const some = await ground.digestsOf(await ground.disk('image', OLD, BYTES), BYTES);
      await truncate(some, 5 * 32);
      return some;
    })());
    const other = await ground.disk('other', 'abcd#.........', BYTES);
    await ground.move(source, { path: other, start: 'read' });
    await equal(other, disk);
    await ground.move(source, { path: image, start: 'read' });
    await equal(image, disk);
  });

  it('is refused by a destination that has lost what was left out', async () => {
    const { image, source } = await cached();
    const changed = await open(image, 'r+');
    await changed.write(blockOf('W'), 0, MIB, 6 * MIB);
    await changed.close();
    await assert.rejects(ground.move(source, { path: image, start: 'read' }), { code: 'source-failed', message: /has not any more what it had at offset 6291456/ });
    await assert.rejects(ground.move(source, { path: await ground.disk('fresh', '', BYTES), start: 'fresh' }), { code: 'source-failed', message: /at offset 0 / });
  });

  it('is found out when the drive gives back something else', async () => {
    const { image, source } = await cached();
    const damaged = await open(source.path, 'r+');
    await damaged.write(blockOf('W').subarray(0, 512), 0, 512, MIB + 4096);
    await damaged.close();
    await assert.rejects(ground.move(source, { path: image, start: 'read' }), { code: 'source-failed', message: /gives back something else at offset 1048576/ });
  });

  it('is of no use without its digests', async () => {
    const { image, source } = await cached();
    await assert.rejects(ground.move({ ...source, partial: { base: source.partial?.base ?? '', ticket: '0'.repeat(32) } }, { path: image, start: 'read' }), { code: 'source-failed' });
    const base = source.partial?.base ?? '';
    await rm(base);
    await assert.rejects(ground.move(source, { path: image, start: 'read' }), { code: 'source-failed' });
    await mkdir(base); // opens, and can't be read
    await assert.rejects(ground.move(source, { path: image, start: 'read' }), { code: 'source-failed', message: /block digests in .* can't be read/ });
  });

  it('is written whole when what may be left out can\'t be read', async () => {
    const nothing = ground.path('nothing');
    const { disk, bytesWritten } = await cached(OLD, nothing);
    await equal(ground.path('copy'), disk);
    assert.ok(bytesWritten > 8 * MIB);
  });
});

describe('digests in common', () => {
  const digest = fc.integer({ min: 1, max: 3 }).map((value) => Buffer.alloc(32, value));

  it('are those that all have at the same place, as far as the shortest reaches', () => {
    fc.assert(fc.property(fc.array(fc.array(digest, { maxLength: 8 }), { minLength: 1, maxLength: 3 }), fc.integer({ min: 0, max: 31 }), (images, more) => {
      const common = inCommon(images.map((digests) => Buffer.concat([...digests, Buffer.alloc(more)])));
      const shortest = Math.min(...images.map(({ length }) => length));
      assert.equal(common.length, shortest * 32);
      for (let index = 0; index < shortest; index++) {
        const all = new Set(images.map((digests) => digests[index]?.[0]));
        assert.ok(common.subarray(index * 32, index * 32 + 32).equals(Buffer.alloc(32, all.size === 1 ? [...all][0] : 0)));
      }
    }));
  });
});
