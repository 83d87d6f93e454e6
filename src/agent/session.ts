import { randomUUID } from 'node:crypto';
import { Ledger } from '../capture/obligations.js';
import { payOrphans } from '../capture/pay.js';
import { DrError } from '../model/errors.js';
import { lock, type Lock } from '../system/flock.js';
import { log } from '../system/log.js';
import { stateDirectory } from '../system/state.js';

/** What one agent process holds for one head: locks, obligations, and whatever its hands registered to let go of. */
export interface Session {
  /** The run the head works for; set by `hello`. */
  run: string;
  readonly ledger: Ledger;
  /** Aborted when the session ends: calls under way give up. */
  readonly signal: AbortSignal;
  /** Resolves when everything has been let go of. */
  readonly over: Promise<void>;
  /** Registers what must be let go of at the end; last registered, first called. */
  atEnd(what: string, letGo: () => Promise<void>): void;
  lock(name: string, what: string): Promise<{ lock: string }>;
  unlock(id: string): Promise<void>;
  abort(): void;
  close(): Promise<void>;
}

/** Longest time that letting go of everything may take, in milliseconds; what remains is owed, and production waits for its payment. */
const LET_GO_MS = 6_000;

/** Opens a session; debts that nobody alive answers for are paid in the background. */
export async function openSession(): Promise<Session> {
  const ledger = await Ledger.open();
  void payOrphans().catch((error: unknown) => { log.warn('orphaned debts could not be paid', { error: DrError.from(error).message }); });
  const aborted = new AbortController();
  const locks = new Map<string, { readonly name: string; readonly held: Promise<Lock> }>();
  const ends: { what: string; letGo: () => Promise<void> }[] = [];
  let overNow: () => void = () => undefined;
  const over = new Promise<void>((resolve) => { overNow = resolve; });

  return {
    run: 'unknown',
    ledger,
    signal: aborted.signal,
    over,
    atEnd: (what, letGo) => { ends.push({ what, letGo }); },
    lock: async (name, what) => {
      if (!/^[A-Za-z0-9_.+-]+$/.test(name)) throw new DrError('name-invalid', `${JSON.stringify(name)} is no name for a lock`);
      const id = randomUUID();
      const mine = [...locks.values()].find((one) => one.name === name); // one host may play two parts in a run
      const held = mine?.held ?? lock(stateDirectory('locks', `${name}.lock`), what);
      locks.set(id, { name, held });
      try {
        await held;
      } catch (error) {
        locks.delete(id);
        throw error;
      }
      return { lock: id };
    },
    unlock: async (id) => {
      const ended = locks.get(id);
      locks.delete(id);
      if (ended !== undefined && ![...locks.values()].some(({ name }) => name === ended.name)) await (await ended.held).release();
    },
    abort: () => { aborted.abort(new DrError('cancelled', 'the session ended')); },
    close: async () => {
      const until = Date.now() + LET_GO_MS;
      for (const end of ends.reverse()) {
        const left = Math.max(0, until - Date.now());
        try {
          await Promise.race([end.letGo(), new Promise<void>((resolve) => { setTimeout(resolve, left).unref(); })]);
        } catch (error) {
          log.warn(`could not let go of ${end.what}; it stays owed`, { error: DrError.from(error).message });
        }
      }
      await ledger.payAll().catch((error: unknown) => { log.error('could not pay everything; the guard goes on', { error: DrError.from(error).message }); });
      for (const { held } of locks.values()) await (await held).release();
      await ledger.close();
      overNow();
    },
  };
}
