import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { allowedDevices, isAllowed, isClaimed, listBlockDevices, parseBlockDevices, probeSignature } from '../../src/system/block-devices.js';
import { LoopDrives } from '../support/loop-drives.js';

describe('block devices', () => {
  let home: string;
  beforeEach(async () => { home = await mkdtemp(join(tmpdir(), 'block-')); });
  afterEach(async () => { await rm(home, { recursive: true }); });

  const row = (path: string, type: string, children?: object[]): object => ({ path, type, size: 1, ro: false, 'maj:min': path, ...(children === undefined ? {} : { children }) });

  it('know what they lie on and what lies on them, a RAID on all its members', () => {
    const raid = row('/dev/md0', 'raid1');
    const parsed = parseBlockDevices(JSON.stringify({ blockdevices: [
      row('/dev/sda', 'disk', [row('/dev/sda1', 'part', [raid])]), row('/dev/sdb', 'disk', [raid]), row('/dev/loop0', 'loop'),
    ] }));
    assert.deepEqual(parsed.map(({ path, ancestors, childTypes }) => [path, ancestors, childTypes]), [
      ['/dev/sda', [], ['part']], ['/dev/sda1', ['/dev/sda'], ['raid1']], ['/dev/md0', ['/dev/sda', '/dev/sda1', '/dev/sdb'], []], ['/dev/sdb', [], ['raid1']], ['/dev/loop0', [], []],
    ]);
  });

  it('are never taken for none because lsblk failed or said something else', async () => {
    const path = process.env['PATH'];
    await writeFile(join(home, 'lsblk'), '#!/bin/sh\necho \'{"blockdevices":[]}\'\nexit 1\n');
    await chmod(join(home, 'lsblk'), 0o755);
    process.env['PATH'] = `${home}:${path ?? ''}`;
    try {
      await assert.rejects(listBlockDevices(), { code: 'program-failed' });
    } finally {
      process.env['PATH'] = path;
    }
    for (const text of ['', '{}', '{"blockdevices":[{"name":"sda"}]}']) assert.throws(() => parseBlockDevices(text), { code: 'program-failed' });
  });

  it('may be limited to a list', async () => {
    assert.equal(await allowedDevices(join(home, 'devices')), undefined);
    await writeFile(join(home, 'devices'), '# cache drives\n/dev/sdb1   # the blue one\n\n/dev/disk/by-id/usb-*\n');
    const allowed = await allowedDevices(join(home, 'devices'));
    assert.deepEqual(allowed, ['/dev/sdb1', '/dev/disk/by-id/usb-*']);
    await symlink('/dev/null', join(home, 'by-id'));
    await writeFile(join(home, 'links'), `${join(home, 'by-id')}\n`);
    assert.deepEqual(await allowedDevices(join(home, 'links')), ['/dev/null']);
    for (const [path, yes] of [['/dev/sdb1', true], ['/dev/sdb10', false], ['/dev/sdb', false], ['/dev/disk/by-id/usb-x', true], ['/dev/disk/by-id/usb-x/y', false]] as const) {
      assert.equal(isAllowed(path, allowed), yes, path);
    }
    assert.equal(isAllowed('/dev/sda', undefined), true);
    assert.equal(isAllowed('/dev/sda', []), false);
  });

  it('show their signature and whether the kernel has claimed them', async function () {
    if (process.getuid?.() !== 0) return this.skip(); // loop devices need root
    const drives = await LoopDrives.make();
    try {
      const device = await drives.drive('ext4', 16);
      assert.equal((await probeSignature(device))?.type, 'ext4');
      assert.equal((await probeSignature(await drives.drive('swap', 16)))?.usage, 'other');
      assert.equal(await probeSignature('/dev/nothing'), undefined);
      assert.ok((await listBlockDevices()).some(({ path, sizeBytes }) => path === device && sizeBytes === 16 * 2 ** 20));
      assert.equal(await isClaimed(device), false);
      await drives.mount(device);
      assert.equal(await isClaimed(device), true);
      assert.equal(await isClaimed('/dev/nothing'), true);
    } finally {
      await drives.remove();
    }
  });
});
