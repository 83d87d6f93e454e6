import { DrError } from '../model/errors.js';
import type { Debt } from '../model/obligation.js';
import { log } from '../system/log.js';
import { step } from '../system/steps.js';
import type { Owing } from './owing.js';

/** Kinds of debts in the order in which a capture pays them: each would fail or hang while an earlier one is open. */
const ORDER = ['kill', 'unmount', 'backup', 'snapshot', 'remove'] as const;
type HeldKind = (typeof ORDER)[number];
type HeldDebt = Extract<Debt, { readonly kind: HeldKind }>;

/** What one capture holds and must let go of: each entry is an obligation, so that it is let go of even if we die. */
export class Holdings {
  readonly #owing: Owing;
  readonly #held: { readonly kind: HeldKind; readonly id: string }[] = [];

  constructor(owing: Owing) {
    this.#owing = owing;
  }

  /** Records, durably, what the caller is about to make. */
  async hold(debt: HeldDebt): Promise<void> {
    const { id } = await this.#owing.owe(debt);
    this.#held.push({ kind: debt.kind, id });
  }

  /**
   * Lets go of everything, in the right order; may be called again. What can't be let go of now stays owed, and nothing that depends on
   * it is touched: a scratch directory outlives the job that writes to it. Returns what went wrong.
   */
  async release(): Promise<DrError[]> {
    const errors: DrError[] = [];
    step('release-before');
    for (const kind of ORDER) {
      if (kind === 'remove' && errors.length > 0) break;
      // All of a kind at once: a server must be free within seconds, however many disks it has.
      await Promise.all(this.#held.filter((held) => held.kind === kind).map(async (each) => {
        try {
          await this.#owing.pay(each.id);
          this.#held.splice(this.#held.indexOf(each), 1);
        } catch (error) {
          const failure = DrError.from(error);
          log.warn('a debt of a capture stays owed', { kind, error: failure.message });
          errors.push(failure);
        }
      }));
    }
    step('release-after');
    return errors;
  }
}
