import { rename } from 'node:fs/promises';
import { basename } from 'node:path';
import { DrError } from '../model/errors.js';
import type { Debt, Debts, Obligation } from '../model/obligation.js';
import { makeDirectory, syncDirectory } from '../system/durable.js';
import { log } from '../system/log.js';
import { start } from '../system/run.js';
import { step } from '../system/steps.js';
import { BEAT_MS } from './guard.js';
import { allOwed, createRecord, identityOf, listRecords, newId, newSession, owedDirectory, readRecord, removeRecord, removeSession, replaceRecord, sessions, writeIdentity } from './owed-records.js';
import { guardCommand, lockRecord, payInOrder, payRecord } from './pay.js';
import { notRemovable } from './payments.js';

/** How long the guard may take to come up, in milliseconds. */
const GUARD_START_MS = 20_000;

/**
 * What this agent owes. Everything is written down durably before the act and is paid by us, or, should we die, by the guard: a process of its
 * own that is running before the first debt is made. An agent that never owes anything leaves no trace and starts no guard.
 */
export class Ledger implements Debts {
  readonly #directory = owedDirectory(newSession());
  readonly #guardCommand: readonly string[];
  #guard: ReturnType<typeof start> | undefined;
  #made = false;
  #guardReady: Promise<void> | undefined;
  #beat: NodeJS.Timeout | undefined;
  #count = 0;
  #closed = false;

  private constructor(guard: readonly string[]) {
    this.#guardCommand = guard;
  }

  /** `guard` is the command line that the session's directory is appended to. */
  static open(guard: readonly string[] = guardCommand()): Promise<Ledger> {
    return Promise.resolve(new Ledger(guard));
  }

