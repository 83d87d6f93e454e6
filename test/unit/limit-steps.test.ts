import assert from 'node:assert/strict';
import fc from 'fast-check';
import { limitSteps } from '../../src/jobs/limit-steps.js';
import type { BandwidthSpan } from '../../src/model/config.js';

const HOUR = 3_600_000;
const office: BandwidthSpan = { from: 8 * 60, to: 18 * 60, bytesPerSecond: 10 };
const night: BandwidthSpan = { from: 22 * 60, to: 6 * 60, bytesPerSecond: 50 };
const at = (text: string): Date => new Date(`2026-06-01T${text}`);

/** As the sender reads it. */
function rateAfter(steps: readonly { readonly afterMs: number; readonly bytesPerSecond?: number }[], ms: number): number | undefined {
  return steps.findLast(({ afterMs }) => afterMs <= ms)?.bytesPerSecond;
}

describe('limits by time of day', () => {
  it('say what holds now and what follows, in the zone of the host that runs the job', () => {
    assert.deepEqual(limitSteps([office], at('07:59:30')).slice(0, 3), [{ afterMs: 0 }, { afterMs: 30_000, bytesPerSecond: 10 }, { afterMs: 30_000 + 10 * HOUR }]);
    assert.deepEqual(limitSteps([office], at('08:00:00')).slice(0, 2), [{ afterMs: 0, bytesPerSecond: 10 }, { afterMs: 10 * HOUR }]);
    assert.deepEqual(limitSteps([night], at('01:00:00')).slice(0, 3), [{ afterMs: 0, bytesPerSecond: 50 }, { afterMs: 5 * HOUR }, { afterMs: 21 * HOUR, bytesPerSecond: 50 }]);
  });

  it('pass from one to the next without a gap, and never change where it is always the same', () => {
    const day = { from: 6 * 60, to: 22 * 60, bytesPerSecond: 7 };
    assert.deepEqual(limitSteps([night, day], at('21:00:00')).slice(0, 3),
      [{ afterMs: 0, bytesPerSecond: 7 }, { afterMs: HOUR, bytesPerSecond: 50 }, { afterMs: 9 * HOUR, bytesPerSecond: 7 }]);
    assert.deepEqual(limitSteps([{ from: 0, to: 1440, bytesPerSecond: 3 }], at('12:00:00')), [{ afterMs: 0, bytesPerSecond: 3 }]);
  });

  it('hold at any moment what the clock on the wall says, summer and winter', () => {
    const zone = process.env['TZ'];
    process.env['TZ'] = 'Europe/Berlin'; // its clocks changed on 29 March and 25 October 2026
    try {
      fc.assert(fc.property(fc.integer({ min: Date.parse('2026-03-25T00:00:00Z'), max: Date.parse('2026-11-01T00:00:00Z') }), fc.integer({ min: 0, max: 20 * 24 * HOUR }), (start, later) => {
        const steps = limitSteps([office, night], new Date(start));
        const clock = new Date(start + later);
        const minute = clock.getHours() * 60 + clock.getMinutes();
        assert.equal(rateAfter(steps, later), minute >= 480 && minute < 1080 ? 10 : minute >= 1320 || minute < 360 ? 50 : undefined, clock.toString());
      }), { numRuns: 2000 });
    } finally {
      if (zone === undefined) delete process.env['TZ'];
      else process.env['TZ'] = zone;
    }
  });
});
