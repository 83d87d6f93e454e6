import assert from 'node:assert/strict';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dataHands } from '../../src/agent/data-hands.js';
import { Ledger } from '../../src/capture/obligations.js';
import { ourselves } from '../../src/system/run.js';
import type { SendOrder } from '../../src/transfer/send.js';
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

interface Passed {
  readonly at: number;
  readonly bytes: number;
}

/** The most that any second carried, of those that end in the span given. */
function mostInASecond(passed: readonly Passed[], from = 0, to = Infinity): number {
  let first = 0;
  let window = 0;
  let most = 0;
  for (const { at, bytes } of passed) {
    window += bytes;
    while ((passed[first]?.at ?? at) <= at - 1000) window -= passed[first++]?.bytes ?? 0;
    if (at >= from && at < to) most = Math.max(most, window);
  }
  return most;
}

/** Sends for so long, in pieces as they come, with pauses if `restless`. */
async function sendFor(throttle: Throttle, clock: LateClock, dice: Dice, seconds: number, restless: boolean): Promise<Passed[]> {
  const passed: Passed[] = [];
  while (clock.time < seconds * 1000) {
    const bytes = await throttle.take(restless && dice.roll(4) === 0 ? 1 + dice.roll(MIB) : MIB);
    passed.push({ at: clock.time, bytes });
    clock.time += 0.1; // nothing is sent in no time
    if (restless && dice.roll(200) === 0) clock.time += dice.roll(3_000); // nothing to send for a while
  }
  return passed;
}

/** Bytes per second in the middle of a transfer: programs start before it, and end after. */
function steadyRate(passed: readonly Passed[]): number {
  const all = sum(passed);
  let before = 0;
  const middle = passed.filter(({ bytes }) => (before += bytes) > all / 10 && before <= all * 0.9);
  return sum(middle.slice(1)) / ((middle.at(-1)?.at ?? 0) - (middle[0]?.at ?? 0)) * 1000;
}

const sum = (passed: readonly Passed[]): number => passed.reduce((all, { bytes }) => all + bytes, 0);

describe('the limit of bytes per second', function () {
  this.timeout(30_000);
  const limits = [10_000, 1.5 * MIB, 40 * MIB, 1_000 * MIB];

  for (const limit of limits) {
    it(`lets no second carry more than 1.1 times ${String(limit)}, whatever the timers and the pauses`, async () => {
      const dice = new Dice(limit);
      const clock = new LateClock(() => dice.roll(100) < 3 ? dice.roll(400) : dice.roll(3));
      const most = mostInASecond(await sendFor(new Throttle([{ afterMs: 0, bytesPerSecond: limit }], clock), clock, dice, 20, true));
      assert.ok(most <= 1.1 * limit, `${String(most)} in one second`);
    });

    it(`reaches 0.9 times ${String(limit)} when there is always something to send`, async () => {
      const dice = new Dice(limit);
      const clock = new LateClock(() => dice.roll(3));
      const sent = sum(await sendFor(new Throttle([{ afterMs: 0, bytesPerSecond: limit }], clock), clock, dice, 10, false));
      assert.ok(sent >= 0.9 * limit * 10, `${String(sent / 10)} per second`);
    });
  }

  it('changes at its hour, up and down, and may be none for a while', async () => {
    const dice = new Dice(7);
    const clock = new LateClock(() => dice.roll(3));
    const steps = [{ afterMs: 0, bytesPerSecond: 4 * MIB }, { afterMs: 5_000, bytesPerSecond: 16 * MIB }, { afterMs: 10_000 }, { afterMs: 15_000, bytesPerSecond: MIB }];
    const passed = await sendFor(new Throttle(steps, clock), clock, dice, 20, false);
    const rate = (from: number, to: number): number => sum(passed.filter(({ at }) => at >= from * 1000 && at < to * 1000)) / (to - from) / MIB;
    for (const [from, to, expected] of [[0, 5, 4], [5, 10, 16], [15, 20, 1]] as const) {
      assert.ok(Math.abs(rate(from, to) / expected - 1) < 0.1, `${String(rate(from, to))} MiB/s from ${String(from)} s on`);
    }
    assert.ok(rate(10, 15) > 1_000, `${String(rate(10, 15))} MiB/s without a limit`);
    assert.ok(mostInASecond(passed.filter(({ at }) => at > 15_000)) <= 1.1 * MIB, 'the old rate shows after the change');
  });

  it('is shared by all who take from one throttle', async () => {
    const dice = new Dice(3);
    const clock = new LateClock(() => 0);
    const throttle = new Throttle([{ afterMs: 0, bytesPerSecond: 4 * MIB }], clock);
    let sent = 0;
    while (clock.time < 10_000) sent += sum((await Promise.all([1, 2, 3].map(async () => ({ at: 0, bytes: await throttle.take(1 + dice.roll(MIB)) })))));
    assert.ok(sent <= 1.1 * 4 * MIB * 10, `${String(sent / 10)} per second`);
  });
});

