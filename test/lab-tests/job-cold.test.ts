import assert from 'node:assert/strict';
import type { Guest } from '../lab/guest.js';
import { heartbeatIn } from '../lab/guest.js';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { pause } from '../lab/namespaces.js';
import { killRole, processesOf } from '../lab/roles.js';
import { reached, stopAt, watchSteps } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { Admin, cold, ended, job } from './admin.js';
import { files, fill, Lifecycle, names, writtenAt } from './outside.js';

/** Cold jobs of whole servers: who was running runs again, as early as can be; and several targets, of which one fails. */

const LAB = 'job-cold';

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
      let over = false;
      void run.exit.then(() => { over = true; });
      for (; !over; await pause(100)) await killRole(other, 'data'); // each that is tried
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
