import assert from 'node:assert/strict';
import { Lab } from '../lab/lab.js';
import { until } from '../lab/namespaces.js';
import { killRole, processesOf } from '../lab/roles.js';
import { skipBecause } from '../support/skip.js';
import { NODE, SERVER } from './ground.js';
import { assertImages, assertProduction, type Remembered } from './promises.js';
import { COLD, ended, LIVE, slowly, Stage, timed, type StageJob } from './stage.js';

/** What can go wrong with a capture while the server that is captured must not suffer. */

const LAB = 'nasty-capture';

describe('captures that go wrong', function () {
  this.timeout(240_000);
  let stage: Stage;
  let remembered: Remembered;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    stage = await Stage.up(LAB);
    await stage.dirty(24);
    remembered = await stage.firstRuns(2);
  });
  after(async () => { await Lab.down(LAB); });
  beforeEach(async () => { await stage.forget(); });
  afterEach(async function () { if (this.currentTest?.state === 'failed') await stage.settle(); });

  it('a storage daemon that is stopped while its agent is killed: production is back within 30 s, and the daemon is gone', async () => {
    await stage.dirty(24);
    const run = await stage.start(slowly(LIVE));
    await stage.sending();
    const daemons = await processesOf(stage.node, 'storage-daemon');
    assert.equal(daemons.length, 2, 'one storage daemon for each disk');
    for (const { inner } of daemons) await stage.node.kill(inner, 'SIGSTOP');
    assert.equal(await killRole(stage.node, 'agent'), 1);
    await stage.assertPromises(remembered, 2);
    await stage.guest.beats(1);
    const { status, server, said } = await ended(run);
    assert.equal(status, 1, said);
    assert.equal(server.error?.code, 'connection-lost', said);
    assert.match(server.error.message, /node01 was lost/);
    await stage.runsWell(LIVE, remembered);
  });

  describe('with a small scratch place', () => {
    const scratch = '/mnt/scratch';
    const small: StageJob = slowly({ ...LIVE, job: { scratch, scratch_reserve: '16MiB' } });

    before(async () => {
      const device = await stage.lab.addDrive(NODE, { sizeMiB: 40, signature: null });
      await stage.node.run('sh', ['-c', 'mkdir -p "$2" && mount "$1" "$2"', 'sh', device, scratch]);
    });
    after(async () => { await stage.node.run('umount', [scratch]); });

    it('one that fills up: the capture is given up before the guest has to stop', async () => {
      await stage.dirty(24);
      const run = await stage.start(small);
      await stage.sending();
      for (let at = 33; at < 57 && run.child.exitCode === null; at++) {
        await stage.dirty(1, at);
        assert.equal(await stage.guest.state(), 'running', 'the guest was stopped');
      }
      const { status, server, said } = await ended(run);
      assert.equal(status, 1, said);
      assert.equal(server.error?.code, 'scratch-full', said);
      assert.match(server.error.message, /Db01/);
      await stage.assertPromises(remembered, 2);
      assert.deepEqual(await leftIn(scratch), []);
      await stage.runsWell(LIVE, remembered);
    });

    it('one that is full at once: the guest is not left stopped', async () => {
      await stage.dirty(24);
      const run = await stage.start(small);
      await stage.sending();
      const paused = watchFor('paused');
      await stage.node.run('sh', ['-c', 'cat /dev/zero > "$1/full" 2>/dev/null; true', 'sh', scratch]);
      const { status, server, said } = await ended(run);
      console.log(`        the guest was ${paused() ? '' : 'not '}seen stopped`);
      assert.equal(status, 1, said);
      assert.equal(server.error?.code, 'scratch-full', said);
      await stage.assertPromises(remembered, 2);
      await stage.guest.beats(2);
      await stage.node.run('rm', [`${scratch}/full`]);
      assert.deepEqual(await leftIn(scratch), []);
      await stage.runsWell(small, remembered);
    });

    async function leftIn(directory: string): Promise<string[]> {
      return (await stage.node.run('ls', [directory])).stdout.split('\n').filter((name) => name !== '' && name !== 'lost+found');
    }
  });

  it('a server that ignores its shutdown: the run fails, and when it goes down later it is started again', async () => {
    const { status, server, said } = await stage.run({ ...COLD, job: { shutdown_timeout: '2s', late_shutdown_watch: '60s' } });
    assert.equal(status, 1, said);
    assert.equal(server.error?.code, 'shutdown-timeout', said);
    assert.equal(await stage.guest.state(), 'running');
    await stage.guest.destroy();
    await stage.assertPromises(remembered, 2);
    await stage.guest.beats(1);
    await stage.runsWell(COLD, remembered);
  });

  it('a transient domain is captured live and cold, and created again after its shutdown', async () => {
    const guest = await stage.lab.addGuest(NODE, { name: 'Tr01', persistent: false });
    await guest.beats(2);
    const only = { servers: ['Tr01'], copies: 2 };
    for (const form of [{ ...LIVE, ...only }, { ...COLD, ...only }]) {
      const { status, server, said } = await stage.run(form);
      assert.equal(status, 0, said);
      assert.equal(server.images?.length, 2, said);
    }
    assert.equal(await guest.state(), 'running');
    assert.match((await stage.node.run('virsh', ['dominfo', 'Tr01'])).stdout, /Persistent:\s+no/);
    assert.ok(await guest.last() > 0, 'it came up with other disks');
    await guest.beats(1);

    // Its definition is nowhere but in what is owed.
    const run = await stage.start(slowly({ ...COLD, ...only }));
    await stage.comesTo('shutdown-after-off');
    assert.equal(await guest.state(), 'absent');
    await killRole(stage.node, 'agent');
    await until('the transient domain to be created again', async () => await guest.state() === 'running' ? true : undefined, 30_000);
    assert.equal((await ended(run)).status, 1);
    await guest.destroy();
    await assertProduction(stage);
  });

  for (const [name, form] of [['live', LIVE], ['cold', COLD]] as const) {
    it(`Ctrl-C in the middle of a ${name} run: exit 130, everything is put back`, async () => {
      await stage.dirty(24);
      const run = await stage.start(slowly(form));
      await stage.sending();
      await run.kill('SIGINT');
      const { status, report, said } = await ended(run);
      assert.equal(status, 130, said);
      assert.equal(report.outcome, 'cancelled', said);
      await stage.assertPromises(remembered, 2, 5_000);
      await stage.runsWell(form, remembered);
    });

    it(`dr cancel --server frees a server of a ${name} run within 5 s`, async () => {
      await stage.dirty(24);
      const run = await stage.start(slowly(form));
      await stage.sending();
      const file = await stage.configure(slowly(form));
      const took = await timed(async () => {
        const { stdout } = await stage.head.run('dr', ['cancel', 'db', '--server', SERVER, '--config', file]);
        assert.match(stdout, /is free/);
        if (form === LIVE) assert.match((await stage.node.run('virsh', ['domjobinfo', SERVER])).stdout, /Job type:\s+None/, 'it was said to be free and has a job');
        assert.equal(await stage.guest.state(), 'running', 'it was said to be free and is not running');
      });
      console.log(`      freed in ${(took / 1000).toFixed(1)} s`);
      assert.ok(took < 5_000 * patience, `it took ${String(took)} ms`);
      const { status, server, said } = await ended(run);
      assert.equal(status, 130, said);
      assert.equal(server.outcome, 'cancelled', said);
      await stage.assertPromises(remembered, 2, 5_000);
      await assertImages(stage, remembered, 2);
    });
  }

  /** Watches whether the guest is ever seen in a state; asked, it stops watching and answers. */
  function watchFor(state: string): () => boolean {
    let seen = false;
    const timer = setInterval(() => { void stage.guest.state().then((now) => { seen ||= now === state; }); }, 100).unref();
    return () => { clearInterval(timer); return seen; };
  }
});

/** Five seconds are promised on a machine of one's own; here two suites share two processors. */
const patience = Number(process.env['DR_PATIENCE'] ?? '2');
