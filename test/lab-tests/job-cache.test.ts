import assert from 'node:assert/strict';
import type { Guest } from '../lab/guest.js';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { go, reached, stopAt, watchSteps } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { Admin, cold, ended, job, type Keys, type Ran } from './admin.js';
import { files, Lifecycle, names } from './outside.js';

/**
 * Cache drives in whole runs: which are used, what lies on them, in which order servers go down and come back, and that nothing stays. A drive counts
 * only if it bears the configured signature, so that each test has drives of its own.
 */

const LAB = 'job-cache';

describe('a job with cache drives', function () {
  this.timeout(240_000);
  let lab: Lab;
  let admin: Admin;
  let node: LabHost;
  let target: LabHost;
  let one: Guest;
  let two: Guest;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'node02', 'dr01', 'head01'], store: { sizeMiB: 512 } });
    node = lab.host('node01');
    target = lab.host('dr01');
    admin = new Admin(lab.host('head01'));
    await watchSteps(lab.host('head01'));
    one = await lab.addGuest('node01', { name: 'Ca01', disks: [{}, { sizeMiB: 8 }] });
    two = await lab.addGuest('node01', { name: 'Cb01', disks: [{}, { sizeMiB: 10 }] });
  });
  after(async () => { await Lab.down(LAB); });

  const configure = (signature: string, form: Keys): Promise<void> => admin.configure({ jobs: { cache: form }, more: { cache: { signature } } });

  /** Image files on a drive that is mounted somewhere on a host, with their sizes. */
  async function filesOn(host: LabHost, device: string): Promise<{ readonly mountPoints: string[]; readonly files: string[] }> {
    const { stdout } = await host.run('findmnt', ['-rn', '-S', device, '-o', 'TARGET'], { okExit: [0, 1] });
    const mountPoints = stdout.split('\n').filter((line) => line !== '');
    const [at] = mountPoints;
    if (at === undefined) return { mountPoints, files: [] };
    const found = (await host.run('find', [at, '-type', 'f', '-size', '+1M', '-printf', '%f %s\n'])).stdout;
    return { mountPoints, files: found.split('\n').filter((line) => line !== '').sort() };
  }

  async function assertEmpty(host: LabHost, device: string, signature: string): Promise<void> {
    assert.deepEqual((await filesOn(host, device)).mountPoints, [], 'the drive is still mounted');
    await host.run('sh', ['-c', 'mkdir -p /mnt/look && mount -o ro "$1" /mnt/look', 'sh', device]);
    assert.deepEqual(await names(host, '/mnt/look'), [signature, 'lost+found']);
    await host.run('umount', ['/mnt/look']);
  }

  /** Runs the job and looks at the hosts when the first server's images are on the cache drives and none has been sent. */
  async function runLookingAtCache(look: () => Promise<void>): Promise<Ran> {
    await stopAt(admin.host, 'deliver-before');
    const run = await admin.start('cache');
    await reached(admin.host, 60_000);
    await look();
    await go(admin.host);
    const result = await ended(run);
    assert.equal(result.status, 0, result.all);
    for (const server of result.report.servers) assert.ok(server.images.every(({ cached }) => cached), result.all);
    return result;
  }

  it('takes all servers down at once when their images fit together, largest first, and boots them before anything is sent', async () => {
    const device = await lab.addDrive('node01', { sizeMiB: 128, signature: '.roomy' });
    await configure('.roomy', cold(['Ca01', 'Cb01']));
    await Promise.all([one.beats(1), two.beats(1)]);
    const lifecycle = await Lifecycle.watch(node);
    await runLookingAtCache(async () => {
      assert.deepEqual([await one.state(), await two.state()], ['running', 'running']);
      assert.match(lifecycle.flips, /^(-Ca01 -Cb01|-Cb01 -Ca01) \+Cb01 \+Ca01$/);
      const on = await filesOn(node, device);
      assert.equal(on.mountPoints.length, 1);
      assert.equal(on.files.length, 4, on.files.join('\n'));
      assert.deepEqual(await names(target, '/srv/dr').then((all) => all.filter((name) => name.endsWith('.raw'))), [], 'something was sent already');
    });
    await lifecycle.end();
    for (const server of ['Ca01', 'Cb01']) assert.equal((await files(target, server)).size, 2);
    await assertEmpty(node, device, '.roomy');
  });

  it('takes them one at a time when the drive is too small for all of them', async () => {
    const device = await lab.addDrive('node01', { sizeMiB: 48, signature: '.small' });
    await configure('.small', cold(['Ca01', 'Cb01']));
    const lifecycle = await Lifecycle.watch(node);
    await runLookingAtCache(async () => {
      assert.equal((await filesOn(node, device)).files.length, 2);
      assert.equal(lifecycle.flips, '-Cb01 +Cb01', 'the second went down before the first was done');
    });
    await lifecycle.end();
    assert.equal(lifecycle.flips, '-Cb01 +Cb01 -Ca01 +Ca01');
    for (const server of ['Ca01', 'Cb01']) assert.equal((await files(target, server)).size, 4);
    await assertEmpty(node, device, '.small');
  });

  it('fills the largest of two drives first, and caches a live capture too', async () => {
    const small = await lab.addDrive('node01', { sizeMiB: 40, signature: '.pair' });
    const large = await lab.addDrive('node01', { sizeMiB: 48, signature: '.pair' });
    await lab.addGuest('node01', { name: 'Cc01', disks: [{}, { sizeMiB: 20 }] });
    await configure('.pair', job(['Cc01']));
    const { server } = await runLookingAtCache(async () => {
      const [onSmall, onLarge] = [(await filesOn(node, small)).files, (await filesOn(node, large)).files];
      assert.match(onLarge.join('\n'), /^\S*Cc01_1\S* 20971520$/);
      assert.match(onSmall.join('\n'), /^\S*Cc01_0\S* 8388608$/);
    });
    assert.equal(server().capture, 'live');
    await assertEmpty(node, small, '.pair');
    await assertEmpty(node, large, '.pair');
    await node.run('virsh', ['destroy', 'Cc01']);
  });

  it('uses a drive where it is mounted, and leaves it mounted with everything else on it', async () => {
    const device = await lab.addDrive('node01', { sizeMiB: 128, signature: '.mounted' });
    await node.run('sh', ['-c', 'mkdir -p /mnt/usb && mount "$1" /mnt/usb && mkdir /mnt/usb/photos && echo mine > /mnt/usb/photos/cat', 'sh', device]);
    await configure('.mounted', job(['Ca01']));
    await runLookingAtCache(async () => {
      const on = await filesOn(node, device);
      assert.deepEqual(on.mountPoints, ['/mnt/usb']);
      assert.equal(on.files.length, 2);
    });
    assert.deepEqual((await filesOn(node, device)).mountPoints, ['/mnt/usb']);
    assert.deepEqual(await names(node, '/mnt/usb'), ['.mounted', 'lost+found', 'photos']);
    assert.equal(await node.readFile('/mnt/usb/photos/cat'), 'mine\n');
    await node.run('umount', ['/mnt/usb']);
  });

  it('uses a drive on the other node', async () => {
    const device = await lab.addDrive('node02', { sizeMiB: 128, signature: '.other' });
    const other = lab.host('node02');
    await configure('.other', job(['Cb01']));
    const { server } = await runLookingAtCache(async () => {
      assert.equal((await filesOn(other, device)).files.length, 2);
    });
    assert.equal(server().node, 'node01');
    await assertEmpty(other, device, '.other');
  });

  it('lets a server whose copy does not come about give way to those that wait, shut down', async () => {
    const device = await lab.addDrive('node01', { sizeMiB: 128, signature: '.failing' });
    await configure('.failing', cold(['Ca01', 'Cb01']));
    await Promise.all([one.beats(1), two.beats(1)]);
    const lifecycle = await Lifecycle.watch(node);
    await stopAt(admin.host, 'batch-before-capture');
    const run = await admin.start('cache');
    await reached(admin.host, 60_000);
    await lab.breakDrive('node01', device, 'readonly');
    await go(admin.host);
    const { status, all, server } = await ended(run);
    assert.equal(status, 0, all);
    await lifecycle.end();
    assert.match(lifecycle.flips, /^(-Ca01 -Cb01|-Cb01 -Ca01) \+Cb01 \+Ca01 -Cb01 \+Cb01$/);
    for (const name of ['Ca01', 'Cb01']) assert.ok(server(name).images.every(({ cached }) => !cached), all);
    assert.match(server('Cb01').notes?.join('\n') ?? '', /waits for its turn, so that no other server is kept down by it/);
  });

  it('takes none down for a place that it turns out not to have', async () => {
    await lab.addDrive('node01', { sizeMiB: 42, signature: '.tight' });
    await admin.configure({ jobs: { cache: cold(['Ca01', 'Cb01'], { copies: 2 }) }, more: { cache: { signature: '.tight' }, reprove_after: '1s' } });
    assert.equal([...(await admin.dr('plan', 'cache')).stdout.matchAll(/copy what the targets lack of/g)].length, 4, 'both are expected to fit');
    const lifecycle = await Lifecycle.watch(node);
    const { server } = await admin.runsWell('cache'); // but nothing is known any more of copies that are a second old
    await lifecycle.end();
    assert.match(lifecycle.flips, /^-Cb01 \+Cb01 -Ca01 \+Ca01$/);
    assert.deepEqual(['Cb01', 'Ca01'].map((name) => server(name).images.every(({ cached }) => cached)), [true, false]);
  });

  describe('when the images that are going to be recycled are known', () => {
    let guest: Guest;
    let device: string;
    /** The larger disk, of which the guest itself writes only the beginning. */
    const disk = (): string => guest.disks[1]?.path ?? '';

    before(async () => {
      guest = await lab.addGuest('node01', { name: 'Cd01', disks: [{}, { sizeMiB: 64 }], start: false });
      await fill('2', '62');
      await guest.start();
      device = await lab.addDrive('node01', { sizeMiB: 48, signature: '.tiny' });
      await configure('.tiny', cold(['Cd01'], { copies: 2 }));
      await watchSteps(target);
    });

    /** Noise into the larger disk, from one MiB on. */
    const fill = (mebibyte: string, count: string): Promise<unknown> =>
      node.run('dd', ['if=/dev/urandom', `of=${disk()}`, 'bs=1M', `seek=${mebibyte}`, `count=${count}`, 'conv=notrunc,fsync', 'status=none']);

    async function assertLike(image: string): Promise<void> {
      const sum = async (host: LabHost, path: string): Promise<string> => (await host.run('sh', ['-c', 'tail -c +2097153 "$1" | sha256sum', 'sh', path])).stdout;
      assert.equal(await sum(target, `/srv/dr/${image}.raw`), await sum(node, disk()), `${image} is not what the disk is`);
    }

    it('goes without the cache as long as they are not, if the drive is too small', async () => {
      for (const copy of [1, 2]) {
        const { server } = await admin.runsWell('cache');
        assert.ok(server().images.every(({ cached }) => !cached));
        assert.equal((await files(target, 'Cd01')).size, 2 * copy);
      }
      await assertLike('Cd01_Cd01_1_1');
    });

    it('keeps on the drive only what they lack, so that it takes a server that is larger than itself', async () => {
      await fill('30', '2');
      assert.match((await admin.dr('plan', 'cache')).stdout, /copy what the targets lack of disk Cd01_1 to the cache drive/);
      await runLookingAtCache(async () => {
        assert.equal(await guest.state(), 'running');
        const [at] = (await filesOn(node, device)).mountPoints;
        const kept = Number((await node.run('sh', ['-c', 'du -sk "$1/dr-engine"', 'sh', at ?? ''])).stdout.split('\t')[0]);
        assert.ok(kept > 2048 && kept < 6144, `${String(kept)} KiB are on the drive`);
      });
      await assertLike('Cd01_Cd01_1_1');
      await assertEmpty(node, device, '.tiny');
    });

    it('captures the server again when somebody has written to one meanwhile', async () => {
      await fill('40', '1');
      await stopAt(target, 'bind-after', 2);
      const run = await admin.start('cache');
      await reached(target, 60_000);
      await target.run('dd', ['if=/dev/urandom', 'of=/srv/dr/Cd01_Cd01_1_incomplete.raw', 'bs=1M', 'seek=50', 'count=1', 'conv=notrunc,fsync', 'status=none']);
      await go(target);
      const { status, all, server } = await ended(run);
      assert.equal(status, 0, all);
      assert.match(server().notes?.join('\n') ?? '', /is captured again, straight to dr01, .* has not any more what it had/);
      assert.ok(server().images.every(({ cached }) => !cached));
      await assertLike('Cd01_Cd01_1_1');
      await assertEmpty(node, device, '.tiny');
    });
  });
});
