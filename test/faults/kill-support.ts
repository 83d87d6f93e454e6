import assert from 'node:assert/strict';
import type { Ground, JobForm } from './ground.js';
import { assertCurrent, assertImages, assertNoTwin, assertProduction, lookAtStore, remember, sumOfStrangers, tuneDefinition, type Remembered, type StoreSeen } from './promises.js';

/** What the kill campaigns share: how they begin, what they assert after each kill, and the table they print. */

export const LIVE: JobForm = { capture: 'live', copies: 3 };

export interface Row { readonly step: string; readonly victim: string; readonly host: string; readonly ended: string }

/** The first complete sets, a definition that the admin then tunes, and what the sets look like. */
export async function firstRuns(ground: Ground, remembered: Remembered): Promise<void> {
  for (let run = 0; run < LIVE.copies; run++) {
    const { status, said } = await ground.run(LIVE);
    assert.equal(status, 0, said);
    if (run === 0) await tuneDefinition(ground);
  }
  assert.equal((await remember(ground, remembered)).length, LIVE.copies);
}

/** What the store looks like while nothing of ours runs is given back, for the questions that come next. */
export async function assertPromises(ground: Ground, remembered: Remembered, strangers: string | undefined, { byHand = strangers !== undefined }: { readonly byHand?: boolean } = {}): Promise<StoreSeen> {
  await assertProduction(ground);
  const seen = await lookAtStore(ground);
  await assertImages(ground, remembered, 1 + (remembered.size > 2 ? 1 : 0), seen);
  await remember(ground, remembered, seen); // what a run completed before its death must never change either
  await assertCurrent(ground, { byHand }); // without strangers the definition has been removed on purpose
  await assertNoTwin(ground);
  if (strangers !== undefined) assert.equal(await sumOfStrangers(ground), strangers, 'P4, P5: something that is not ours has changed');
  return seen;
}

/** The next normal run ends as if nothing had happened; gives what the store looks like then. */
export async function runUndisturbed(ground: Ground, form: JobForm, remembered: Remembered, seen?: StoreSeen): Promise<StoreSeen> {
  const before = await remember(ground, remembered, seen);
  const { status, report, said } = await ground.run(form);
  assert.equal(status, 0, `the run after the kill failed: ${said}`);
  assert.equal(report.outcome, 'ok');
  const now = await lookAtStore(ground);
  await assertNewSet(ground, form, remembered, before, now);
  return now;
}

/** A run in which somebody died has ended with `status`: one that went on to its end was as good as a normal one; else one follows. */
export async function recovers(ground: Ground, form: JobForm, remembered: Remembered, status: number, before: StoreSeen, seen: StoreSeen): Promise<StoreSeen> {
  if (status !== 0) return await runUndisturbed(ground, form, remembered, seen);
  await assertNewSet(ground, form, remembered, await remember(ground, remembered, before), seen);
  return seen;
}

/** Number 1 is a new set, and the others are what they were, in their order; `before` and after a run that has succeeded. */
export async function assertNewSet(ground: Ground, form: JobForm, remembered: Remembered, before: readonly string[], now: StoreSeen): Promise<void> {
  const after = await remember(ground, remembered, now);
  assert.ok(after.length === form.copies || after.length === before.length + 1, `there are ${String(after.length)} sets after the run, ${String(before.length)} before it`);
  assert.ok(!before.includes(after[0] ?? ''), 'number 1 is not a new set');
  assert.deepEqual(after.slice(1).filter((set) => before.includes(set)), before.filter((set) => after.includes(set)), 'the order of the older sets has changed');
  await assertImages(ground, remembered, Math.min(form.copies, before.length + 1), now);
}

export function printTable(rows: readonly Row[]): void {
  for (const { step, victim, host, ended } of rows) console.log(`      ${step.padEnd(28)} ${victim.padEnd(16)} ${host.padEnd(14)} exit ${ended}`);
}
