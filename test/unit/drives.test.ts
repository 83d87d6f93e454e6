import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, rm, stat, statfs, symlink, unlink, writeFile, access } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findCacheDrives } from '../../src/cache/drives.js';
import { OpenDrives } from '../../src/cache/open-drives.js';
import { Ledger } from '../../src/capture/obligations.js';
import { payUnmount } from '../../src/capture/payments.js';
import { makeDirectory } from '../../src/system/durable.js';
import { lock } from '../../src/system/flock.js';
import { listMounts, mountAt } from '../../src/system/mounts.js';
import { run } from '../../src/system/run.js';
import { LoopDrives } from '../support/loop-drives.js';

const guard = [process.execPath, fileURLToPath(new URL('../support/guard-main.js', import.meta.url))];
const SIGNATURE = '.dr_cache';
/** libvirt's own test driver: a hypervisor without guests, and without a daemon. */
const NO_GUESTS = 'test:///default';

describe('cache drives', function () {
  this.timeout(30_000);
  let home: string;
  let drives: LoopDrives;
  let ledger: Ledger;
  const children: ChildProcess[] = [];
  const caches: OpenDrives[] = [];

  before(async function () {
    if (process.getuid?.() !== 0) return this.skip(); // loop devices and mounts need root
    if (await access('/dev/loop-control').then(() => false, () => true)) this.skip(); // no loop devices here
  });
  beforeEach(async () => {
    home = await mkdtemp(join(tmpdir(), 'cache-'));
    process.env['DR_STATE_DIR'] = join(home, 'state');
    await makeDirectory(join(home, 'state'));
    drives = await LoopDrives.make();
    ledger = await Ledger.open(guard);
  });
  afterEach(async () => {
    for (const child of children.splice(0)) {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    }
    for (const cache of caches.splice(0)) await cache.closeAll();
    assert.deepEqual(await ledger.payAll(), []);
    await ledger.close();
    await drives.remove();
    delete process.env['DR_STATE_DIR'];
    await rm(home, { recursive: true, maxRetries: 10, retryDelay: 50 });
  });

  const find = async (allowed: readonly string[], uri = NO_GUESTS): Promise<string[]> => (await findCacheDrives(SIGNATURE, { allowed, uri })).map(({ device }) => device);
  const opened = (...allowed: readonly string[]): OpenDrives => {
    const cache = new OpenDrives(ledger, { allowed, uri: NO_GUESTS });
    caches.push(cache);
    return cache;
  };
  const digest = async (path: string): Promise<string> => createHash('sha256').update(await readFile(path)).digest('hex');
  const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false);
  const child = (program: string, ...args: string[]): ChildProcess => {
    const started = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(started);
    return started;
  };

  describe('are found', () => {
    for (const [fsType, mebibytes] of [['ext4', 16], ['xfs', 300], ['btrfs', 128]] as const) {
      it(`on an unmounted ${fsType} without changing a bit of it`, async () => {
        const image = await drives.image(fsType, mebibytes, [SIGNATURE]);
        const before = await digest(image);
        const device = await drives.attach(image);
        const [found] = await findCacheDrives(SIGNATURE, { allowed: [device], uri: NO_GUESTS });
        assert.ok(found !== undefined);
        assert.equal(found.fsType, fsType);
        assert.equal(found.sizeBytes, mebibytes * 2 ** 20);
        assert.ok(found.freeBytes > 0 && found.freeBytes < found.sizeBytes);
        assert.equal(found.mountPoint, undefined);
        await run('blockdev', ['--flushbufs', device]);
        assert.equal(await digest(image), before);
        assert.deepEqual((await listMounts()).filter(({ source }) => source === device), []);
        assert.deepEqual(await ledger.list(), []);
      });
    }

    it('on a drive that was pulled while it was written to, without replaying its journal', async () => {
      const image = await drives.image('ext4', 32, [SIGNATURE]);
      const at = await drives.mount(image, ['loop']);
      await writeFile(join(at, 'x'), 'x'.repeat(100_000));
      await run('sync', ['--file-system', at]);
      const pulled = join(drives.directory, 'pulled.img');
      await copyFile(image, pulled);
      await drives.unmount(at);
      assert.match((await run('dumpe2fs', ['-h', pulled])).stdout, /needs_recovery/);
      const before = await digest(pulled);
      const device = await drives.attach(pulled);
      assert.deepEqual(await find([device]), [device]);
      await run('blockdev', ['--flushbufs', device]);
      assert.equal(await digest(pulled), before);
    });

    it('largest first, equal ones by device path', async () => {
      const made = [await drives.drive('ext4', 16, [SIGNATURE]), await drives.drive('ext4', 24, [SIGNATURE]), await drives.drive('ext4', 16, [SIGNATURE])];
      const equal = [made[0] ?? '', made[2] ?? ''].sort();
      assert.deepEqual(await find(made), [made[1], ...equal]);
    });

    it('where they are mounted, if writable', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const at = await drives.mount(device);
      assert.equal((await findCacheDrives(SIGNATURE, { allowed: [device], uri: NO_GUESTS }))[0]?.mountPoint, at);
      await run('mount', ['-o', 'remount,ro', at]);
      assert.deepEqual(await find([device]), []);
    });

    it('where they are mounted on btrfs, which has a device number of its own', async () => {
      const device = await drives.drive('btrfs', 128, [SIGNATURE]);
      const at = await drives.mount(device);
      const [found] = await findCacheDrives(SIGNATURE, { allowed: [device], uri: NO_GUESTS });
      assert.equal(found?.mountPoint, at);
    });

    it('only by a regular file of that name in the root', async () => {
      const plain = await drives.drive('ext4', 16);
      const directory = await drives.drive('ext4', 16, [`${SIGNATURE}/`]);
      const other = await drives.drive('ext4', 16, ['.dr_cache2']);
      const image = await drives.image('ext4', 16);
      const at = await drives.mount(image, ['loop']);
      await symlink('/etc/hostname', join(at, SIGNATURE));
      await drives.unmount(at);
      assert.deepEqual(await find([plain, directory, other, await drives.attach(image)]), []);
      await assert.rejects(findCacheDrives('../x', { allowed: [] }), { code: 'config-invalid' });
    });
  });

  describe('are not looked into', () => {
    it('when they are swap, a partitioned disk, read-only, or not on the list of allowed devices', async () => {
      const image = await drives.image('ext4', 16, [SIGNATURE]);
      const readOnly = await drives.attach(image, ['--read-only']);
      const partitioned = join(drives.directory, 'partitioned.img');
      await copyFile(image, partitioned);
      await run('tune2fs', ['-U', 'random', partitioned]);
      const device = await drives.attach(partitioned);
      assert.deepEqual(await find([await drives.drive('swap', 16), readOnly]), []);
      assert.deepEqual(await find([]), []);
      assert.deepEqual(await find([`${device}x`]), []);
      assert.deepEqual(await find([device]), [device]);
    });

    it('when they are mounted in another mount namespace', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const at = join(home, 'there');
      await mkdir(at);
      const other = child('unshare', '--mount', '--propagation', 'private', 'sh', '-c', `mount ${device} ${at} && echo mounted && exec sleep 600`);
      assert.ok(other.stdout !== null);
      await once(other.stdout, 'data');
      assert.deepEqual(await find([device]), []);
      other.kill('SIGKILL');
      await once(other, 'exit');
      assert.deepEqual(await find([device]), [device]);
    });

    it('when a process has them open, as QEMU has its guests\' disks', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const opener = child('sh', '-c', `exec 3<${device}; echo open; exec sleep 600`);
      assert.ok(opener.stdout !== null);
      await once(opener.stdout, 'data');
      assert.deepEqual(await find([device]), []);
      opener.kill('SIGKILL');
      await once(opener, 'exit');
      assert.deepEqual(await find([device]), [device]);
    });

    it('when they are the disk of a server that is off', async function () {
      if (await run('virsh', ['--version']).then(() => false, () => true)) this.skip(); // no virsh here
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const node = join(home, 'node.xml');
      await writeFile(node, `<node><domain type='test'><name>Web01</name><uuid>11111111-2222-3333-4444-555555555555</uuid><memory>1024</memory><os><type>hvm</type></os><devices>
        <disk type='block' device='disk'><source dev='${device}'/><target dev='vda'/></disk></devices></domain></node>`);
      assert.deepEqual(await find([device], `test://${node}`), []);
      assert.deepEqual(await find([device]), [device]);
    });

    it('when two devices show the same file system', async () => {
      const image = await drives.image('ext4', 16, [SIGNATURE]);
      await copyFile(image, join(drives.directory, 'twin.img'));
      const both = [await drives.attach(image), await drives.attach(join(drives.directory, 'twin.img'))];
      assert.deepEqual(await find(both), []);
    });
  });

  describe('in use', () => {
    it('are mounted for the purpose and unmounted after, files removed', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const cache = opened(device);
      const [{ root, freeBytes }, again] = await Promise.all([cache.open(device, SIGNATURE), cache.open(device, SIGNATURE)]);
      assert.equal(again.root, root);
      assert.equal((await mountAt(root))?.source, device);
      assert.ok(freeBytes > 8 * 2 ** 20);
      const path = await cache.allocate(device, 'run1', 'Web01_root', { bytes: 2 ** 20 });
      assert.equal(path, join(root, 'dr-engine', 'run1', 'Web01_root.raw'));
      const status = await stat(path);
      assert.deepEqual([status.mode & 0o777, status.size], [0o600, 2 ** 20]);
      assert.deepEqual((await ledger.list()).map(({ debt }) => debt.kind), ['unmount', 'remove']);
      await cache.remove(path);
      assert.deepEqual((await ledger.list()).map(({ debt }) => debt.kind), ['unmount']);
      const left = await cache.allocate(device, 'run1', 'Web01_data', { bytes: 2 ** 20 });
      await writeFile(left, 'data');
      await cache.close(device);
      assert.equal(await mountAt(root), undefined);
      assert.equal(await exists(root), false);
      assert.deepEqual(await ledger.list(), []);
      const at = await drives.mount(device);
      assert.deepEqual((await readdir(at)).sort(), [SIGNATURE, 'lost+found']);
    });

    it('stay mounted where somebody else mounted them', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const at = await drives.mount(device);
      const cache = opened(device);
      assert.equal((await cache.open(device, SIGNATURE)).root, at);
      await cache.allocate(device, 'run1', 'Web01_root', { bytes: 2 ** 20 });
      await cache.closeAll();
      assert.equal((await mountAt(at))?.source, device);
      assert.deepEqual((await readdir(at)).sort(), [SIGNATURE, 'lost+found']);
    });

    it('are mounted a second time by a second run, and neither ends the other\'s', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const [one, two] = [opened(device), opened(device)];
      const first = await one.open(device, SIGNATURE);
      const path = await one.allocate(device, 'run1', 'Web01_root', { bytes: 2 ** 20 });
      const second = await two.open(device, SIGNATURE);
      assert.notEqual(second.root, first.root);
      assert.equal(await exists(path), true, 'the lock of a run that lives keeps its files');
      await assert.rejects(two.allocate(device, 'run1', 'Web01_data', { bytes: 2 ** 20 }), { code: 'cache-lost' });
      assert.equal(await exists(path), true);
      await one.closeAll();
      assert.equal(await exists(join(second.root, SIGNATURE)), true);
      await two.closeAll();
    });

    it('are freed of what dead runs left, and of nothing else', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const at = await drives.mount(device);
      const make = async (name: string, ...files: string[]): Promise<void> => {
        await mkdir(join(at, 'dr-engine', name), { recursive: true });
        for (const file of files) await writeFile(join(at, 'dr-engine', name, file), 'x');
      };
      await make('dead', '.dr-engine-run', 'Web01_root.raw');
      await make('unborn');
      await make('alive', '.dr-engine-run', 'Db01_root.raw');
      await make('admins', 'notes.txt');
      await writeFile(join(at, 'dr-engine', 'file'), 'x');
      const held = await lock(join(at, 'dr-engine', 'alive', '.dr-engine-run'), 'a run');
      const cache = opened(device);
      await cache.open(device, SIGNATURE);
      assert.deepEqual((await readdir(join(at, 'dr-engine'))).sort(), ['admins', 'alive', 'file']);
      assert.equal(await exists(join(at, 'dr-engine', 'alive', 'Db01_root.raw')), true);
      await held.release();
      await cache.closeAll();
    });

    it('take no more than fits, what is promised to others counted', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const cache = opened(device);
      const { root, freeBytes } = await cache.open(device, SIGNATURE);
      await assert.rejects(cache.allocate(device, 'run1', 'big', { bytes: freeBytes }), { code: 'no-space' });
      const half = Math.floor(freeBytes * 0.6);
      const both = await Promise.allSettled(['a', 'b'].map((name) => cache.allocate(device, 'run1', name, { bytes: half })));
      assert.deepEqual(both.map(({ status }) => status), ['fulfilled', 'rejected']);
      const { bavail, bsize } = await statfs(root);
      assert.ok(bavail * bsize > freeBytes - 2 ** 20, 'files are sparse');
      await cache.closeAll();
    });

    it('take more than fits where less is expected, and not beyond that', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const cache = opened(device);
      const { freeBytes } = await cache.open(device, SIGNATURE);
      const size = { bytes: freeBytes * 2, expectedBytes: Math.floor(freeBytes * 0.4) };
      for (const name of ['a', 'b']) assert.equal((await stat(await cache.allocate(device, 'run1', name, size))).size, freeBytes * 2);
      await assert.rejects(cache.allocate(device, 'run1', 'c', size), { code: 'no-space' });
      await cache.closeAll();
    });

    it('keep beside a file the digests of what is left out of it, and remove them with it', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const cache = opened(device);
      await cache.open(device, SIGNATURE);
      const path = await cache.allocate(device, 'run1', 'Web01_root', { bytes: 2 ** 20 });
      await cache.allocate(device, 'run1', 'Web01_data', { bytes: 2 ** 20 });
      await cache.addWithout(path, Buffer.from('one '));
      const without = await cache.addWithout(path, Buffer.from('two'));
      assert.equal(await readFile(without, 'utf8'), 'one two');
      assert.equal((await stat(without)).mode & 0o777, 0o600);
      await assert.rejects(cache.addWithout('/etc/hostname', Buffer.alloc(32)), { code: 'not-ours' });
      await cache.remove(path);
      assert.equal(await exists(without), false);
      await cache.closeAll();
    });

    it('never overwrite a file, and take no path for a name', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const cache = opened(device);
      await cache.open(device, SIGNATURE);
      const path = await cache.allocate(device, 'run1', 'a', { bytes: 4096 });
      await assert.rejects(cache.allocate(device, 'run1', 'a', { bytes: 4096 }), { code: 'exists' });
      for (const [name, file] of [['..', 'a'], ['run1', '../a'], ['', 'a'], ['run1', '.a']] as const) {
        await assert.rejects(cache.allocate(device, name, file, { bytes: 4096 }), { code: 'name-invalid' });
      }
      await assert.rejects(cache.remove('/etc/hostname'), { code: 'not-ours' });
      await cache.remove(path);
      await cache.closeAll();
    });

    it('are reported lost when the signature is gone, the device is no drive, or it turned read-only', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const at = await drives.mount(device);
      await unlink(join(at, SIGNATURE));
      await assert.rejects(opened(device).open(device, SIGNATURE), { code: 'cache-lost' });
      await assert.rejects(opened(device).open('/dev/nothing', SIGNATURE), { code: 'cache-lost' });
      await writeFile(join(at, SIGNATURE), '');
      const cache = opened(device);
      await cache.open(device, SIGNATURE);
      await run('mount', ['-o', 'remount,ro', at]);
      await assert.rejects(cache.allocate(device, 'run1', 'a', { bytes: 4096 }), { code: 'cache-lost' });
      await cache.closeAll();
      await ledger.payAll();
      await run('mount', ['-o', 'remount,rw', at]);
    });

    it('are emptied and unmounted by the debts alone, when nobody closes them', async () => {
      const device = await drives.drive('ext4', 16, [SIGNATURE]);
      const cache = opened(device);
      const { root } = await cache.open(device, SIGNATURE);
      const path = await cache.allocate(device, 'run1', 'a', { bytes: 4096 });
      const busy = await open(path, 'r');
      assert.deepEqual(await ledger.payAll(), [], 'unmounted, lazily, though a file on it is open');
      assert.equal(await mountAt(root), undefined);
      await busy.close();
      await cache.closeAll();
      const at = await drives.mount(device);
      assert.equal(await exists(join(at, 'dr-engine', 'run1')), false);
    });
  });

  describe('a mount that is owed', () => {
    it('is unmounted only if it is ours, once or twice', async () => {
      const device = await drives.drive('ext4', 16);
      const other = await drives.drive('ext4', 16);
      const at = await mkdtemp(join(home, 'mnt-'));
      assert.equal((await payUnmount({ kind: 'unmount', mountPoint: at, source: device })).kind, 'settled');
      await run('mount', [other, at]);
      assert.equal((await payUnmount({ kind: 'unmount', mountPoint: at, source: device })).kind, 'settled');
      assert.equal((await mountAt(at))?.source, other, 'what an admin mounted there stays');
      await run('umount', [at]);
      await run('mount', [device, at]);
      await run('mount', [other, at]);
      assert.equal((await payUnmount({ kind: 'unmount', mountPoint: at, source: device })).kind, 'stuck');
      await run('umount', [at]);
      assert.deepEqual(await payUnmount({ kind: 'unmount', mountPoint: at, source: device }), { kind: 'settled', how: 'unmounted' });
      assert.equal(await mountAt(at), undefined);
    });
  });
});
