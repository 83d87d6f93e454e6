import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Clock {
  /** Milliseconds that only go forward. */
  now(): number;
  sleep(milliseconds: number): Promise<void>;
}

const realClock: Clock = { now: () => performance.now(), sleep: (milliseconds) => sleep(milliseconds) };

/** What may be sent per second from `afterMs` after the order was given; without a rate, as much as goes. */
export interface LimitStep {
  readonly afterMs: number;
  readonly bytesPerSecond?: number;
}

/** What one piece takes of a second, and how much of a late timer is made up for. Together they bound a burst to 1.07 of the limit. */
const PIECE_MS = 10;
const LATE_MS = 60;

/**
 * A smooth limit that changes with time: small pieces, evenly spaced. There is no bucket that fills while nothing is sent, so no second
 * carries more than 1.07 times the limit, at a start or after a pause either. Several may take from one throttle: they share its limit.
 */
export class Throttle {
  readonly #clock: Clock;
  readonly #began: number;
  readonly #later: LimitStep[];
  #current: LimitStep | undefined;
  /** When the next piece may go out. */
  #next: number;

  /** `steps` are in the order of time; before the first there is no limit. The time counts from now. */
  constructor(steps: readonly LimitStep[], clock: Clock = realClock) {
    this.#clock = clock;
    this.#later = [...steps];
    this.#began = clock.now();
    this.#next = this.#began;
  }

  /** Resolves when something may go out, with how many of the `wanted` bytes; at least one. */
  async take(wanted: number): Promise<number> {
    const now = this.#clock.now();
    const at = Math.max(this.#next, now - LATE_MS);
    const rate = this.#bytesPerMs(Math.max(at, now)); // when it goes out
    const bytes = rate === undefined ? wanted : Math.min(wanted, Math.max(1, Math.floor(rate * PIECE_MS)));
    this.#next = rate === undefined ? at : at + bytes / rate;
    if (at > now) await this.#clock.sleep(at - now);
    return bytes;
  }

  #bytesPerMs(at: number): number | undefined {
    for (let step = this.#later[0]; step !== undefined && this.#began + step.afterMs <= at; step = this.#later[0]) {
      this.#current = step;
      this.#later.shift();
    }
    return this.#current?.bytesPerSecond === undefined ? undefined : this.#current.bytesPerSecond / 1000;
  }
}
