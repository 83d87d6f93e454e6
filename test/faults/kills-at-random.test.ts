import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Lab } from '../lab/lab.js';
import type { Started } from '../lab/host.js';
import { processesOf, type ProcessRole } from '../lab/roles.js';
import { skipBecause, SOAK } from '../support/skip.js';
import { Ground } from './ground.js';
import { assertPromises, firstRuns, LIVE, printTable, recovers, type Row } from './kill-support.js';
import { addStrangers, lookAtStore, type Remembered, type StoreSeen } from './promises.js';

/**
 * SIGKILL for the head, an agent, a data process, ssh and the storage daemon at random moments; more of them with `make soak`. The promises are
 * looked at after each; after every third that run or the next one succeeds, so that failed runs follow failed runs, too.
 */

const IN_A_ROW = 3;
const VICTIMS: readonly ProcessRole[] = ['head', 'agent', 'data', 'ssh', 'storage-daemon'];

describe('kills at random moments', function () {
  this.timeout(180_000);
  const moments = SOAK ? 500 : 20;
  const seed = Number(process.env['DR_SEED'] ?? '20261120');
  const random = generator(seed);
  let ground: Ground;
  let strangers: string;
  let seen: StoreSeen;
  const remembered: Remembered = new Map();
  const table: Row[] = [];

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    console.log(`      seed ${String(seed)} (DR_SEED repeats it)`);
    ground = await Ground.up('kill-random', 'linux', { small: true });
    await firstRuns(ground, remembered);
    strangers = await addStrangers(ground);
    seen = await lookAtStore(ground);
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
      const before = seen;
      seen = await assertPromises(ground, remembered, strangers);
      if (moment % IN_A_ROW === 0 || moment === moments) seen = await recovers(ground, LIVE, remembered, ended, before, seen);
    });
  }

  it('has hit every role', () => {
    assert.deepEqual(VICTIMS.filter((role) => !table.some((row) => row.victim === role && row.host !== 'run was over')), []);
  });
});

/** Kills one process of that role, some time after the first of them is there. Gives the host, or undefined if the run was over. */
async function killAfter(ground: Ground, run: Started, role: ProcessRole, wait: number, pick: number): Promise<string | undefined> {
  const over = run.exit.then((): 'over' => 'over');
  const nap = (ms: number): Promise<string | undefined> => Promise.race([over, sleep(ms, undefined)]);
  const look = async () => (await Promise.all(ground.hosts.map(async (host) => (await processesOf(host, role)).map((seen) => ({ host, seen }))))).flat();
  while ((await look()).length === 0) if (await nap(50) === 'over') return undefined;
  if (await nap(wait * (role === 'data' || role === 'storage-daemon' ? 0.2 : 1)) === 'over') return undefined;
  for (;;) {
    const found = await look();
    const victim = found[Math.floor(pick * found.length)];
    if (victim !== undefined) {
      await victim.host.kill(victim.seen.inner);
      return victim.host.name;
    }
    if (await nap(20) === 'over') return undefined;
  }
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
