import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Clock {
  /** Milliseconds that only go forward. */
  now(): number;
  sleep(milliseconds: number): Promise<void>;
}

const realClock: Clock = { now: () => performance.now(), sleep: (milliseconds) => sleep(milliseconds) };

/** Share of a second that one piece may take, and that a late timer may be caught up. Together they bound a burst to 1.05 of the limit. */
const GRAIN_MS = 25;

/**
 * A smooth limit: small pieces, evenly spaced. There is no bucket that fills while nothing is sent, so no second carries more than
 * 1.05 times the limit, at a start or after a pause either.
 */
export class Throttle {
  /** Callers cut what they send into pieces no larger than this. */
  readonly pieceBytes: number;
  readonly #bytesPerMs: number;
  readonly #clock: Clock;
  #next: number;

  constructor(bytesPerSecond: number, clock: Clock = realClock) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#clock = clock;
    this.pieceBytes = Math.max(1, Math.floor(this.#bytesPerMs * GRAIN_MS));
    this.#next = clock.now();
  }

  /** Resolves when `bytes` may go out. */
  async take(bytes: number): Promise<void> {
    const now = this.#clock.now();
    const at = Math.max(this.#next, now - GRAIN_MS);
    this.#next = at + bytes / this.#bytesPerMs;
    if (at > now) await this.#clock.sleep(at - now);
  }
}
