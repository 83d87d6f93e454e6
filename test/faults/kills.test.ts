import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { STEPS, type StepName } from '../../src/model/steps.js';
import { Lab } from '../lab/lab.js';
import type { Started } from '../lab/host.js';
import { processesOf, roleOf, type ProcessRole } from '../lab/roles.js';
import { standing, stopAt, stopNowhere } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { Ground, SERVER, type JobForm } from './ground.js';
import { addStrangers, assertCurrent, assertImages, assertNoTwin, assertProduction, remember, sumOfStrangers, tuneDefinition, type Remembered } from './promises.js';

/**
 * SIGKILL for the head, an agent, a data process, ssh and the storage daemon: at every named step, and at random moments. After each the
 * promises are looked at from the outside, and an undisturbed run must succeed.
 */

const LIVE: JobForm = { capture: 'live', copies: 3 };

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

interface Row { readonly step: string; readonly victim: string; readonly host: string; readonly ended: string }

describe('kills at every named step', function () {
  this.timeout(180_000);
  let ground: Ground;
  let strangers: string;
  const remembered: Remembered = new Map();
  const table: Row[] = [];

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    ground = await Ground.up('kill-steps', 'linux');
    await firstRuns(ground, remembered);
    strangers = await addStrangers(ground);
  });
  after(async () => {
    printTable(table);
    await Lab.down('kill-steps');
  });

  for (const step of STEPS) {
    it(`survives a kill at ${step}`, async () => {
      const { form = LIVE, before: prepare } = PREPARED[step] ?? {};
      await tidyBefore(ground, step, remembered);
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
      await assertPromises(ground, remembered, prepare === removeDefinition ? undefined : strangers);
      await runUndisturbed(ground, form, remembered);
      strangers = await sumOfStrangers(ground);
    });
  }

  it('has come to every step', () => {
    assert.deepEqual(STEPS.filter((step) => !table.some((row) => row.step === step && row.victim !== 'gone')), []);
  });
});

const VICTIMS: readonly ProcessRole[] = ['head', 'agent', 'data', 'ssh', 'storage-daemon'];

describe('kills at random moments', function () {
  this.timeout(180_000);
  const moments = process.env['DR_SOAK'] === undefined ? 40 : 500;
  const seed = Number(process.env['DR_SEED'] ?? '20261120');
  const random = generator(seed);
  let ground: Ground;
  let strangers: string;
  const remembered: Remembered = new Map();
  const table: Row[] = [];

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    console.log(`      seed ${String(seed)} (DR_SEED repeats it)`);
    ground = await Ground.up('kill-random', 'linux');
    await firstRuns(ground, remembered);
    strangers = await addStrangers(ground);
  });
  after(async () => {
    printTable(table);
    await Lab.down('kill-random');
  });

  for (let moment = 1; moment <= moments; moment++) {
    const role = VICTIMS[moment % VICTIMS.length] ?? 'agent';
    const wait = Math.round(random() * 4_000);
    const pick = random();
    it(`survives a kill of ${role}, ${String(wait)} ms after one is there`, async () => {
      const run = await ground.start(LIVE);
      const hit = await killAfter(ground, run, role, wait, pick);
      const ended = await run.exit;
      table.push({ step: `${String(wait)} ms`, victim: role, host: hit ?? 'run was over', ended: String(ended) });
      await assertPromises(ground, remembered, strangers);
      await runUndisturbed(ground, LIVE, remembered);
    });
  }

  it('has hit every role', () => {
    assert.deepEqual(VICTIMS.filter((role) => !table.some((row) => row.victim === role && row.host !== 'run was over')), []);
  });
});

/** The first complete sets, a definition that the admin then tunes, and what the sets look like. */
async function firstRuns(ground: Ground, remembered: Remembered): Promise<void> {
  for (let run = 0; run < LIVE.copies; run++) {
    const { status, said } = await ground.run(LIVE);
    assert.equal(status, 0, said);
    if (run === 0) await tuneDefinition(ground);
  }
  assert.equal((await remember(ground, remembered)).length, LIVE.copies);
}

