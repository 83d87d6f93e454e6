import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { open, readFile, realpath } from 'node:fs/promises';
import { basename } from 'node:path';
import { run } from '../../src/system/run.js';
import { discardChunks, thinChunkBytes } from '../../src/system/zero-range.js';
import { MIB, plainDigest, TransferGround } from '../support/transfer-ground.js';
import { clearGroup, freshGroups, onlyInVm } from './ground.js';

const VG = 'dr_thin';
const KIB = 1024;
/** Smaller than in earnest, since everything is slow under emulation. */
const BLOCK = 128 * KIB;

describe('moving a disk into a logical volume', function () {
  this.timeout(300_000);
  let ground: TransferGround;

  before(async function () {
    onlyInVm(this);
    await freshGroups({ [VG]: [0] });
    ground = await TransferGround.make();
  });
  after(() => ground?.remove());
  beforeEach(() => clearGroup(VG));

  /** A thin volume in a pool of its own. */
  async function thin(mebibytes: number, chunkKiB: number, pool: readonly string[] = []): Promise<string> {
    await run('lvcreate', ['--quiet', '--yes', '--type', 'thin-pool', '--name', 'pool', '--size', '16M', '--chunksize', `${String(chunkKiB)}K`, ...pool, VG], { timeoutMs: 60_000 });
    await run('lvcreate', ['--quiet', '--yes', '--thin', '--name', 'thin', '--virtualsize', `${String(mebibytes)}M`, `${VG}/pool`], { timeoutMs: 60_000 });
    return `/dev/${VG}/thin`;
  }

  /** Bytes that the pool keeps for the volume. */
  async function provisioned(): Promise<number> {
    const { stdout } = await run('dmsetup', ['status', `${VG}-thin`]); // 0 <sectors> thin <mapped sectors> <highest mapped sector>
    return Number(stdout.trim().split(/\s+/)[3]) * 512;
  }

  async function fill(device: string): Promise<void> {
    const handle = await open(device, 'r+');
    const size = Number((await run('blockdev', ['--getsize64', device])).stdout);
    const noise = randomBytes(MIB);
    for (let at = 0; at < size; at += MIB) await handle.write(noise, 0, Math.min(MIB, size - at), at);
    await handle.sync();
    await handle.close();
    await run('blockdev', ['--flushbufs', device]);
  }

  /** What the device itself gives, not the page cache. */
  async function read(device: string, bytes: number): Promise<Buffer> {
    const path = ground.path('read');
    await run('dd', [`if=${device}`, `of=${path}`, 'bs=1M', 'iflag=direct', 'status=none']);
    return (await readFile(path)).subarray(0, bytes);
  }

  async function becomes(device: string, start: 'fresh' | 'stale' | 'read', letters: string, bytes = letters.length * BLOCK): Promise<void> {
    const source = await ground.disk('source', letters, bytes, ground.path('source'), BLOCK);
    const { received } = await ground.move({ path: source, bytes }, { path: device, start }, { blockBytes: BLOCK });
    assert.equal(received.digest, plainDigest(await readFile(source), BLOCK));
    assert.equal(received.proof, 'device');
    assert.ok((await read(device, bytes)).equals(await readFile(source)), 'the volume does not hold what was sent');
  }

  const notZero = (letters: string): number => [...letters].filter((letter) => letter !== '.').length * BLOCK;
  const LETTERS = 'ab.c......d....ef.....g...........'.slice(0, 32);

  it('that is thin takes no space for zeros, whatever was there and however it is offered', async () => {
    const device = await thin(4, 64);
    assert.equal(await thinChunkBytes(`/sys/class/block/${basename(await realpath(device))}`), 64 * KIB);
    await becomes(device, 'fresh', LETTERS);
    assert.equal(await provisioned(), notZero(LETTERS));
    for (const start of ['stale', 'read'] as const) {
      await fill(device);
      assert.equal(await provisioned(), 4 * MIB);
      await becomes(device, start, LETTERS);
      assert.equal(await provisioned(), notZero(LETTERS), start);
    }
    await becomes(device, 'read', '.'.repeat(32));
    assert.equal(await provisioned(), 0);
  });

  it('that is thin holds the right bytes where chunks are larger than blocks, or fit them nowhere', async () => {
    for (const chunk of [192, 512]) {
      const device = await thin(4, chunk);
      await fill(device);
      await becomes(device, 'stale', LETTERS);
      const [kept, most] = [await provisioned(), notZero(LETTERS) + 2 * 5 * Math.max(BLOCK, chunk * KIB)]; // five runs of zeros with two edges each
      assert.ok(kept < 4 * MIB && kept <= most, `${String(kept)} bytes are kept, chunks of ${String(chunk)} KiB`);
      await clearGroup(VG);
    }
  });

  it('that is thin takes disks of any size, and leaves what lies behind their end', async () => {
    const device = await thin(4, 64);
    await fill(device);
    const before = await read(device, 4 * MIB);
    const bytes = 9 * BLOCK + 100_333;
    await becomes(device, 'stale', 'ab......c.', bytes);
    assert.ok((await read(device, 4 * MIB)).subarray(bytes).equals(before.subarray(bytes)));
  });

  it('in a pool that ignores discards ends right all the same', async () => {
    const device = await thin(4, 64, ['--discards', 'ignore']);
    await becomes(device, 'fresh', LETTERS);
    assert.equal(await provisioned(), notZero(LETTERS), 'zeros were written into what was empty');
    await fill(device);
    await becomes(device, 'stale', LETTERS);
    await fill(device);
    await becomes(device, 'read', LETTERS);
  });

  it('that is plain and holds old data ends right, and no discard is trusted there', async () => {
    await run('lvcreate', ['--quiet', '--yes', '--wipesignatures', 'n', '--zero', 'n', '--name', 'plain', '--size', '4M', VG], { timeoutMs: 60_000 });
    const device = `/dev/${VG}/plain`;
    assert.equal(await thinChunkBytes(`/sys/class/block/${basename(await realpath(device))}`), undefined);
    await fill(device);
    await becomes(device, 'stale', LETTERS);
    await becomes(device, 'stale', `${'.'.repeat(9)}a`, 9 * BLOCK + 512);
  });

  it('in a pool that runs full makes no image; it does when the pool has grown', async () => {
    const device = await thin(32, 64, ['--errorwhenfull', 'y']);
    const letters = 'abcdefghij'.repeat(20);
    const bytes = letters.length * BLOCK;
    const source = await ground.disk('source', letters, bytes, ground.path('source'), BLOCK);
    await assert.rejects(ground.move({ path: source, bytes }, { path: device, start: 'fresh' }, { blockBytes: BLOCK }), { code: /^(io|no-space)$/ });
    await run('lvextend', ['--quiet', '--yes', '--size', '32M', `${VG}/pool`], { timeoutMs: 60_000 });
    await becomes(device, 'read', letters);
  });

  it('drops whole chunks only, and those read as zeros at once', async () => {
    const device = await thin(8, 64);
    await fill(device);
    const before = await read(device, 8 * MIB);
    await discardChunks(device, 64 * KIB, MIB + 512, MIB);
    const after = await read(device, 8 * MIB);
    const [from, until] = [MIB + 64 * KIB, 2 * MIB];
    assert.ok(after.subarray(from, until).every((byte) => byte === 0));
    assert.ok(after.subarray(0, from).equals(before.subarray(0, from)) && after.subarray(until).equals(before.subarray(until)));
    assert.equal(await provisioned(), 8 * MIB - (until - from));
  });
});
