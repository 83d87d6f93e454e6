import type { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import type { Holdings } from './holdings.js';
import type { OpenCapture, Verdict } from './open-captures.js';

/** The end that a live capture comes to when whoever watches it gives it up: what it holds is let go of at once, and its verdict is void. */
export class GivingUp {
  readonly #holdings: Holdings;
  #stop: () => void = () => undefined;
  #gaveUp: { readonly why: DrError; readonly released: Promise<unknown> } | undefined;

  constructor(holdings: Holdings) {
    this.#holdings = holdings;
  }

  /** Begins to watch: `watch` is told how to give up, and says how to stop watching. */
  watch(watch: (giveUp: (why: DrError) => void) => () => void): void {
    this.#stop = watch((why) => {
      log.error(why.message);
      this.#gaveUp = { why, released: this.#holdings.release() };
    });
  }

  /** Lets go of everything after a failure while the capture was being opened; gives the reason for which it was given up, if it was. */
  async abandon(): Promise<DrError | undefined> {
    this.#stop();
    await this.#gaveUp?.released;
    await this.#holdings.release();
    return this.#gaveUp?.why;
  }

  /** An open capture whose data counts only if nobody gave it up, and if `judge` then says so. It is judged once, and before anything is let go of. */
  capture(judge: () => Promise<Verdict>, judged: (verdict: Verdict) => Promise<void> = () => Promise.resolve()): OpenCapture {
    let verdict: Verdict | undefined;
    return {
      close: async () => {
        this.#stop();
        await this.#gaveUp?.released;
        if (verdict === undefined) {
          verdict = this.#gaveUp === undefined ? await judge() : { verdict: 'void', reason: this.#gaveUp.why.message, error: this.#gaveUp.why.toJSON() };
          await judged(verdict);
        }
        await this.#holdings.release(); // what can't be let go of stays owed; the data was read all the same
        return verdict;
      },
    };
  }
}
