import { randomBytes } from 'node:crypto';
import { DrError, type ErrorData } from '../model/errors.js';
import { log } from '../system/log.js';

/** Whether what was read from a capture may become an image. */
export type Verdict =
  | { readonly verdict: 'valid' }
  /** `error`: it was given up, and this says why and what to do. */
  | { readonly verdict: 'void'; readonly reason: string; readonly error?: ErrorData };

/** A capture that is held open: its sources can be read until it is closed. */
export interface OpenCapture {
  /** Lets go of everything and judges what was read. May be called again, with the same answer. */
  close(): Promise<Verdict>;
}

/** The captures that one session holds. */
export class OpenCaptures {
  readonly #open = new Map<string, OpenCapture>();
  readonly #verdicts = new Map<string, Promise<Verdict>>();

  newId(): string {
    return randomBytes(8).toString('hex');
  }

  add(id: string, capture: OpenCapture): void {
    this.#open.set(id, capture);
  }

  /** Closes one capture; asked again, it gives the same verdict. */
  async close(id: string): Promise<Verdict> {
    const known = this.#verdicts.get(id);
    if (known !== undefined) return known;
    const capture = this.#open.get(id);
    if (capture === undefined) throw new DrError('state-changed', `there is no open capture ${id} on this node; it was given up when its session ended`, 'Run the job again.');
    const verdict = capture.close();
    this.#verdicts.set(id, verdict);
    this.#open.delete(id);
    return verdict;
  }

  /** Closes all that are open, at once; what can't be let go of stays owed. */
  async closeAll(): Promise<void> {
    await Promise.all([...this.#open.keys()].map(async (id) => {
      try {
        await this.close(id);
      } catch (error) {
        log.warn('a capture could not be closed; what it holds stays owed', { error: DrError.from(error).message });
      }
    }));
  }
}

/** Throws `cancelled` once the signal is aborted. */
export function throwIfCancelled(signal: AbortSignal): void {
  if (signal.aborted) throw new DrError('cancelled', 'the capture was cancelled');
}
