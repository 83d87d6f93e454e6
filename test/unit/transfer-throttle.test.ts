import assert from 'node:assert/strict';
import { Throttle, type Clock } from '../../src/transfer/throttle.js';
import { MIB, TransferGround } from '../support/transfer-ground.js';
import { Dice } from '../support/transfer-mutations.js';

/** A clock that only moves when somebody sleeps, and wakes sleepers late as real ones do. */
class LateClock implements Clock {
  time = 0;
  readonly #late: () => number;

  constructor(late: () => number) {
    this.#late = late;
  }

  now(): number {
    return this.time;
  }

  sleep(milliseconds: number): Promise<void> {
    this.time += milliseconds + this.#late();
    return Promise.resolve();
  }
}

describe('the limit of bytes per second', function () {
  this.timeout(30_000);
  const limits = [10_000, 1.5 * MIB, 40 * MIB, 1_000 * MIB];

  for (const limit of limits) {
    it(`lets no second carry more than 1.1 times ${String(limit)}, whatever the timers and the pauses`, async () => {
      const dice = new Dice(limit);
      const clock = new LateClock(() => dice.roll(100) < 3 ? dice.roll(400) : dice.roll(3));
      const throttle = new Throttle(limit, clock);
      const passed: { at: number; bytes: number }[] = [];
      while (clock.time < 20_000) {
        const bytes = dice.roll(4) === 0 ? 1 + dice.roll(throttle.pieceBytes) : throttle.pieceBytes;
        await throttle.take(bytes);
        passed.push({ at: clock.time, bytes });
        if (dice.roll(200) === 0) clock.time += dice.roll(3_000); // nothing to send for a while
      }
      let from = 0;
      let window = 0;
      let most = 0;
      for (const { at, bytes } of passed) {
        window += bytes;
        while ((passed[from]?.at ?? at) <= at - 1000) window -= passed[from++]?.bytes ?? 0;
        most = Math.max(most, window);
      }
      assert.ok(most <= 1.1 * limit, `${String(most)} in one second`);
    });

    it(`reaches 0.9 times ${String(limit)} when there is always something to send`, async () => {
      const dice = new Dice(limit);
      const clock = new LateClock(() => dice.roll(3));
      const throttle = new Throttle(limit, clock);
      let sent = 0;
      while (clock.time < 10_000) {
        await throttle.take(throttle.pieceBytes);
        sent += throttle.pieceBytes;
      }
      assert.ok(sent >= 0.9 * limit * 10, `${String(sent / 10)} per second`);
    });
  }

  it('holds for a real transfer', async () => {
    const ground = await TransferGround.make();
    try {
      const source = await ground.disk('source', 'abcd');
      const path = await ground.disk('image', '....');
      const began = performance.now();
      await ground.move({ path: source, bytes: 4 * MIB }, { path, start: 'fresh' }, { limitBytesPerSecond: 4 * MIB });
      const seconds = (performance.now() - began) / 1000;
      assert.ok(seconds > 0.9, `4 MiB at 4 MiB/s took ${String(seconds)} s`);
    } finally {
      await ground.remove();
    }
  });
});
