import type { BandwidthSpan } from '../model/config.js';
import type { LimitStep } from '../transfer/throttle.js';

/** Longer than any transfer; after that the last limit stays. */
const DAYS_AHEAD = 40;

/**
 * The limit from `now` on, by this host's clock and time zone: how it is, and when it changes. Relative times, because the sender's clock
 * and zone may be others.
 */
export function limitSteps(spans: readonly BandwidthSpan[], now: Date): LimitStep[] {
  const minutes = [...new Set(spans.flatMap(({ from, to }) => [from, to % DAY]))].sort((a, b) => a - b);
  const changes: (LimitStep & { readonly minute: number })[] = [];
  for (let day = -1; day <= DAYS_AHEAD; day++) {
    for (const minute of minutes) {
      const at = new Date(now.getFullYear(), now.getMonth(), now.getDate() + day, 0, minute);
      changes.push({ minute, afterMs: at.getTime() - now.getTime(), ...limitAt(spans, minute) });
    }
  }
  const current = changes.findLastIndex(({ afterMs }) => afterMs <= 0);
  const steps = changes.slice(Math.max(0, current)).map(({ afterMs, bytesPerSecond }): LimitStep => ({ afterMs: Math.max(0, afterMs), ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }) }));
  return steps.filter((step, index) => index === 0 || step.bytesPerSecond !== steps[index - 1]?.bytesPerSecond);
}

const DAY = 24 * 60;

function limitAt(spans: readonly BandwidthSpan[], minute: number): { readonly bytesPerSecond?: number } {
  const span = spans.find(({ from, to }) => from < to ? from <= minute && minute < to : from <= minute || minute < to);
  return span === undefined ? {} : { bytesPerSecond: span.bytesPerSecond };
}
