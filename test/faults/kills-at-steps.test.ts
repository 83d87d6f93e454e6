import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { STEPS as ALL_STEPS, type StepName } from '../../src/model/steps.js';
import { Lab } from '../lab/lab.js';
import type { LabHost, Started } from '../lab/host.js';
import { roleOf } from '../lab/roles.js';
import { standing, stopAt, stopNowhere } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { Ground, SERVER, type JobForm } from './ground.js';
import { assertPromises, firstRuns, LIVE, printTable, recovers, runUndisturbed, type Row } from './kill-support.js';
import { addStrangers, lookAtStore, remember, sumOfStrangers, type Remembered, type StoreSeen } from './promises.js';

/** Those of captures by LVM snapshots, and of snapshots that are kept, are come to where there is device-mapper: test/lvm. */
const STEPS = ALL_STEPS.filter((step) => !/^(suspend|snapshot|base)-/.test(step));

/**
 * SIGKILL for whoever comes to a named step, once at each. After it the promises are looked at from the outside, and a run must succeed, that one (it tries
 * again by itself) or an undisturbed one: at once where the state of a target's store matters, else after several deaths in a row.
 */

/** Steps that a plain run does not come to, and what makes it. */
interface Preparation {
  readonly form?: JobForm;
  readonly before?: (ground: Ground) => Promise<void>;
}

const MORE: JobForm = { capture: 'live', copies: 4 };
const FEWER: JobForm = { capture: 'live', copies: 2 };
const COLD: JobForm = { capture: 'shutdown', copies: 3 };

/** Grows the guest's second disk by 4 MiB, as an admin does. */
async function growDisk(ground: Ground): Promise<void> {
  const { stdout } = await ground.node.run('virsh', ['domblkinfo', SERVER, 'vdb']);
  const bytes = Number(/^Capacity:\s+(\d+)/m.exec(stdout)?.[1]) + 4 * 2 ** 20;
  await ground.node.run('virsh', ['blockresize', SERVER, 'vdb', `${String(bytes)}B`]);
}

async function removeDefinition(ground: Ground): Promise<void> {
  await ground.target.run('rm', ['-f', `/shared/definitions/${SERVER}.xml`]);
}

const PREPARED: Partial<Record<StepName, Preparation>> = {
  'shutdown-before-request': { form: COLD }, 'shutdown-after-off': { form: COLD }, 'start-before': { form: COLD }, 'start-after': { form: COLD },
  'allocate-before': { form: MORE }, 'allocate-after': { form: MORE },
  'prune-before': { form: FEWER }, 'prune-after': { form: FEWER },
  'resize-after': { before: growDisk },
  'definition-before-publish': { before: removeDefinition }, 'definition-after-publish': { before: removeDefinition },
};

/** Steps of a rotation: each is come to from what an undisturbed run has left. */
const FRESH = /^(intent|bind|name|allocate|resize|current|definition|prune)-/;
const IN_A_ROW = 3;

/** The steps after whose deaths an undisturbed run follows. */
const followed: ReadonlySet<StepName> = new Set(STEPS.filter((step, index) => {
  const next = STEPS[index + 1];
  return alone(step) || next === undefined || alone(next) || index % IN_A_ROW === 0;
}));

function alone(step: StepName): boolean {
  return FRESH.test(step) || PREPARED[step] !== undefined;
}

describe('kills at every named step', function () {
  this.timeout(180_000);
  let ground: Ground;
  let strangers: string;
  /** What the store looked like when nothing of ours ran last. */
  let seen: StoreSeen;
  const remembered: Remembered = new Map();
  const table: Row[] = [];

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    ground = await Ground.up('kill-steps', 'linux', { small: false });
    await firstRuns(ground, remembered);
    strangers = await addStrangers(ground);
    seen = await lookAtStore(ground);
  });
  after(async () => {
    printTable(table);
    await Lab.down('kill-steps');
  });

  for (const step of STEPS) {
    it(`survives a kill at ${step}`, async () => {
      const { form = LIVE, before: prepare } = PREPARED[step] ?? {};
      seen = await tidyBefore(ground, step, remembered, seen);
      if (prepare !== undefined) await prepare(ground);
      for (const host of ground.hosts) await stopAt(host, step);
      const run = await ground.start(form);
      const at = await firstStanding(ground, run);
      assert.ok(at !== undefined, `no process came to ${step}: ${run.stdout()}${run.stderr()}`);
      const victim = (await at.host.processes()).find(({ inner }) => inner === at.pid);
      await at.host.kill(at.pid);
      for (const host of ground.hosts) await stopNowhere(host);
      const ended = await run.exit;
      table.push({ step, victim: victim === undefined ? 'gone' : roleOf(victim.argv), host: at.host.name, ended: String(ended) });
      const before = seen;
      seen = await assertPromises(ground, remembered, prepare === removeDefinition ? undefined : strangers);
      if (followed.has(step)) seen = await recovers(ground, form, remembered, ended, before, seen);
      strangers = await sumOfStrangers(ground);
    });
  }

  it('has come to every step', () => {
    assert.deepEqual(STEPS.filter((step) => !table.some((row) => row.step === step && row.victim !== 'gone')), []);
  });
});

/** Has the guest up, and the number of copies at what the step's job starts from. */
async function tidyBefore(ground: Ground, step: StepName, remembered: Remembered, seen: StoreSeen): Promise<StoreSeen> {
  await ground.guest.beats(1, 90_000); // a guest that still boots does not hear the power button
  const { form = LIVE } = PREPARED[step] ?? {};
  if (form !== MORE && form !== FEWER) return seen;
  const there = (await remember(ground, remembered, seen)).length;
  return (form === MORE ? there > LIVE.copies : there < LIVE.copies) ? await runUndisturbed(ground, LIVE, remembered, seen) : seen;
}

/** Who stands at a step first, on whichever host; undefined if the run ends before. */
async function firstStanding(ground: Ground, run: Started): Promise<{ readonly host: LabHost; readonly pid: number } | undefined> {
  let deadline = Date.now() + 90_000;
  // The guard goes on after the run: what it does counts for a while.
  void run.exit.then(() => { deadline = Math.min(deadline, Date.now() + 5_000); });
  while (Date.now() < deadline) {
    for (const host of ground.hosts) {
      const at = await standing(host);
      if (at !== undefined) return { host, pid: at.pid };
    }
    await sleep(100);
  }
  return undefined;
}