describe('the limit between real processes', function () {
  this.timeout(60_000);
  let ground: TransferGround;
  const path = process.env['PATH'];

  before(async () => {
    ground = await TransferGround.make();
    const ssh = new URL('../support/stamping-ssh.js', import.meta.url).pathname;
    await mkdir(ground.path('bin'));
    await writeFile(ground.path('bin/ssh'), `#!/bin/sh\nexec ${process.execPath} ${ssh} "$@"\n`, { mode: 0o755 });
    process.env['PATH'] = `${ground.path('bin')}:${path ?? ''}`;
  });
  after(async () => {
    process.env['PATH'] = path;
    await ground.remove();
  });

  /** What arrived when at the far end, in milliseconds from the first byte on. */
  async function arrivals(limit: SendOrder['limit'], mebibytes: number): Promise<readonly Passed[]> {
    const ledger = await Ledger.open();
    const stamps = ground.path('stamps');
    await rm(stamps, { force: true });
    process.env['STAMPS'] = stamps;
    try {
      const source = await ground.disk('source', 'abcdefghijklmnopqrstuvwxyz'.slice(0, mebibytes));
      const image = await ground.disk('image', '', mebibytes * MIB);
      const hands = dataHands({ ledger, atEnd: () => undefined });
      const context = { signal: new AbortController().signal, progress: () => undefined };
      const made = await hands['transfer.offer']({ path: image, bytes: mebibytes * MIB, start: 'fresh', readBack: true }, context);
      await hands['transfer.send']({ source: { path: source, bytes: mebibytes * MIB, direct: true }, to: { host: 'there', agentCommand: [...ourselves()] }, ...made, ...(limit === undefined ? {} : { limit }) }, context);
      const lines = (await readFile(stamps, 'utf8')).trim().split('\n').map((line) => line.split(' ').map(Number));
      const began = lines[0]?.[0] ?? 0;
      return lines.map(([at = 0, bytes = 0]) => ({ at: at - began, bytes }));
    } finally {
      delete process.env['STAMPS'];
      await ledger.close();
    }
  }

  /** A busy machine delays who measures, which can only make a burst look larger: of three looks the smoothest is the true one. */
  async function smoothest(look: () => Promise<number>): Promise<number> {
    let best = Infinity;
    for (let time = 0; time < 3 && best > 1.1; time++) best = Math.min(best, await look());
    return best;
  }

  it('lets no second bring more than 1.1 times the limit', async () => {
    let average = 0;
    const ratio = await smoothest(async () => {
      const passed = await arrivals([{ afterMs: 0, bytesPerSecond: 4 * MIB }], 12);
      average = steadyRate(passed) / (4 * MIB);
      return mostInASecond(passed) / (4 * MIB);
    });
    console.log(`      most in a second ${ratio.toFixed(3)} of the limit, on average ${average.toFixed(3)}`);
    assert.ok(ratio <= 1.1, `${ratio.toFixed(2)} of the limit`);
    assert.ok(average > 0.75, `only ${average.toFixed(2)} of the limit`);
  });

  it('changes while a transfer runs, within two seconds', async () => {
    const ratio = await smoothest(async () => {
      const passed = await arrivals([{ afterMs: 0, bytesPerSecond: MIB }, { afterMs: 2_000, bytesPerSecond: 6 * MIB }, { afterMs: 4_000, bytesPerSecond: 2 * MIB }], 18);
      const from = passed.find(({ at }) => mostInASecond(passed.filter((each) => each.at <= at), at) > 1.5 * MIB)?.at ?? Infinity;
      assert.ok(from < 4_000, `the higher limit shows ${String(from)} ms after the beginning`);
      assert.ok(mostInASecond(passed) > 4 * MIB, 'the higher limit was never used');
      return Math.max(mostInASecond(passed, 0, 1_200) / MIB, mostInASecond(passed) / (6 * MIB), mostInASecond(passed, 6_000) / (2 * MIB));
    });
    assert.ok(ratio <= 1.1, `${ratio.toFixed(2)} of the limit that held`);
  });
});