  get session(): string {
    return basename(this.#directory);
  }

  /** Where the debts of this session are. */
  get directory(): string {
    return this.#directory;
  }

  /**
   * Writes a debt down. When this resolves it is on the disk and a guard watches over it; only then may the act be done. Throws, with nothing
   * owed, if that can't be had. A new start debt takes the place of older ones for the same server, whoever owed them.
   */
  async owe(debt: Debt): Promise<Obligation> {
    if (this.#closed) throw new DrError('internal', 'a debt was made after the ledger was closed');
    const why = debt.kind === 'remove' ? notRemovable(debt.path) : undefined;
    if (why !== undefined && debt.kind === 'remove') throw new DrError('not-ours', `${debt.path} can't be owed for removal: ${why}`);
    step('obligation-before-write');
    await this.#guarded();
    this.#count += 1;
    const obligation: Obligation = { id: newId(this.#count, debt.kind), createdAt: new Date().toISOString(), debt };
    await createRecord(this.#directory, obligation);
    if (debt.kind === 'start') await this.#supersede(obligation.id, debt);
    step('obligation-after-write');
    return obligation;
  }

  /** Puts what is known by now in the debt's place. A debt that is settled stays so. */
  async amend(id: string, debt: Debt): Promise<void> {
    const held = await lockRecord(this.#directory, id);
    if (held === undefined) return;
    try {
      const owed = await readRecord(this.#directory, id);
      if (owed !== undefined) await replaceRecord(this.#directory, { ...owed, debt });
    } finally {
      await held.release();
    }
  }

  /**
   * Undoes the act and forgets the debt. `watching`: nothing can be done yet, and the guard stays with it (a server that ignored the request
   * to shut down). Throws `start-owed` or `failed` if it can't be done now; the guard goes on trying, also while we live.
   */
  async pay(id: string): Promise<'paid' | 'watching'> {
    const kind = (await readRecord(this.#directory, id))?.debt.kind;
    const outcome = await payRecord(this.#directory, id);
    if (outcome.kind === 'settled') return 'paid';
    if (outcome.kind === 'waiting') return 'watching';
    throw kind === 'start'
      ? new DrError('start-owed', outcome.why, 'dr status shows what is owed; this node goes on trying by itself.')
      : new DrError('failed', `${kind ?? 'a debt'} could not be paid: ${outcome.why}`, 'This node goes on trying by itself.');
  }

  /** Forgets a debt whose act was properly undone, or never done. */
  async settled(id: string): Promise<void> {
    // Under the lock, or a guard that is trying to pay it at this moment could write it down again.
    const held = await lockRecord(this.#directory, id).catch(() => undefined); // it is at it for long: its payment finds nothing to do
    try {
      await removeRecord(this.#directory, id);
    } finally {
      await held?.release();
    }
  }

  /** What this session still owes, oldest first. */
  list(): Promise<Obligation[]> {
    return listRecords(this.#directory);
  }

  /** What is owed on this host, by whomever. */
  listAll(): Promise<Obligation[]> {
    return allOwed();
  }

  /** Tries to pay everything, in order. What remains is left to the guard; answers it. */
  async payAll(): Promise<Obligation[]> {
    await payInOrder(this.#directory, await this.list());
    return this.list();
  }

  /** Lets go of the guard: it pays what is still owed, if anything, and ends. */
  async close(): Promise<void> {
    this.#closed = true;
    if (!this.#made) return;
    clearInterval(this.#beat);
    await removeSession(this.#directory);
    this.#guard?.stdin?.end();
    this.#guard?.unref();
  }

  /** Makes sure that a guard runs and has said that it is ready. */
  async #guarded(): Promise<void> {
    this.#guardReady ??= this.#startGuard();
    try {
      await this.#guardReady;
    } catch (error) {
      this.#guardReady = undefined;
      throw error;
    }
  }

  /** The session appears with its owner in it: whoever looks for orphans must never see it without. */
  async #makeSession(): Promise<void> {
    await makeDirectory(owedDirectory());
    const unborn = owedDirectory(`.${basename(this.#directory)}.new`);
    await makeDirectory(unborn);
    const self = await identityOf(process.pid);
    if (self !== undefined) await writeIdentity(unborn, 'owner', self);
    await rename(unborn, this.#directory);
    await syncDirectory(owedDirectory());
    this.#made = true;
  }

  async #startGuard(): Promise<void> {
    if (!this.#made) await this.#makeSession();
    const [program = '', ...args] = this.#guardCommand;
    const guard = start(program, [...args, this.#directory], { stdio: ['pipe', 'pipe', 'ignore'], detached: true, cwd: '/' });
    this.#guard = guard;
    guard.stdin?.on('error', () => undefined); // its death is seen by 'exit'
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string): void => {
        guard.stdin?.destroy();
        reject(new DrError('failed', `the guard that would put things right if this agent died did not start: ${why}. Nothing was touched.`, `Look at ${owedDirectory('..', 'guard.log')}.`));
      };
      const timer = setTimeout(() => { fail(`not ready after ${String(GUARD_START_MS / 1000)} s`); }, GUARD_START_MS);
      guard.once('error', (error) => { clearTimeout(timer); fail(error.message); });
      guard.once('exit', (code, signal) => { clearTimeout(timer); fail(`it ended (${signal ?? String(code)})`); });
      guard.stdout?.once('data', () => { clearTimeout(timer); resolve(); });
    });
    guard.stdout?.destroy();
    guard.on('exit', () => { this.#guardDied(); });
    this.#beat ??= setInterval(() => this.#guard?.stdin?.write('.'), BEAT_MS).unref();
    guard.unref();
  }

  /** Somebody killed the guard: as long as anything may be owed there must be one. */
  #guardDied(): void {
    this.#guardReady = undefined;
    if (this.#closed) return;
    log.warn('the guard died and is started again');
    this.#guarded().catch((error: unknown) => { log.error('no guard watches over what is owed', { error: DrError.from(error).message }); });
  }

  /**
   * An older start debt for this server, kept by the guard of a run that is over, would start the server in the middle of our capture.
   * Ours covers it.
   */
  async #supersede(id: string, debt: Extract<Debt, { readonly kind: 'start' }>): Promise<void> {
    for (const directory of await sessions()) {
      for (const other of await listRecords(directory)) {
        if (other.id === id || other.debt.kind !== 'start' || other.debt.uuid !== debt.uuid || other.debt.uri !== debt.uri) continue;
        const held = await lockRecord(directory, other.id).catch(async (error: unknown) => {
          await removeRecord(this.#directory, id);
          throw new DrError('already-owed', `${debt.server} is being started by an earlier run, which does not end`, 'dr status shows what is owed. Try again later.', { cause: error });
        });
        if (held === undefined) continue;
        try {
          await removeRecord(directory, other.id);
        } finally {
          await held.release();
        }
      }
    }
  }
}