/** Puts the number of copies back to what the step's job starts from. */
async function tidyBefore(ground: Ground, step: StepName, remembered: Remembered): Promise<void> {
  const there = (await remember(ground, remembered)).length;
  if ((PREPARED[step]?.form ?? LIVE) === MORE && there > LIVE.copies) await runUndisturbed(ground, LIVE, remembered);
  if ((PREPARED[step]?.form ?? LIVE) === FEWER && there < LIVE.copies) await runUndisturbed(ground, LIVE, remembered);
}

async function assertPromises(ground: Ground, remembered: Remembered, strangers: string | undefined): Promise<void> {
  await assertProduction(ground);
  await assertImages(ground, remembered, 1 + (remembered.size > 2 ? 1 : 0));
  await assertCurrent(ground, { byHand: true });
  await assertNoTwin(ground);
  if (strangers !== undefined) assert.equal(await sumOfStrangers(ground), strangers, 'P4, P5: something that is not ours has changed');
}

/** The next normal run ends as if nothing had happened. */
async function runUndisturbed(ground: Ground, form: JobForm, remembered: Remembered): Promise<void> {
  const before = await remember(ground, remembered);
  const { status, report, said } = await ground.run(form);
  assert.equal(status, 0, `the run after the kill failed: ${said}`);
  assert.equal(report.outcome, 'ok');
  const after = await remember(ground, remembered);
  assert.ok(after.length === form.copies || after.length === before.length + 1, `there are ${String(after.length)} sets after the run, ${String(before.length)} before it`);
  assert.ok(!before.includes(after[0] ?? ''), 'number 1 is not a new set');
  assert.deepEqual(after.slice(1).filter((set) => before.includes(set)), before.filter((set) => after.includes(set)), 'the order of the older sets has changed');
  await assertImages(ground, remembered, Math.min(form.copies, before.length + 1));
}

/** Who stands at a step first, on whichever host; undefined if the run ends before. */
async function firstStanding(ground: Ground, run: Started) {
  let over = false;
  void run.exit.then(() => { over = true; });
  for (const until = Date.now() + 90_000; Date.now() < until;) {
    for (const host of ground.hosts) {
      const at = await standing(host);
      if (at !== undefined) return { host, pid: at.pid };
    }
    // The guard goes on after the run: what it does counts for a while.
    if (over) { await sleep(1_000); over = false; for (const host of ground.hosts) { const at = await standing(host); if (at !== undefined) return { host, pid: at.pid }; } return undefined; }
    await sleep(100);
  }
  return undefined;
}

/** Kills one process of that role, some time after the first of them is there. Gives the host, or undefined if the run was over. */
async function killAfter(ground: Ground, run: Started, role: ProcessRole, wait: number, pick: number): Promise<string | undefined> {
  let over = false;
  void run.exit.then(() => { over = true; });
  let due: number | undefined;
  for (;;) {
    if (over) return undefined;
    const found = (await Promise.all(ground.hosts.map(async (host) => (await processesOf(host, role)).map((seen) => ({ host, seen }))))).flat();
    if (found.length > 0) due ??= Date.now() + wait * (role === 'data' || role === 'storage-daemon' ? 0.2 : 1);
    if (due !== undefined && Date.now() >= due) {
      const victim = found[Math.floor(pick * found.length)];
      if (victim === undefined) { await sleep(20); continue; }
      await victim.host.kill(victim.seen.inner);
      return victim.host.name;
    }
    await sleep(20);
  }
}

function printTable(rows: readonly Row[]): void {
  for (const { step, victim, host, ended } of rows) console.log(`      ${step.padEnd(28)} ${victim.padEnd(16)} ${host.padEnd(14)} exit ${ended}`);
}

/** mulberry32: small, seeded, good enough to pick moments. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

