import assert from 'node:assert/strict';
import type { StepName } from '../../src/model/steps.js';
import { Lab } from '../lab/lab.js';
import { killRole, roleOf } from '../lab/roles.js';
import { reached, stopAt, stopNowhere } from '../lab/steps.js';
import { skipBecause, SOAK } from '../support/skip.js';
import { Ground, type JobForm } from './ground.js';
import { assertNewSet, assertPromises, firstRuns, LIVE, printTable, type Row } from './kill-support.js';
import { addStrangers, remember, sumOfStrangers, type Remembered, type StoreSeen } from './promises.js';

/**
 * SIGKILL for whoever comes to the target's steps, where the store is logical volumes of a virtual machine. Several kills in a row: in all but the last the head dies
 * as well, so that the next run finds what a dead one left; in that it lives, and its run, which is not yet beyond sending, has to end as if nothing had happened.
 */

interface Kill {
  readonly step: StepName;
  /** Which time that a process comes to the step. */
  readonly nth?: number;
}

interface Chain {
  readonly form: JobForm;
  readonly kills: readonly Kill[];
}

/** A job that keeps four needs a new volume; the next one, that keeps three, prunes. */
const CHAINS: readonly Chain[] = [
  { form: { capture: 'live', copies: 4 }, kills: [
    { step: 'allocate-before' }, { step: 'allocate-after' }, { step: 'manifest-before' }, { step: 'receive-before-proof' }, { step: 'receive-before-first-write' },
  ] },
  { form: LIVE, kills: [
    { step: 'prune-before' }, { step: 'prune-after' }, { step: 'name-before-give' }, { step: 'intent-after' }, { step: 'current-before-switch' }, { step: 'name-after-give', nth: 2 },
  ] },
  { form: LIVE, kills: [
    { step: 'manifest-after' }, { step: 'bind-before' }, { step: 'current-after-switch' }, { step: 'bind-after', nth: 2 },
  ] },
];
const SOAK_ROUNDS = 12;
/** How long a run may take to come to a step, in milliseconds: most of its time goes into starting programs under emulation. */
const COMES_MS = 300_000;

describe('kills with a store of logical volumes', function () {
  this.timeout(1_200_000);
  let ground: Ground;
  let strangers: string;
  const remembered: Remembered = new Map();
  const table: Row[] = [];

  before(async function () {
    const reason = await Lab.impossible() ?? await Lab.impossibleVirtual();
    if (reason !== undefined) skipBecause(this, reason);
    ground = await Ground.upWithVolumes('kill-volumes');
    await firstRuns(ground, remembered);
    strangers = await addStrangers(ground);
  });
  after(async () => {
    printTable(table);
    await Lab.down('kill-volumes');
  });

  const rounds = SOAK ? SOAK_ROUNDS : 1;
  for (let round = 0; round < rounds; round++) {
    for (const { form, kills } of CHAINS) {
      it(`survives kills at ${kills.map(({ step, nth }) => nth === undefined ? step : `${step} (${String(nth)})`).join(', ')}`, async () => {
        let seen: StoreSeen | undefined;
        for (const [index, kill] of kills.entries()) {
          const before = await remember(ground, remembered, seen);
          const last = index === kills.length - 1;
          const { status, said } = await killAt(kill, form, !last);
          seen = await assertPromises(ground, remembered, strangers, { byHand: last });
          if (!last) continue;
          assert.equal(status, 0, `the run in which nobody else died failed: ${said}`);
          await assertNewSet(ground, form, remembered, before, seen);
        }
        strangers = await sumOfStrangers(ground);
      });
    }
  }

  it('has killed somebody each time', () => {
    assert.deepEqual(table.filter(({ victim }) => victim === 'gone'), []);
    assert.equal(table.length, CHAINS.flatMap(({ kills }) => kills).length * rounds);
  });

  /** Kills who comes to the step, and the head too if the run is not to go on. */
  async function killAt({ step, nth = 1 }: Kill, form: JobForm, withHead: boolean): Promise<{ readonly status: number; readonly said: string }> {
    const { target, head } = ground;
    await stopAt(target, step, nth);
    const run = await ground.start(form);
    const { pid } = await reached(target, COMES_MS);
    const victim = (await target.processes()).find(({ inner }) => inner === pid);
    if (withHead) await killRole(head, 'head');
    await target.kill(pid);
    await stopNowhere(target);
    const status = await run.exit;
    table.push({ step, victim: victim === undefined ? 'gone' : roleOf(victim.argv), host: target.name, ended: String(status) });
    return { status, said: run.stdout() + run.stderr() };
  }
});
