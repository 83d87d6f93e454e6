import assert from 'node:assert/strict';
import { Lab } from '../lab/lab.js';
import { until } from '../lab/namespaces.js';
import { killRole, processesOf } from '../lab/roles.js';
import { reached, stopAt } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { assertCurrent, assertImages, assertNoTwin, assertProduction, remember, type Remembered } from './promises.js';
import { COLD, ended, LIVE, Stage } from './stage.js';

/** Hosts that lose their power in the middle. */

const LAB = 'nasty-power';

describe('power cuts', function () {
  this.timeout(240_000);
  let stage: Stage;
  let remembered: Remembered;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    stage = await Stage.up(LAB, { driveMiB: 256 });
    await stage.dirty(24);
    remembered = await stage.firstRuns(2);
  });
  after(async () => { await Lab.down(LAB); });
  beforeEach(async () => { await stage.forget(); });
  afterEach(async function () { if (this.currentTest?.state === 'failed') await stage.settle(); });

  it('of the node during a cold run: at boot the server is started, and nothing of ours is left', async () => {
    await stage.dirty(24);
    await stopAt(stage.node, 'send-after-block', 3); // on its way to the cache drive
    const run = await stage.start(COLD);
    await reached(stage.node, 90_000);
    assert.equal(await stage.guest.state(), 'shut off');
    await stage.node.powerCut();
    const { status, server, said } = await ended(run);
    assert.equal(status, 1, said);
    assert.equal(server.error?.code, 'connection-lost', said);
    await stage.node.boot();
    assert.equal(await stage.guest.state(), 'shut off', 'the lab starts no servers at boot, so there is nothing to prove');
    await bootUnit();
    assert.equal(await stage.guest.state(), 'running');
    await nothingOwed();
    await stage.guest.beats(1);
    await stage.assertPromises(remembered, 2);
    await stage.runsWell(COLD, remembered);
  });

  it('of the node during a live run: at boot nothing of ours is left', async () => {
    await stage.dirty(24);
    await stopAt(stage.node, 'send-after-block', 3);
    const run = await stage.start(LIVE);
    await reached(stage.node, 90_000);
    await stage.node.powerCut();
    assert.equal((await ended(run)).status, 1);
    await stage.node.boot();
    await bootUnit();
    await nothingOwed();
    assert.equal(await stage.guest.state(), 'shut off', 'it was not we who shut it down');
    await stage.guest.start(); // as its autostart or its cluster would
    await stage.guest.beats(1);
    await stage.assertPromises(remembered, 2);
    await stage.runsWell(LIVE, remembered);
  });

  it('of the node, and its boot while the other node is off: the start stays owed until it can be asked', async () => {
    await stopAt(stage.node, 'shutdown-after-off');
    const run = await stage.start(COLD);
    await reached(stage.node, 90_000);
    await stage.node.powerCut();
    assert.equal((await ended(run)).status, 1);
    await stage.spare.powerCut();
    await stage.node.boot();
    const { exitCode, stderr } = await stage.node.run('dr', ['agent', '--pay'], { okExit: [0, 1], timeoutMs: 90_000 });
    assert.equal(exitCode, 1);
    assert.match(stderr, /still owed: start Db01: .*node02/);
    assert.equal(await stage.guest.state(), 'shut off');
    await stage.spare.boot();
    await until('the guard to start the server', async () => await stage.guest.state() === 'running' ? true : undefined, 60_000);
    await stage.guest.beats(1);
    await stage.assertPromises(remembered, 2);
  });

  for (const step of ['name-after-give', 'receive-after-block'] as const) {
    it(`of the target at ${step}: the server is not harmed, and the next run ends as if nothing had happened`, async () => {
      const before = (await remember(stage, remembered)).length;
      await stage.dirty(24);
      await stopAt(stage.target, step, step === 'receive-after-block' ? 3 : 1);
      const run = await stage.start(LIVE);
      await reached(stage.target, 90_000);
      await stage.target.powerCut();
      await killRole(stage.head, 'head'); // it would go on as soon as the target is back
      await run.exit;
      await assertProduction(stage);
      await stage.target.boot();
      await assertImages(stage, remembered, Math.min(before, 2));
      await assertCurrent(stage, { byHand: true }); // before anything of ours has run there
      await assertNoTwin(stage);
      assert.deepEqual(await processesOf(stage.node, 'data'), []);
      await stage.runsWell(LIVE, remembered);
    });
  }

  /** What systemd/dr-engine-pay.service does. */
  async function bootUnit(): Promise<void> {
    await stage.node.run('dr', ['agent', '--pay'], { timeoutMs: 90_000 });
  }

  async function nothingOwed(): Promise<void> {
    const { stdout } = await stage.node.run('sh', ['-c', 'ls /var/lib/dr-engine/owed /var/lib/dr-engine/captures /var/lib/dr-engine/mnt 2>/dev/null | grep -v ":$" | grep .; ls -d /var/lib/libvirt/dr-engine/* 2>/dev/null; true']);
    assert.equal(stdout.trim(), '');
  }
});
