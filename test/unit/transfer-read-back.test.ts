import assert from 'node:assert/strict';
import { constants } from 'node:fs';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { residentBytes } from '../../src/system/page-cache.js';
import { run } from '../../src/system/run.js';
import { perform } from '../../src/transfer/block-jobs.js';
import { digestOf } from '../../src/transfer/geometry.js';
import { resultOf } from '../../src/transfer/ticket.js';
import { sharedPages } from '../../src/system/shared-memory.js';
import { isRoot, mountedFileSystem, temporaryDirectory, type TestPlace } from '../support/file-systems.js';
import { skipBecause } from '../support/skip.js';
import { blockOf, MIB, plainDigestOf, TransferGround } from '../support/transfer-ground.js';

describe('reading back what was written', function () {
  this.timeout(30_000);
  let ground: TransferGround;
  before(async () => { ground = await TransferGround.make(); });
  after(() => ground.remove());

  async function mounted(...args: Parameters<typeof mountedFileSystem>): Promise<TestPlace> {
    const place = await mountedFileSystem(...args);
    places.push(place);
    return place;
  }
  const places: TestPlace[] = [];
  afterEach(async () => { for (const place of places.splice(0)) await place.remove(); });

  for (const type of ['ext4', 'xfs'] as const) {
    it(`goes past the page cache on ${type}: no page of the image is resident afterwards`, async function () {
      if (!isRoot) skipBecause(this, 'mounting a file system needs root');
      const place = await mounted(type, type === 'xfs' ? 320 : 64);
      const source = await ground.disk('source', 'abc.......de');
      const image = await ground.disk('', '############', 12 * MIB, join(place.path, 'image'));
      await readFile(image); // as a dd or a checksum by hand would
      const { received } = await ground.move({ path: source, bytes: 12 * MIB }, { path: image, start: 'read' });
      assert.equal(received.proof, 'device');
      assert.equal(await residentBytes(image), 0);
      assert.ok((await readFile(image)).equals(await readFile(source)));
    });
  }

  it('is seen through where O_DIRECT goes through the page cache all the same (ext4 with data=journal)', async function () {
    if (!isRoot) skipBecause(this, 'mounting a file system needs root');
    const place = await mounted('ext4', 64, [], ['data=journal']);
    const source = await ground.disk('source', 'abc.e');
    const image = await ground.disk('', '#####', 5 * MIB, join(place.path, 'image'));
    const { received } = await ground.move({ path: source, bytes: 5 * MIB }, { path: image, start: 'read' });
    assert.equal(received.proof, 'cached');
    assert.ok((await readFile(image)).equals(await readFile(source)));
  });

  it('is seen through on a file system in memory', async function () {
    if (!isRoot) skipBecause(this, 'mounting a file system needs root');
    const place = await temporaryDirectory('tmpfs');
    await run('mount', ['-t', 'tmpfs', 'tmpfs', place.path]);
    places.push({ path: place.path, remove: async () => { await run('umount', [place.path]); await place.remove(); } });
    const source = await ground.disk('source', 'ab');
    const image = await ground.disk('', '##', 2 * MIB, join(place.path, 'image'));
    const { received } = await ground.move({ path: source, bytes: 2 * MIB }, { path: image, start: 'read' });
    assert.equal(received.proof, 'cached');
  });

  /** A loop device full of 0xFF, on a file of that many MiB. */
  async function onDevice(mebibytes: number, act: (device: string, backing: string) => Promise<void>): Promise<void> {
    const backing = await ground.disk('backing', '#'.repeat(mebibytes));
    const device = (await run('losetup', ['--find', '--show', backing])).stdout.trim();
    try {
      await act(device, backing);
    } finally {
      await run('losetup', ['--detach', device]);
    }
  }

  for (const start of ['fresh', 'stale', 'read'] as const) {
    for (const [what, fill, bytes] of [
      ['of sectors', 'a.b.....', 8 * MIB - 512], ['whose size no sector fits', 'ab......c..', 10 * MIB + 333], ['of 4 KiB pages', '.a......', 7 * MIB + 8192],
      ['of nothing but zeros', '.......', 7 * MIB - 1536], ['smaller than a block', 'a', 700],
    ] as const) {
      it(`works on a block device offered as ${start}, where old data must be zeroed too: a disk ${what}`, async function () {
        if (!isRoot) skipBecause(this, 'a loop device needs root');
        await onDevice(12, async (device, backing) => {
          const source = await ground.disk('source', fill, bytes);
          const { received, sent, ticket } = await ground.move({ path: source, bytes }, { path: device, start }); // nor is a device's freshness believed
          assert.equal(received.digest, sent.digest);
          assert.equal(received.digest, await plainDigestOf(source));
          assert.equal((await resultOf(ticket)).proof, 'device');
          const found = await readFile(backing);
          assert.ok(found.subarray(0, bytes).equals(await readFile(source)));
          assert.ok(found.subarray(bytes).every((byte) => byte === 0xff), 'the slack behind the disk was touched');
        });
      });
    }
  }

  it('reads nothing of a stale image before it is written', async function () {
    if (!isRoot) skipBecause(this, 'a loop device needs root');
    await onDevice(4, async (device) => {
      const source = await ground.disk('source', '####'); // what happens to be there
      const { sent, received } = await ground.move({ path: source, bytes: 4 * MIB }, { path: device, start: 'stale' });
      assert.ok(sent.bytesSent > 4 * MIB);
      assert.equal(received.bytesWritten, 4 * MIB);
      assert.equal((await ground.move({ path: source, bytes: 4 * MIB }, { path: device, start: 'read' })).received.bytesWritten, 0);
    });
  });

  it('refuses a block device that is mounted', async function () {
    if (!isRoot) skipBecause(this, 'mounting a file system needs root');
    const place = await mounted('ext4', 64);
    const device = (await run('findmnt', ['--noheadings', '--output', 'SOURCE', place.path])).stdout.trim();
    const source = await ground.disk('source', 'a');
    await assert.rejects(ground.move({ path: source, bytes: MIB }, { path: device, start: 'read' }), { code: 'image-in-use' });
  });

  it('says no-space, and whose, when the store fills up', async function () {
    if (!isRoot) skipBecause(this, 'mounting a file system needs root');
    const place = await mounted('ext4', 16, ['-O', '^has_journal']);
    const fill = 'abcdefghijklmnopqrstuvwx';
    const source = await ground.disk('source', fill);
    const image = await ground.disk('', '', fill.length * MIB, join(place.path, 'image'));
    await assert.rejects(ground.move({ path: source, bytes: fill.length * MIB }, { path: image, start: 'fresh' }), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'no-space');
      assert.match(error.message, new RegExp(image));
      return true;
    });
  });

  describe('finds', () => {
    const memory = sharedPages(4 * MIB);
    const pages = { memory, blockBytes: MIB, scratch: 2 * MIB, zeros: 3 * MIB };
    const inSlot = (letter: string): Buffer => {
      const slot = Buffer.from(memory, 0, MIB);
      blockOf(letter).copy(slot);
      return slot;
    };

    it('a write that landed elsewhere', async () => {
      const path = ground.path('appended');
      await writeFile(path, blockOf('#'));
      // With O_APPEND Linux ignores the offset of a write: a device that lies, made of plain parts.
      const handle = await open(path, constants.O_RDWR | constants.O_APPEND | constants.O_DIRECT);
      try {
        const digest = digestOf(inSlot('a'));
        assert.deepEqual(perform({ kind: 'write', blockBytes: MIB, fd: handle.fd, tailFd: handle.fd, offset: 0, length: MIB, slot: 0, digest, readBack: true }, pages), { kind: 'not-what-was-written' });
      } finally {
        await handle.close();
      }
    });

    it('parts of a block that were written and are not there', async () => {
      const path = ground.path('parts');
      await writeFile(path, blockOf('b'));
      const handle = await open(path, constants.O_RDWR | constants.O_APPEND | constants.O_DIRECT);
      try {
        const made = Buffer.from(blockOf('b'));
        blockOf('a').copy(made, 4096 * 3, 0, 4096);
        new Uint8Array(pages.memory).set(blockOf('a').subarray(0, 4096));
        const map = Uint8Array.from({ length: 32 }, (_, at) => at === 0 ? 1 << 3 : 0);
        const job = { kind: 'write', blockBytes: MIB, fd: handle.fd, tailFd: handle.fd, offset: 0, length: MIB, slot: 0, map, digest: digestOf(made) } as const;
        assert.deepEqual(perform({ ...job, readBack: true }, pages), { kind: 'not-what-was-written' });
      } finally {
        await handle.close();
      }
    });

    it('bytes that changed on their way, with and without reading back', async () => {
      const path = ground.path('changed');
      await writeFile(path, blockOf('#'));
      const handle = await open(path, constants.O_RDWR | constants.O_DIRECT);
      try {
        inSlot('a');
        for (const readBack of [true, false]) {
          assert.deepEqual(perform({ kind: 'write', blockBytes: MIB, fd: handle.fd, tailFd: handle.fd, offset: 0, length: MIB, slot: 0, digest: digestOf(blockOf('b')), readBack }, pages), { kind: 'damaged-on-arrival' });
        }
      } finally {
        await handle.close();
      }
    });

    it('a range that is not zero after it was punched, and a file that ended', async () => {
      const path = ground.path('unpunched');
      await writeFile(path, blockOf('#'));
      const handle = await open(path, constants.O_RDWR | constants.O_DIRECT);
      try {
        const digest = digestOf(Buffer.alloc(MIB));
        assert.deepEqual(perform({ kind: 'prove', fd: handle.fd, offset: 0, length: MIB, digest }, pages), { kind: 'not-what-was-written' });
        assert.deepEqual(perform({ kind: 'prove', fd: handle.fd, offset: MIB, length: MIB, digest }, pages), { kind: 'short' });
      } finally {
        await handle.close();
      }
    });
  });
});
