import assert from 'node:assert/strict';
import type { RunReport } from '../../src/model/report.js';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { pause, until } from '../lab/namespaces.js';
import { killRole, processesOf } from '../lab/roles.js';
import { inSoak, skipBecause } from '../support/skip.js';
import { STORE, TARGET } from './ground.js';
import { assertImages, assertProduction, remember, type Remembered } from './promises.js';
import { COLD, ended, LIVE, Stage, type StageJob } from './stage.js';

/** What was interrupted goes on where it was: within the run when what failed comes back, else in the next one. Further ways to be interrupted with `make soak`. */

const LAB = 'resume';
const MIB = 2 ** 20;
/** What each run has to send, and when it is disturbed: about half. */
const CHANGED = 84;
/** Where that begins on the disk. */
const FIRST = 33;
const HALF = 48;
/** What may have been on its way and is sent twice, on a busy machine: 12 MiB in the receiver's memory, the rest in ssh's window, sockets and pipes. */
const IN_FLIGHT = 32;
/** The guest's heartbeat, digests, framing. */
const SMALL = 3;
/** What an image may lack beside what has changed, when it is a new one. */
const OTHER = 9;

const slowly = (form: StageJob): StageJob => ({ ...form, target: { ...form.target, bandwidth_limit: '10MiB/s' } });

