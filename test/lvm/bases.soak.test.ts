import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { open, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { hintFrom, keepAsBase, tidyBases } from '../../src/capture/bases.js';
import { ownerTag } from '../../src/capture/pay-snapshot.js';
import { activateVolume, lvmState, removeVolume, snapshotVolume, tagVolume, type Volume } from '../../src/system/lvm.js';
import { run } from '../../src/system/run.js';
import { digestOf, imageDigest, ImageHash } from '../../src/transfer/geometry.js';
import { ticketDigests, type Start } from '../../src/transfer/ticket.js';
import { TransferGround } from '../support/transfer-ground.js';
import { clearGroup, freshGroups, onlyInVm } from './ground.js';

const VG = 'an_vg';
/** Smaller than in earnest, since everything is slow under emulation. */
const BLOCK = 64 * 1024;
/** Blocks of the disk; what lies behind the part that is written reads as zeros. */
const [DISK, WRITTEN] = [192, 160];

describe('a thin snapshot that is kept as the base of the next capture', function () {
  this.timeout(600_000);
  let ground: TransferGround;
  let captures = 0;
  const noise = randomBytes(BLOCK);

  before(async function () {
    onlyInVm(this);
    await freshGroups({ [VG]: [0] });
    ground = await TransferGround.make();
  });
  after(() => ground?.remove());
  beforeEach(async () => {
    await clearGroup(VG);
    await run('lvcreate', ['--quiet', '--yes', '--type', 'thin-pool', '--name', 'pool', '--size', '20M', '--chunksize', '64K', VG], { timeoutMs: 60_000 });
    await run('lvcreate', ['--quiet', '--yes', '--thin', '--name', 'web_0', '--virtualsize', `${String(DISK * BLOCK)}b`, `${VG}/pool`], { timeoutMs: 60_000 });
    await write(Array.from({ length: WRITTEN }, (_, block) => [block * BLOCK, BLOCK]));
  });

  /** What a guest does to its disk. */
  async function write(ranges: readonly (readonly [start: number, length: number])[]): Promise<void> {
    const handle = await open(`/dev/${VG}/web_0`, 'r+');
    for (const [start, length] of ranges) {
      noise.writeDoubleLE(Math.random(), 0);
      await handle.write(noise, 0, length, start);
    }
    await handle.sync();
    await handle.close();
  }

  const named = async (name: string): Promise<Volume | undefined> => (await lvmState()).volumes.find((volume) => volume.name === name);

  async function snapshot(owner: string): Promise<Volume> {
    const name = `dr_0123abcd_${String(captures++)}`;
    await snapshotVolume({ vg: VG, origin: 'web_0', name, bytes: 'thin', tags: [ownerTag(owner), 'dr.of=Web01'] });
    const made = await named(name);
    assert.ok(made !== undefined);
    await activateVolume(made);
    return made;
  }

  /** One run as far as the source goes: takes a snapshot, sends it, keeps it. */
  async function capture(start: Start): Promise<{ readonly volume: Volume; readonly note?: string; readonly blocksRead: number; readonly start: Start }> {
    const volume = await snapshot('s1');
    const image = ground.path('image');
    if (start === 'fresh') {
      await writeFile(image, '');
      await truncate(image, DISK * BLOCK);
    }
    const known = await hintFrom('Web01', 'vda', volume, (await lvmState()).volumes, ground.path('.'));
    const { sent, ticket } = await ground.move({ path: volume.path, bytes: DISK * BLOCK, ...known }, { path: image, start }, { blockBytes: BLOCK });
    await run('cmp', [volume.path, image], { timeoutMs: 120_000 });
    await keepAsBase('Web01', 'vda', volume, 's1');
    return { volume, blocksRead: sent.bytesRead / BLOCK, ...(sent.note === undefined ? {} : { note: sent.note }), start: { recycle: ticketDigests(ticket), provenSince: new Date().toISOString() } };
  }

  async function bases(): Promise<readonly Volume[]> {
    return (await lvmState()).volumes.filter(({ tags }) => tags.includes('dr.base=Web01/vda'));
  }

  const kept = async (): Promise<readonly string[]> => (await readdir(ground.path('state/bases'))).sort();

  it('has the next one read only what changed, and gives way to it', async () => {
    const first = await capture('fresh');
    assert.equal(first.blocksRead, DISK);
    assert.deepEqual((await bases()).map(({ uuid, tags }) => [uuid, tags.includes('dr-engine-snapshot'), tags.includes(ownerTag('s1'))]), [[first.volume.uuid, true, false]]);

    await write([[3 * BLOCK + 8192, 4096], [77 * BLOCK - 512, 1024], [(DISK - 1) * BLOCK, BLOCK]]);
    await run('blkdiscard', ['--offset', String(20 * BLOCK), '--length', String(2 * BLOCK), `/dev/${VG}/web_0`]);
    const changed = 1 + 2 + 1 + 2;
    const second = await capture(first.start);
    assert.equal(second.note, undefined);
    assert.ok(second.blocksRead <= changed + 64 + (DISK - WRITTEN), `${String(second.blocksRead)} blocks were read`);
    assert.deepEqual((await bases()).map(({ uuid }) => uuid), [second.volume.uuid]);
    assert.deepEqual(await kept(), [second.volume.uuid, `${second.volume.uuid}.json`]);
    assert.equal(await named(first.volume.name), undefined, 'the base before is still there');
  });

  it('whose digests are another\'s is found out by the sample, and the whole disk is read', async () => {
    const first = await capture('fresh');
    const path = ground.path(`state/bases/${first.volume.uuid}`);
    const digests = await readFile(path);
    for (let block = 0; block < WRITTEN - 40; block++) digestOf(randomBytes(16)).copy(digests, block * 32);
    const hash = new ImageHash();
    hash.add(digests);
    await writeFile(path, digests);
    await writeFile(`${path}.json`, JSON.stringify({ ...JSON.parse(await readFile(`${path}.json`, 'utf8')) as object, digest: imageDigest(hash.finish()) }));
    const second = await capture(first.start);
    assert.match(second.note ?? '', /it is wrong at offset \d+; the whole disk was read/);
    assert.ok(second.blocksRead >= DISK);
    assert.deepEqual((await bases()).map(({ uuid }) => uuid), [second.volume.uuid]);
  });

  it('is removed when it is not wanted any more, is one too many, or its pool fills up; no other volume is', async () => {
    await run('lvcreate', ['--quiet', '--yes', '--snapshot', '--name', 'admins', '--addtag', 'dr.base=Web01/vda', `${VG}/web_0`], { timeoutMs: 60_000 }); // it carries our tag, but not by us
    const first = await capture('fresh');
    const other = await snapshot('s2');
    await tagVolume(other, { add: ['dr.base=Web01x/vda'], remove: [] });

    const extra = await snapshot('s1'); // as a death before the one before was removed leaves it
    await tagVolume(extra, { add: ['dr.base=Web01/vda'], remove: [ownerTag('s1')] });
    assert.equal(await tidyBases('Web01', true, (await lvmState()).volumes), true);
    assert.ok(await named(first.volume.name) !== undefined && await named(extra.name) === undefined);
    assert.equal(await tidyBases('Web01', true, (await lvmState()).volumes), false);

    await run('lvcreate', ['--quiet', '--yes', '--thin', '--name', 'filler', '--virtualsize', '8M', `${VG}/pool`], { timeoutMs: 60_000 });
    await run('dd', ['if=/dev/urandom', `of=/dev/${VG}/filler`, 'bs=1M', 'count=7', 'oflag=direct', 'status=none'], { timeoutMs: 120_000 });
    const { volume: full } = await capture('read');
    assert.ok(!(await bases()).some(({ uuid }) => uuid === full.uuid), 'a snapshot was kept in a pool that fills up');
    assert.equal(await tidyBases('Web01', true, (await lvmState()).volumes), true);
    assert.equal(await named(first.volume.name), undefined);

    await run('lvremove', ['--quiet', '--yes', `${VG}/filler`], { timeoutMs: 60_000 });
    const last = await capture('read');
    assert.deepEqual((await bases()).map(({ name }) => name).sort(), ['admins', last.volume.name]);
    assert.equal(await tidyBases('Web01', false, (await lvmState()).volumes), true);
    assert.deepEqual((await bases()).map(({ name }) => name), ['admins']);
    assert.deepEqual(await kept(), []);
    assert.ok(await named(other.name) !== undefined, 'another server\'s base was removed');
    await removeVolume(other);
  });
});
