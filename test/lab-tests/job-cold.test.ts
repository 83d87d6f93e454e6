import assert from 'node:assert/strict';
import type { Guest } from '../lab/guest.js';
import { heartbeatIn } from '../lab/guest.js';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { processesOf } from '../lab/roles.js';
import { go, reached, stopAt, watchSteps } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { Admin, cold, ended, job, type Keys } from './admin.js';
import { assertEqual, files, fill, Lifecycle, names, sumOf, writtenAt } from './outside.js';

/** Cold jobs of whole servers, and servers that are off: what is stored equals the source, and who was running runs again. */

const LAB = 'job-cold';
const MIB = 2 ** 20;

describe('a cold job', function () {
  this.timeout(300_000);
  let lab: Lab;
  let admin: Admin;
  let node: LabHost;
  let target: LabHost;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'node02', 'dr01', 'dr02', 'head01'], store: { sizeMiB: 512 } });
    node = lab.host('node01');
    target = lab.host('dr01');
    admin = new Admin(lab.host('head01'));
  });
  after(async () => { await Lab.down(LAB); });

  describe('of a server that is off', () => {
    const images = '/var/lib/libvirt/images/Off01';
    let guest: Guest;
    let lifecycle: Lifecycle;
    let disks: Record<string, { readonly path: string; readonly format: 'raw' | 'qcow2' }>;

    before(async () => {
      guest = await lab.addGuest('node01', { name: 'Off01', start: false, disks: [
        { path: `${images}/root.raw` }, { path: `${images}/data.qcow2`, format: 'qcow2', backing: true, sizeMiB: 8 }, { path: `${images}/old.raw`, sizeMiB: 8 },
      ] });
      const [root, data, old] = guest.disks;
      assert.ok(root !== undefined && data !== undefined && old !== undefined);
      disks = { root, data, old };
      // In the backing file too, so that a hole in the upper file would show what is below.
      await node.run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0xff 0 8M', `${data.path}.base`]);
      for (const disk of [1, 2]) await fill(guest, disk, 'write -P 0xff 0 8M');
      lifecycle = await Lifecycle.watch(node);
    });
    after(async () => { await lifecycle.end(); });

    const configure = (more: Keys): Promise<void> => admin.configure({ jobs: { off: job(['Off01'], more) } });

    /** A run, after which the newest copy equals the source, disk by disk, and nothing was started. */
    async function runsAndEquals(): Promise<void> {
      const { server, all } = await admin.runsWell('off');
      assert.deepEqual([server().capture, server().down_ms], ['cold', 0], all);
      assert.deepEqual(server().images.map(({ name }) => name).sort(), Object.keys(disks).map((disk) => `Off01_${disk}_1`).sort());
      for (const [disk, source] of Object.entries(disks)) await assertEqual(lab, { host: node, disk: source }, target, `Off01_${disk}_1`);
      assert.equal(await guest.state(), 'shut off');
      assert.equal(lifecycle.flips, '', 'a server that was off was started');
    }

    const stored = async (): Promise<string[]> => [...(await files(target, 'Off01')).keys()].map((name) => name.replace('Off01_', '')).sort();

    it('reads it cold though the job is live: raw, qcow2 and backing files are stored as they are', async () => {
      await configure({ copies: 2 });
      await runsAndEquals();
      await runsAndEquals();
      assert.deepEqual(await stored(), ['data_1', 'data_2', 'old_1', 'old_2', 'root_1', 'root_2']);
    });

    it('overwrites old data with the zeros and holes of the source, also where a disk grew, shrank or appeared', async () => {
      await fill(guest, 1, 'write -z 0 1M', 'discard 1M 1M', 'write -P 0x11 2500k 4k');
      await node.run('qemu-img', ['resize', '-q', `${images}/data.qcow2`, '11M']);
      await node.run('fallocate', ['--punch-hole', '--offset', '2MiB', '--length', '3MiB', `${images}/old.raw`]);
      await fill(guest, 2, 'write -P 0 5632k 4k', 'write -P 0x22 1028k 4k');
      await node.run('truncate', ['--size=5772800', `${images}/old.raw`]); // sectors, but no blocks: 5.5 MiB and a little
      await node.run('sh', ['-c', 'head -c 1500160 /dev/urandom > "$1"', 'sh', `${images}/extra.raw`]);
      await node.run('virsh', ['attach-disk', 'Off01', `${images}/extra.raw`, 'vdd', '--subdriver', 'raw', '--config']);
      disks['extra'] = { path: `${images}/extra.raw`, format: 'raw' };
      await runsAndEquals();
      const seen = await files(target, 'Off01');
      assert.deepEqual(['data', 'old', 'extra'].map((disk) => seen.get(`Off01_${disk}_1`)?.bytes), [11 * MIB, 5_772_800, 1_500_160]);
      assert.deepEqual(['data', 'old'].map((disk) => seen.get(`Off01_${disk}_2`)?.bytes), [8 * MIB, 8 * MIB], 'an older copy changed its size');
    });

    it('goes on without a disk that went away, and keeps it in the older copy', async () => {
      await node.run('virsh', ['detach-disk', 'Off01', 'vdc', '--config']);
      delete disks['old'];
      await runsAndEquals();
      assert.deepEqual(await stored(), ['data_1', 'data_2', 'extra_1', 'extra_2', 'old_2', 'root_1', 'root_2']);
    });

    it('keeps more copies when told to, and prunes what is too much only after a new one is complete', async () => {
      await configure({ copies: 3 });
      await runsAndEquals();
      assert.deepEqual((await stored()).filter((name) => name.startsWith('root')), ['root_1', 'root_2', 'root_3']);
      await configure({ copies: 1 });
      await watchSteps(target);
      await stopAt(target, 'receive-before-proof');
      const run = await admin.start('off');
      await reached(target, 60_000);
      assert.deepEqual((await stored()).filter((name) => name.startsWith('root')).length, 3, 'a copy was given up before the new one was proven');
      await go(target);
      assert.equal((await ended(run)).status, 0);
      assert.deepEqual(await stored(), ['data_1', 'extra_1', 'root_1']);
    });

    it('keeps the only copy until the new one is proven, while there is room for both', async () => {
      const only = (await files(target, 'Off01')).get('Off01_root_1');
      await stopAt(target, 'manifest-before');
      const run = await admin.start('off');
      await reached(target, 60_000);
      const during = (await files(target, 'Off01')).get('Off01_root_1');
      assert.deepEqual([during?.inode, during?.sum], [only?.inode, only?.sum]);
      await go(target);
      assert.equal((await ended(run)).status, 0);
      assert.deepEqual(await stored(), ['data_1', 'extra_1', 'root_1']);
      assert.notEqual((await files(target, 'Off01')).get('Off01_root_1')?.set, only?.set);
    });

    it('refuses to overwrite the only copy before the server is touched, unless told to', async () => {
      await guest.start();
      await guest.beats(1);
      const shutDown = (more: Keys): Promise<void> => admin.configure({ jobs: { off: cold(['Off01'], { copies: 1, ...more }) } });
      await shutDown({});
      // Room for the holes of the only copy to be filled, but not for a second copy of 20.5 MiB.
      await target.run('sh', ['-c', 'free=$(df --output=avail -B1 /srv/dr | tail -n 1); fallocate -l $((free - 16777216)) /srv/dr/ballast']);
      const before = await sumOf(target, '/srv/dr', '/shared');
      const refused = await admin.run('off');
      assert.equal(refused.status, 4, refused.all);
      assert.equal(refused.server().error?.code, 'only-copy', refused.all);
      assert.equal(await sumOf(target, '/srv/dr', '/shared'), before);
      assert.equal(lifecycle.flips, '+Off01', 'the server was touched');

      await shutDown({ overwrite_only_copy: true });
      const { server } = await admin.runsWell('off');
      assert.ok(server().down_ms > 0);
      assert.equal(lifecycle.flips, '+Off01 -Off01 +Off01');
      assert.deepEqual(await stored(), ['data_1', 'extra_1', 'root_1']);
      await guest.destroy();
    });
    after(async () => { await target.run('rm', ['-f', '/srv/dr/ballast']); });
  });

  describe('of a running Linux server', () => {
    let guest: Guest;
    let mute: Guest;
    let drive: string;

    before(async () => {
      [guest, mute] = await Promise.all([lab.addGuest('node01', { name: 'Lx01', kind: 'linux', disks: [{}, { sizeMiB: 16 }] }), lab.addGuest('node01', { name: 'Mute01', disks: [{}, { sizeMiB: 8 }] })]);
      drive = await lab.addDrive('node01', { sizeMiB: 160 });
      await guest.beats(2);
    });

    it('shuts it down by its power button, images it to the cache drive, and boots it again long before the images are on the target', async () => {
      await admin.configure({ jobs: { lx: cold(['Lx01'], { shutdown_timeout: '40s', on_shutdown_timeout: 'fail' }) } });
      const lifecycle = await Lifecycle.watch(node);
      await lab.slow('dr01', '24mbit');
      const { server, report } = await admin.runsWell('lx');
      await lab.restore('dr01');
      await lifecycle.end();
      assert.deepEqual(lifecycle.events.filter(({ what }) => what === 'Stopped').map(({ why }) => why), ['Shutdown'], 'it was not shut down by ACPI');
      const [down, up] = [lifecycle.at('Lx01', 'Stopped'), lifecycle.at('Lx01', 'Started')];
      assert.ok(server().images.every(({ cached }) => cached));
      const written = await writtenAt(target, '/srv/dr/Lx01_Lx01_0_1.raw');
      assert.ok(up < written - 2_000, `it was started ${String(written - up)} ms before its images were on the target`);
      assert.ok(Date.parse(report.finished_at) >= written);
      assert.ok(Math.abs(server().down_ms - (up - down)) < 3_000, `${String(server().down_ms)} ms in the report, ${String(up - down)} ms by libvirt's events`);
      // It was at rest: what it comes up with is exactly what was imaged.
      assert.equal(await guest.last(), await heartbeatIn(target, '/srv/dr/Lx01_Lx01_1_1.raw'));
      assert.match(await guest.console(), /^FILE \d+$/m);
      await node.run('sh', ['-c', 'mkdir -p /mnt/look && mount -o ro "$1" /mnt/look', 'sh', drive]);
      assert.deepEqual(await names(node, '/mnt/look'), ['.dr_cache', 'lost+found']);
      await node.run('umount', ['/mnt/look']);
    });

    it('without a cache drive boots it when its images have arrived; another server that ignores the request fails alone', async () => {
      await guest.beats(1);
      await mute.beats(1);
      await admin.configure({
        jobs: { lx: cold(['Mute01', 'Lx01'], { shutdown_timeout: '12s', on_shutdown_timeout: 'fail', late_shutdown_watch: '5s' }) },
        more: { cache: { signature: '.no_such_drive' } },
      });
      const lifecycle = await Lifecycle.watch(node);
      const { status, report, server, all } = await admin.run('lx');
      await lifecycle.end();
      assert.deepEqual([status, report.outcome], [3, 'partial'], all);
      assert.deepEqual([server('Lx01').outcome, server('Mute01').outcome, server('Mute01').error?.code], ['ok', 'failed', 'shutdown-timeout'], all);
      assert.deepEqual(server('Mute01').images, []);
      assert.ok(server('Lx01').images.every(({ cached }) => !cached));
      assert.equal(lifecycle.flips, '-Lx01 +Lx01');
      assert.ok(lifecycle.at('Lx01', 'Started') >= await writtenAt(target, '/srv/dr/Lx01_Lx01_0_1.raw'), 'it was started before its images had arrived');
      assert.equal(await guest.last(), await heartbeatIn(target, '/srv/dr/Lx01_Lx01_1_1.raw'));
      assert.equal(await mute.state(), 'running');
      assert.deepEqual((await names(target, '/srv/dr')).filter((name) => name.startsWith('Mute01')), []);
      await Promise.all([guest.destroy(), mute.destroy()]);
    });
  });

  describe('to several targets', () => {
    let other: LabHost;
    let guest: Guest;

    before(async () => {
      other = lab.host('dr02');
      guest = await lab.addGuest('node01', { name: 'Two01', start: false, disks: [{}] });
      await admin.configure({
        targets: { dr01: { host: 'dr01', store: 'fs:/srv/dr' }, dr02: { host: 'dr02', store: 'fs:/srv/dr' } },
        jobs: { two: job(['Two01'], { targets: ['dr02', 'dr01'] }) },
      });
    });

    const slots = async (host: LabHost): Promise<string[]> => [...(await files(host, 'Two01')).keys()].map((name) => name.replace('Two01_Two01_0_', '')).sort();

    it('serves them all', async () => {
      const { server } = await admin.runsWell('two');
      assert.deepEqual(server().images.map(({ target: name }) => name).sort(), ['dr01', 'dr02']);
      const [here, there] = [(await files(target, 'Two01')).get('Two01_Two01_0_1'), (await files(other, 'Two01')).get('Two01_Two01_0_1')];
      assert.equal(here?.sum, there?.sum);
      assert.ok(here !== undefined);
    });

    it('serves the others when one fails in the middle', async () => {
      await fill(guest, 0, 'write -P 7 4M 2M');
      await watchSteps(other);
      await stopAt(other, 'receive-before-proof');
      const run = await admin.start('two');
      const { pid } = await reached(other, 60_000);
      assert.ok((await processesOf(other, 'data')).some(({ inner }) => inner === pid));
      await other.kill(pid);
      const { status, report, server, all } = await ended(run);
      assert.deepEqual([status, report.outcome, server().outcome], [3, 'partial', 'partial'], all);
      assert.deepEqual(server().images.map(({ target: name }) => name), ['dr01']);
      assert.deepEqual(await slots(target), ['1', '2']);
      assert.deepEqual(await slots(other), ['2', 'incomplete'], 'the copy of the first run is not where it should be');
    });

    it('serves the others when one is down', async () => {
      await lab.host('dr02').powerCut();
      const { status, report, server, all } = await admin.run('two');
      assert.deepEqual([status, report.outcome, server().outcome], [3, 'partial', 'partial'], all);
      assert.match(server().error?.message ?? '', /dr02/);
      assert.deepEqual(await slots(target), ['1', '2', '3']);
      await lab.host('dr02').boot();
      const { server: again } = await admin.runsWell('two');
      assert.equal(again().images.length, 2);
      assert.deepEqual(await slots(other), ['1', '2']);
    });
  });
});
