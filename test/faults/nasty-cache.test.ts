import assert from 'node:assert/strict';
import { Lab } from '../lab/lab.js';
import { until } from '../lab/namespaces.js';
import { go, reached, stopAt } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { NODE, SERVER } from './ground.js';
import { remember, type Remembered } from './promises.js';
import { COLD, ended, LIVE, Stage, type Ran } from './stage.js';

/** A cache drive that fails in the middle of a run costs the run its cache, not its servers. */

const LAB = 'nasty-cache';

describe('runs with cache drives', function () {
  this.timeout(240_000);
  let stage: Stage;
  let remembered: Remembered;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    stage = await Stage.up(LAB, { driveMiB: 160 });
    remembered = await stage.firstRuns(2);
  });
  after(async () => { await Lab.down(LAB); });
  beforeEach(async () => { await stage.forget(); });
  afterEach(async function () { if (this.currentTest?.state === 'failed') await stage.settle(); });

  it('the first runs went through it, and left nothing on it', async () => {
    const { server, said } = await stage.runsWell(LIVE, remembered);
    assert.ok(server.images?.every(({ cached }) => cached), said);
    const { stdout } = await stage.node.run('sh', ['-ec', 'mkdir -p /tmp/look; mount -o ro,noload "$1" /tmp/look; ls -A /tmp/look; umount /tmp/look', 'sh', stage.drive]);
    assert.deepEqual(stdout.split('\n').filter((name) => name !== ''), ['.dr_cache', 'lost+found']);
  });

  it('a server that waits, shut down, for another of its batch is back at once when it is cancelled', async () => {
    const other = await stage.lab.addGuest(NODE, { name: 'Web01', disks: [{}, { sizeMiB: 8 }] });
    await other.beats(1);
    const both = { ...COLD, servers: [SERVER, 'Web01'] };
    await stopAt(stage.node, 'send-after-block', 3);
    const run = await stage.start(both);
    await reached(stage.node, 90_000);
    assert.deepEqual([await stage.guest.state(), await other.state()], ['shut off', 'shut off']);
    await stage.head.run('dr', ['cancel', 'db', '--server', 'Web01', '--config', await stage.configure(both)]);
    assert.equal(await other.state(), 'running');
    assert.equal(await stage.guest.state(), 'shut off', 'the first one was done already, so nothing was shown');
    await go(stage.node);
    const { status, report, said } = await ended(run);
    assert.equal(status, 3, said);
    assert.deepEqual(report.servers?.map(({ name, outcome }) => `${name} ${outcome}`), [`${SERVER} ok`, 'Web01 cancelled'], said);
    await other.destroy();
    await remember(stage, remembered);
    await stage.assertPromises(remembered, 3);
  });

  it('a cache drive that fills up: the run goes on without it', async () => {
    const run = await stoppedWhileCaching();
    const { root } = await ourDrive();
    await stage.node.run('sh', ['-c', 'for i in $(seq 50); do cat /dev/zero >> "$1/full" 2> /dev/null; sync -f "$1"; [ "$(stat -f -c %a "$1")" != 0 ] || break; done', 'sh', root]);
    await go(stage.node);
    await goesOnWithout(await run());
    await stage.node.run('sh', ['-ec', 'mkdir -p /tmp/look; mount "$1" /tmp/look; rm /tmp/look/full; umount /tmp/look', 'sh', stage.drive]);
  });

  it('a cache drive that turns read-only: the run goes on without it', async () => {
    const run = await stoppedWhileCaching();
    await stage.lab.breakDrive(NODE, (await ourDrive()).device, 'readonly');
    await go(stage.node);
    await goesOnWithout(await run());
  });

  it('a cache drive that vanishes: the run goes on without it', async () => {
    await stage.lab.addDrive(NODE, { sizeMiB: 192 }); // larger, so it is the one that is used
    const run = await stoppedWhileCaching();
    await stage.lab.breakDrive(NODE, (await ourDrive()).device, 'detach');
    await go(stage.node);
    await goesOnWithout(await run());
  });

  for (const [name, form] of [['live', LIVE], ['cold', COLD]] as const) {
    it(`a cache drive that vanishes when everything is on it: a ${name} server is captured again`, async () => {
      await stage.lab.addDrive(NODE, { sizeMiB: 224 });
      await stage.dirty(8);
      await stopAt(stage.head, 'deliver-before');
      const run = await stage.start(form);
      await reached(stage.head, 90_000);
      await stage.lab.breakDrive(NODE, (await ourDrive()).device, 'detach');
      await stage.node.run('sh', ['-c', 'echo 3 > /proc/sys/vm/drop_caches'], { okExit: [0, 1, 2] });
      await go(stage.head);
      const ran = await ended(run);
      await goesOnWithout(ran);
      assert.match(ran.server.notes?.join('\n') ?? '', /captured again/);
    });
  }

  /** Starts a run whose data process stands still in the middle of caching; gives what waits for its end. */
  async function stoppedWhileCaching(): Promise<() => Promise<Ran>> {
    await stage.dirty(8);
    await stopAt(stage.node, 'send-after-block', 3);
    const run = await stage.start(LIVE);
    await reached(stage.node, 90_000);
    return () => ended(run);
  }

  /** The cache drive that a run has mounted, and where. */
  async function ourDrive(): Promise<{ device: string; root: string }> {
    return until('a cache drive to be mounted', async () => {
      const { stdout } = await stage.node.run('findmnt', ['-rn', '-o', 'SOURCE,TARGET'], { okExit: [0, 1] });
      const [, device, root] = /^(\S+) (\/var\/lib\/dr-engine\/mnt\/\S+)$/m.exec(stdout) ?? [];
      return device === undefined || root === undefined ? undefined : { device, root };
    });
  }

  async function goesOnWithout({ status, server, said }: Ran): Promise<void> {
    assert.equal(status, 0, said);
    assert.ok(server.images?.length === 2 && server.images.some(({ cached }) => !cached), said);
    assert.match(server.notes?.join('\n') ?? '', /Db01 (goes|is captured again,) straight to/);
    const sets = await remember(stage, remembered);
    assert.equal(sets.length, 3);
    await stage.assertPromises(remembered, 3);
    await stage.guest.beats(1);
  }
});

