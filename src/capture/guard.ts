import { setTimeout as sleep } from 'node:timers/promises';
import type { Obligation } from '../model/obligation.js';
import { hasCode } from '../system/durable.js';
import { DrError } from '../model/errors.js';
import { log, logTo } from '../system/log.js';
import { stateDirectory } from '../system/state.js';
import { identityOf, isAlive, listRecords, owedDirectory, readIdentity, removeSession, writeIdentity, type ProcessIdentity } from './owed-records.js';
import { payInOrder } from './pay.js';
import { isBelow } from './payments.js';

/**
 * The guard: a small process beside each agent that owes something. It pays when the agent is gone, when the agent has missed its deadline
 * (it is killed first), and a single debt that is overdue or that the agent could not pay. It ends when nothing is owed and nobody can owe more.
 */

/** The agent writes a byte every so many milliseconds, and is taken for dead when none came for `AGENT_DEAD_MS`, or what a test says. */
export const BEAT_MS = 2_000;
export const AGENT_DEAD_MS = 10_000;
const TICK_MS = 500;

/** How long the guard waits before it tries again, in milliseconds, after a number of failures. */
function retryMs(failures: number): number {
  return failures < 20 ? 3_000 : failures < 60 ? 10_000 : 30_000;
}
const WATCH_MS = 2_000;

/**
 * Guards one session until nothing is owed. Standard input is the agent's pipe; on standard output one line says that the guard is ready.
 * Throws `not-ours` for a directory that is no session's.
 */
export async function runGuard(directory: string, deadMs = AGENT_DEAD_MS): Promise<void> {
  if (!isBelow(directory, owedDirectory())) throw new DrError('not-ours', `${directory} is not a session below ${owedDirectory()}`);
  logTo(stateDirectory('guard.log'));
  for (const signal of ['SIGHUP', 'SIGINT', 'SIGPIPE'] as const) process.on(signal, () => undefined);
  process.stdout.on('error', () => undefined); // the agent died before it heard us: the pipe says so, too
  const self = await identityOf(process.pid);
  if (self !== undefined) await writeIdentity(directory, 'guard', self);
  const agent = new AgentWatch(await readIdentity(directory, 'owner'), deadMs);
  process.stdout.write('ready\n');
  await guard(directory, agent);
  await sleep(100); // the log's last lines
  // A device that hangs may hold a thread or a child of ours for ever; nothing is owed any more.
  process.exit(0);
}

/** Whether the agent lives, as far as the pipe and its bytes say. */
class AgentWatch {
  #lastByte = process.hrtime.bigint();
  #lastLook = process.hrtime.bigint();
  #gone = false;
  readonly #identity: ProcessIdentity | undefined;
  readonly #deadNs: bigint;

  constructor(identity: ProcessIdentity | undefined, deadMs: number) {
    this.#identity = identity;
    this.#deadNs = BigInt(deadMs) * 1_000_000n;
    process.stdin.on('data', () => { this.#lastByte = process.hrtime.bigint(); });
    for (const event of ['end', 'close', 'error'] as const) process.stdin.on(event, () => { this.#gone = true; });
  }

  /** True once the agent is dead; one that has missed its deadline is killed. */
  async gone(): Promise<boolean> {
    if (this.#gone) return true;
    const now = process.hrtime.bigint();
    const sinceLook = now - this.#lastLook;
    this.#lastLook = now;
    // A host that stood still (suspended, starved) stopped both of us: the agent gets its time back.
    if (sinceLook > 4n * BigInt(TICK_MS) * 1_000_000n) this.#lastByte += sinceLook;
    if (now - this.#lastByte < this.#deadNs) return false;
    log.warn('the agent missed its deadline and is killed', { pid: this.#identity?.pid });
    if (this.#identity !== undefined && await isAlive(this.#identity)) {
      try {
        process.kill(this.#identity.pid, 'SIGKILL');
      } catch (error) {
        if (!hasCode(error, 'ESRCH')) log.error('the agent could not be killed', { error: String(error) });
      }
      for (let waited = 0; waited < 2_000 && await isAlive(this.#identity); waited += 50) await sleep(50);
    }
    this.#gone = true;
    return true;
  }
}

/** What the guard remembers of one debt between two looks. */
interface Seen {
  /** Its age by the wall clock when it was first seen, and when that was by the clock that nobody sets. */
  readonly age: number;
  readonly at: number;
  readonly retryAt: number;
  readonly failures: number;
}

async function guard(directory: string, agent: AgentWatch): Promise<void> {
  const seen = new Map<string, Seen>();
  const busy = new Set<string>();
  for (;;) {
    const gone = await agent.gone();
    const owed = await look(directory);
    if (gone && owed.length === 0) break;
    const now = performance.now();
    const due: Obligation[] = [];
    for (const each of owed) {
      const before = seen.get(each.id) ?? { age: Math.max(0, Date.now() - Date.parse(each.createdAt)), at: now, retryAt: 0, failures: 0 };
      seen.set(each.id, before);
      if (busy.has(each.id) || now < before.retryAt) continue;
      if (gone || each.stuck !== undefined || isOverdue(each, before.age + now - before.at)) due.push(each);
    }
    if (due.length > 0) {
      for (const { id } of due) busy.add(id);
      void payInOrder(directory, due, ({ obligation: { id }, outcome }) => {
        busy.delete(id);
        const before = seen.get(id);
        if (before === undefined) return;
        const failures = outcome.kind === 'stuck' ? before.failures + 1 : 0;
        seen.set(id, { ...before, failures, retryAt: performance.now() + (outcome.kind === 'waiting' ? WATCH_MS : retryMs(failures)) });
      });
    }
    await sleep(gone && due.length > 0 ? 50 : TICK_MS);
  }
  await removeSession(directory).catch((error: unknown) => { log.warn('a session that owes nothing could not be removed', { error: String(error) }); });
}

/** What is owed; a disk that can't be read now is asked again. */
async function look(directory: string): Promise<readonly Obligation[]> {
  for (;;) {
    try {
      return await listRecords(directory);
    } catch (error) {
      log.error('what is owed could not be read', { error: String(error) });
      await sleep(TICK_MS);
    }
  }
}

/** Whether a debt has outlived its time, counted from its making and not by the wall clock, which may be set meanwhile. `age` in milliseconds. */
function isOverdue({ createdAt, debt }: Obligation, age: number): boolean {
  return 'dueAt' in debt && age >= Date.parse(debt.dueAt) - Date.parse(createdAt);
}
