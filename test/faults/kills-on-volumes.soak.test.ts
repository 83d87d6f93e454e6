import assert from 'node:assert/strict';
import type { StepName } from '../../src/model/steps.js';
import { Lab } from '../lab/lab.js';
import { roleOf } from '../lab/roles.js';
import { reached, stopAt, stopNowhere } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { Ground, type JobForm } from './ground.js';
import { assertPromises, firstRuns, LIVE, printTable, runUndisturbed, type Row } from './kill-support.js';
import { addStrangers, sumOfStrangers, type Remembered, type StoreSeen } from './promises.js';

/**
 * SIGKILL for whoever comes to the target's steps, where the store is logical volumes of a virtual machine. Two kills in a row, then an undisturbed run: what a
 * killed run left is found by another one that dies as well.
 */

interface Kill {
  readonly step: StepName;
  readonly form?: JobForm;
  /** Which time that a process comes to the step. */
  readonly nth?: number;
}

const MORE: JobForm = { capture: 'live', copies: 4 };

/** A job that keeps four needs a new volume; the next one, that keeps three, prunes. */
const KILLS: readonly Kill[] = [
  { step: 'allocate-before', form: MORE }, { step: 'allocate-after', form: MORE }, { step: 'prune-before' }, { step: 'prune-after' },
  { step: 'intent-before' }, { step: 'intent-after' }, { step: 'bind-before' }, { step: 'bind-after' }, { step: 'bind-after', nth: 2 }, { step: 'name-before-give' },
  { step: 'name-after-give' }, { step: 'name-after-give', nth: 2 }, { step: 'current-before-switch' }, { step: 'current-after-switch' }, { step: 'receive-before-first-write' },
  { step: 'receive-after-block', nth: 3 }, { step: 'receive-before-proof' }, { step: 'receive-after-proof' }, { step: 'manifest-before' }, { step: 'manifest-after' },
];
const SOAK_ROUNDS = 10;

describe('kills with a store of logical volumes', function () {
  this.timeout(900_000);
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

  const rounds = process.env['DR_SOAK'] === undefined ? 1 : SOAK_ROUNDS;
  for (let round = 0; round < rounds; round++) {
    for (let first = 0; first < KILLS.length; first += 2) {
      const chain = KILLS.slice(first, first + 2);
      it(`survives kills at ${chain.map(({ step, nth }) => nth === undefined ? step : `${step} (${String(nth)})`).join(' and ')}`, async () => {
        let seen: StoreSeen | undefined;
        for (const kill of chain) {
          await killAt(kill);
          seen = await assertPromises(ground, remembered, strangers);
        }
        await runUndisturbed(ground, chain.at(-1)?.form ?? LIVE, remembered, seen);
        strangers = await sumOfStrangers(ground);
      });
    }
  }

  it('has killed somebody each time', () => {
    assert.deepEqual(table.filter(({ victim }) => victim === 'gone'), []);
    assert.equal(table.length, KILLS.length * rounds);
  });

  async function killAt({ step, form = LIVE, nth = 1 }: Kill): Promise<void> {
    const { target } = ground;
    await stopAt(target, step, nth);
    const run = await ground.start(form);
    const { pid } = await reached(target, 120_000);
    const victim = (await target.processes()).find(({ inner }) => inner === pid);
    await target.kill(pid);
    await stopNowhere(target);
    const ended = await run.exit;
    table.push({ step, victim: victim === undefined ? 'gone' : roleOf(victim.argv), host: target.name, ended: String(ended) });
  }
});
