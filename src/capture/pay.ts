import { access } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import type { Debt, Obligation } from '../model/obligation.js';
import { lock, type Lock } from '../system/flock.js';
import { log } from '../system/log.js';
import { ourselves, start } from '../system/run.js';
import { step } from '../system/steps.js';
import { isAlive, listRecords, lockPath, readIdentity, readRecord, removeRecord, removeSession, replaceRecord, sessions } from './owed-records.js';
import { payStart } from './pay-start.js';
import { paySnapshot } from './pay-snapshot.js';
import { isBelow, payBackup, payKill, payRemove, payResume, payThaw, payUnmount, type Outcome } from './payments.js';

/** Paying what is owed, whoever does it: the agent that owes, its guard, or `dr agent --pay`. One lock per debt keeps them apart. */

/** How long a caller waits for one payment, in milliseconds. It goes on after that: a device that does not answer can't be hurried. */
const PATIENCE: Readonly<Record<Debt['kind'], number>> = {
  kill: 10_000, resume: 30_000, thaw: 30_000, backup: 60_000, snapshot: 60_000, unmount: 30_000, remove: 120_000, start: 180_000,
};

/** How long payments of one rank hold up the next rank, in milliseconds: a drive that hangs must not keep a server down. */
const RANK_MS = 2_500;

function payDebt(debt: Debt, directory: string): Promise<Outcome> {
  switch (debt.kind) {
    case 'kill': return payKill(debt);
    case 'resume': return payResume(debt);
    case 'thaw': return payThaw(debt);
    case 'backup': return payBackup(debt);
    case 'snapshot': return paySnapshot(debt, directory);
    case 'unmount': return payUnmount(debt);
    case 'remove': return payRemove(debt);
    case 'start': return payStart(debt, directory);
  }
}

/** Payments that are being made by this process: one that hangs is waited for again, not begun again. */
const underWay = new Map<string, Promise<Outcome>>();

/**
 * Makes one payment and removes its record. Never throws: what could not be done is written into the record, and the guard tries on.
 */