describe('what was interrupted', function () {
  this.timeout(240_000);
  let stage: Stage;
  let remembered: Remembered;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    stage = await Stage.up(LAB, { disks: [{}, { sizeMiB: 128 }], store: { sizeMiB: 2048 } });
    remembered = await stage.firstRuns(1);
  });
  after(async () => { await Lab.down(LAB); });
  beforeEach(async () => {
    await stage.forget();
    await stage.dirty(CHANGED, FIRST);
  });
  afterEach(async function () { if (this.currentTest?.state === 'failed') await stage.settle(); });

  describe('goes on within the run', () => {
    it('after a cable that was out for 20 s', async () => {
      const run = await halfway(LIVE);
      await stage.lab.cut(TARGET);
      await pause(20_000);
      await stage.lab.restore(TARGET);
      await succeeds(run);
    });

    it('after the receiver was killed', async () => {
      const run = await halfway(LIVE);
      assert.equal(await killRole(stage.target, 'data'), 1);
      await succeeds(run);
    });

    inSoak('after the sender was killed', async () => {
      const run = await halfway(LIVE);
      assert.equal(await killRole(stage.node, 'data'), 1);
      await succeeds(run);
    });

    inSoak('after the target\'s agent was killed', async () => {
      const run = await halfway(LIVE);
      assert.equal(await killRole(stage.target, 'agent'), 1);
      await succeeds(run);
    });

    inSoak('after the target lost its power and booted', async () => {
      const run = await halfway(LIVE);
      await stage.target.powerCut();
      await pause(5_000);
      await stage.target.boot();
      await succeeds(run);
    });
  });

  describe('goes on in the next run', () => {
    it('after the receiver was killed each time: the run fails, the server is back, and nothing of it is complete', async () => {
      const run = await halfway(COLD);
      const before = await remember(stage, remembered);
      let over = false;
      void run.exit.then(() => { over = true; });
      let kills = 0;
      while (!over) {
        kills += await killRole(stage.target, 'data');
        await pause(100);
      }
      const { status, server, said } = await ended(run);
      assert.equal(status, 1, said);
      assert.equal(server.error?.code, 'connection-lost', said);
      assert.match(server.error.message, /sending Db01 to dr01 was tried 3 times in a row/);
      assert.ok(kills >= 3, `there were only ${String(kills)} receivers`);
      assert.deepEqual(await remember(stage, remembered), before, 'something was called complete');
      await assertProduction(stage);
      await sendsTheRest(COLD);
    });

    it('after the head was killed', async () => {
      const run = await halfway(LIVE);
      await killRole(stage.head, 'head');
      await run.exit;
      await nothingMoves();
      await sendsTheRest(LIVE);
    });

    inSoak('after the cable was out for longer than the run waits', async () => {
      const run = await halfway(COLD);
      await stage.lab.cut(TARGET);
      const { status, server, said } = await ended(run);
      assert.equal(status, 1, said);
      assert.equal(server.error?.code, 'connection-lost', said);
      await assertProduction(stage);
      await stage.lab.restore(TARGET);
      await nothingMoves();
      await sendsTheRest(COLD);
    });

    inSoak('after the target lost its power and the head was killed', async () => {
      const run = await halfway(LIVE);
      await stage.target.powerCut();
      await killRole(stage.head, 'head');
      await run.exit;
      await stage.target.boot();
      await nothingMoves();
      await sendsTheRest(LIVE);
    });
  });

  /** Starts a run and waits until half of what has changed is on the target's disk. */
  async function halfway(form: StageJob): ReturnType<Stage['start']> {
    const run = await stage.start(slowly(form));
    await Promise.race([
      stage.comesTo('receive-after-block', stage.target, HALF),
      run.exit.then(() => { assert.fail(`the run ended before it was disturbed: ${run.stdout()}${run.stderr()}`); }),
    ]);
    return run;
  }

  async function succeeds(run: Awaited<ReturnType<typeof halfway>>): Promise<void> {
    const { status, report, server, said } = await ended(run);
    assert.equal(status, 0, said);
    assert.match(server.notes?.join('\n') ?? '', /sending Db01 to dr01 is tried again in 2 s/, 'it was not disturbed at all');
    const sent = sentIn(report);
    console.log(`      ${sent.toFixed(1)} MiB were sent for ${String(CHANGED)}${(server.notes ?? []).map((note) => `\n        ${note}`).join('')}`);
    assert.ok(sent >= CHANGED && sent <= CHANGED + OTHER + IN_FLIGHT + SMALL, `${sent.toFixed(1)} MiB were sent for ${String(CHANGED)}`);
    await remember(stage, remembered);
    await stage.assertPromises(remembered, Math.min(3, remembered.size));
    await nothingMoves();
  }

  async function sendsTheRest(form: StageJob): Promise<void> {
    await assertImages(stage, remembered, Math.min(2, remembered.size));
    const { arrived, missing } = await compared();
    assert.ok(arrived >= HALF / 4 && arrived < CHANGED, `${String(arrived)} of ${String(CHANGED)} had arrived: the run before was not interrupted in the middle`);
    const { report, server } = await stage.runsWell(form, remembered);
    assert.deepEqual(server.notes ?? [], [], 'the undisturbed run was disturbed');
    const sent = sentIn(report);
    console.log(`      ${String(arrived)} of ${String(CHANGED)} MiB had arrived, ${String(missing)} were missing, ${sent.toFixed(1)} were sent`);
    assert.ok(sent <= missing + SMALL, `${sent.toFixed(1)} MiB were sent though only ${String(missing)} were missing`);
  }

  /**
   * The second disk's image as the interrupted run left it beside the disk itself, in blocks of 1 MiB: how many of the changed ones are there (no older image has
   * them), and how many of all are not.
   */
  async function compared(): Promise<{ readonly arrived: number; readonly missing: number }> {
    const sums = async (host: LabHost, path: string): Promise<string[]> => (await host.run('split', ['--bytes=1M', '--filter=md5sum', path], { timeoutMs: 60_000 })).stdout.trim().split('\n');
    const [disk, image] = await Promise.all([sums(stage.node, stage.guest.disks[1]?.path ?? ''), sums(stage.target, `${STORE}/Db01_Db01_1_incomplete.raw`)]);
    const same = (from: number, to: number): number => disk.slice(from, to).filter((sum, index) => sum === image[from + index]).length;
    return { arrived: same(FIRST, FIRST + CHANGED), missing: disk.length - same(0, disk.length) };
  }

  /** Nobody is left who might still write to an image of a run that is over. */
  async function nothingMoves(): Promise<void> {
    await until('the data processes to end', async () => (await processesOf(stage.target, 'data')).length === 0 && (await processesOf(stage.node, 'data')).length === 0 ? true : undefined);
    await until('the node\'s agent to end', async () => (await processesOf(stage.node, 'agent')).length === 0 ? true : undefined);
  }
});

/** MiB on the wire, all disks and all tries. */
function sentIn(report: Partial<RunReport>): number {
  return (report.servers ?? []).flatMap(({ images }) => images).reduce((sum, { bytes_sent: sent }) => sum + sent, 0) / MIB;
}
