import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { DrError } from '../model/errors.js';
import { failuresInARow, mayPass, triesOf, waitAfter, type Patience } from './retry.js';

export interface Persistence {
  readonly patience: Patience;
  /** Whoever no longer wants it, or can no longer have it, ends the waiting. */
  readonly signal: AbortSignal;
  /** What is being tried, for people: `the transfer of Web01 to dr01`. */
  readonly what: string;
  /** Told of each further try in words. */
  readonly told: (text: string) => void;
}

/**
 * Tries again what failed in a way that may pass by itself. Each try must look at everything afresh. Throws the last failure, which then says how often it was
 * tried; any other failure, and cancellation, at once.
 */
export async function persist<T>(act: () => Promise<T>, { patience, signal, what, told }: Persistence): Promise<T> {
  for (let failures = 0; ;) {
    const began = performance.now();
    try {
      return await act();
    } catch (thrown) {
      const failure = DrError.from(thrown);
      failures = failuresInARow(failures, performance.now() - began);
      if (signal.aborted || !mayPass(failure)) throw thrown;
      const wait = waitAfter(patience, failures);
      if (wait === undefined) throw new DrError(failure.code, `${what} was tried ${String(failures)} times in a row: ${failure.message}`, failure.hint, { cause: failure });
      told(`${what} is tried again in ${String(wait / 1000)} s (try ${String(failures + 1)} of ${String(triesOf(patience))}; what has arrived is not sent again): ${failure.message}`);
      await sleep(wait, undefined, { signal }).catch(() => undefined); // what is thrown then says why
      if (signal.aborted) throw thrown;
    }
  }
}