export async function payRecord(directory: string, id: string): Promise<Outcome> {
  const key = lockPath(directory, id);
  let attempt = underWay.get(key);
  if (attempt === undefined) {
    attempt = tryToPay(directory, id)
      .catch((error: unknown): Outcome => ({ kind: 'stuck', why: DrError.from(error).message }))
      .finally(() => underWay.delete(key));
    underWay.set(key, attempt);
  }
  const kind = (await readRecord(directory, id).catch(() => undefined))?.debt.kind ?? 'kill';
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Outcome>((resolve) => {
    timer = setTimeout(() => { resolve({ kind: 'stuck', why: 'no answer yet; it is still being tried' }); }, PATIENCE[kind]);
  });
  try {
    return await Promise.race([attempt, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function tryToPay(directory: string, id: string): Promise<Outcome> {
  const held = await lockRecord(directory, id);
  if (held === undefined) return { kind: 'settled', how: 'it was settled already' };
  try {
    const owed = await readRecord(directory, id);
    if (owed === undefined) return { kind: 'settled', how: 'it was settled already' };
    step('obligation-before-pay');
    const outcome = await payDebt(owed.debt, directory)
      .catch((error: unknown): Outcome => ({ kind: 'stuck', why: DrError.from(error).message }));
    if (outcome.kind === 'settled') {
      await removeRecord(directory, id);
      step('obligation-after-pay');
    } else {
      await note(directory, owed, outcome);
    }
    log.info('tried to pay a debt', { session: directory, id, outcome: outcome.kind, why: outcome.kind === 'settled' ? outcome.how : outcome.why });
    return outcome;
  } finally {
    await held.release();
  }
}

/** Writes down why it is still owed, unless somebody settled or amended it meanwhile. */
async function note(directory: string, owed: Obligation, outcome: Exclude<Outcome, { kind: 'settled' }>): Promise<void> {
  const now = await readRecord(directory, owed.id);
  if (now === undefined) return;
  const debt = outcome.debt ?? now.debt;
  if (now.stuck === outcome.why && JSON.stringify(debt) === JSON.stringify(now.debt)) return;
  await replaceRecord(directory, { ...now, stuck: outcome.why, debt });
}

/** The lock of one debt; undefined if the debt is settled. Throws `locked` if somebody is at it for long. */
export async function lockRecord(directory: string, id: string): Promise<Lock | undefined> {
  try {
    await access(directory); // taking a lock would make the directory of a session that has ended
  } catch {
    return undefined;
  }
  if (await readRecord(directory, id) === undefined) return undefined;
  return lock(lockPath(directory, id), `the debt ${id}`, 30);
}

/**
 * The order of payments: kill, resume, thaw (which a suspended guest would not hear), backup and snapshot, unmount, remove, start. Within a rank all are paid at once. What lies on a file system that is
 * going to be unmounted is removed before that.
 */
export function inOrder(owed: readonly Obligation[]): readonly (readonly Obligation[])[] {
  const mounted = owed.flatMap(({ debt }) => (debt.kind === 'unmount' ? [debt.mountPoint] : []));
  const ranks = new Map<number, Obligation[]>();
  for (const each of owed) {
    const rank = rankOf(each.debt, mounted);
    ranks.set(rank, [...(ranks.get(rank) ?? []), each]);
  }
  return [...ranks.entries()].sort(([a], [b]) => a - b).map(([, group]) => group);
}

function rankOf(debt: Debt, mounted: readonly string[]): number {
  switch (debt.kind) {
    case 'kill': return 0;
    case 'resume': return 1;
    case 'thaw': return 2;
    case 'backup': case 'snapshot': return 3;
    case 'remove': return isMounted(debt, mounted) ? 4 : REMOVED_LAST;
    case 'unmount': return 5;
    case 'start': return 7;
  }
}

/** The rank of what does not lie on something that is unmounted first. */
const REMOVED_LAST = 6;

function isMounted({ path }: Extract<Debt, { readonly kind: 'remove' }>, mounted: readonly string[]): boolean {
  return mounted.some((mountPoint) => isBelow(path, mountPoint));
}

export interface Payment {
  readonly obligation: Obligation;
  readonly outcome: Outcome;
}

/** Pays debts of one session in order, and says of each at once how it went. What hangs holds up the next rank for a moment only. */
export async function payInOrder(directory: string, owed: readonly Obligation[], tried: (payment: Payment) => void = () => undefined): Promise<void> {
  const all: Promise<void>[] = [];
  for (const rank of inOrder(owed)) {
    const before = Promise.all(all);
    const payments = rank.map(async (obligation) => {
      const outcome = isUsed(obligation, owed) ? await before.then(() => payUnlessUsed(directory, obligation)) : await payRecord(directory, obligation.id);
      tried({ obligation, outcome });
    });
    all.push(...payments);
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([Promise.all(payments), new Promise((resolve) => { timer = setTimeout(resolve, RANK_MS); })]);
    clearTimeout(timer);
  }
  await Promise.all(all);
}

/** Whether a backup job or a mount may still use what is to be removed. What lies on a drive that is unmounted next can't wait for that. */
function isUsed({ debt }: Obligation, owed: readonly Obligation[]): boolean {
  return rankOf(debt, owed.flatMap(({ debt: other }) => (other.kind === 'unmount' ? [other.mountPoint] : []))) === REMOVED_LAST;
}

/** A scratch directory outlives the job that writes to it, however long that takes to end. */
async function payUnlessUsed(directory: string, obligation: Obligation): Promise<Outcome> {
  const jobs = (await listRecords(directory)).some(({ debt }) => debt.kind === 'backup');
  return jobs ? { kind: 'waiting', why: 'a backup job that may use it has not ended' } : payRecord(directory, obligation.id);
}

/** Sessions that nobody alive answers for: their agent and their guard are both gone, or the host was booted since. */
async function orphans(): Promise<string[]> {
  const found: string[] = [];
  for (const directory of await sessions()) {
    const roles = await Promise.all([readIdentity(directory, 'owner'), readIdentity(directory, 'guard')]);
    const alive = await Promise.all(roles.map((identity) => identity !== undefined && isAlive(identity)));
    if (!alive.includes(true)) found.push(directory);
  }
  return found;
}

export function guardCommand(): readonly string[] {
  return [...ourselves(), 'agent', '--guard'];
}

/**
 * Pays what dead agents with dead guards left. What can't be paid now gets a new guard, which tries on after we have ended. Answers what is
 * still owed.
 */
export async function payOrphans(guard: readonly string[] = guardCommand()): Promise<Obligation[]> {
  const left = await Promise.all((await orphans()).map(async (directory) => {
    await payInOrder(directory, await listRecords(directory));
    const still = await listRecords(directory);
    if (still.length === 0) await removeSession(directory);
    else startGuardWithoutAgent(directory, guard);
    return still;
  }));
  return left.flat();
}

function startGuardWithoutAgent(directory: string, [program, ...args]: readonly string[]): void {
  if (program === undefined) return;
  const child = start(program, [...args, directory], { stdio: ['ignore', 'ignore', 'ignore'], detached: true, cwd: '/' });
  child.on('error', (error) => { log.error('the guard could not be started; what is owed waits for the next agent', { error: error.message }); });
  child.unref();
}

/** `dr agent --pay`, at boot or by hand: pays what nobody alive answers for and says what is still owed. Exit status 1 if anything is. */
export async function payEverything(): Promise<void> {
  const still = await payOrphans();
  for (const { debt, stuck } of still) {
    const what = 'server' in debt ? `${debt.kind} ${debt.server}` : `${debt.kind} ${JSON.stringify(debt)}`;
    process.stderr.write(`still owed: ${what}: ${stuck ?? 'not tried yet'}. A guard goes on trying.\n`);
  }
  if (still.length > 0) throw new DrError('failed', `${String(still.length)} debts of this host could not be paid yet; a guard in the background goes on trying`, 'Remove what is in the way: the lines above name it.');
}
