import { z } from 'zod';
import type { BandwidthSpan } from '../model/config.js';
import * as is from './leaves.js';

/** How much may be sent: always the same, or by time of day. */

const span = { from: is.timeOfDay('00:00', '23:59'), to: is.timeOfDay('00:01', '24:00'), limit: is.rate };

export const SPAN_KEYS: readonly string[] = Object.keys(span);

const spans = z.array(z.strictObject(span)).min(1);

const LIST = 'a list such as [{from: "08:00", to: "18:00", limit: 10MiB/s}]';

/** A rate, or spans of the day with a rate each; comes out as spans that don't overlap. */
export const bandwidthLimit = z.unknown().transform((value, context): readonly BandwidthSpan[] => {
  const wrong = (message: string, path: PropertyKey[] = []): void => { context.addIssue({ code: 'custom', message, path }); };
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    wrong(`expected a rate such as 40MiB/s or ${LIST}, found ${is.show(value)}`);
    return z.NEVER;
  }
  const read = Array.isArray(value) ? spans.safeParse(value) : is.rate.safeParse(value);
  if (!read.success) {
    for (const issue of read.error.issues) {
      const { code, path } = issue;
      if (code === 'unrecognized_keys') context.addIssue({ code, path, keys: issue.keys });
      else wrong(code === 'custom' ? issue.message : `expected ${LIST}, found ${is.show(path.length === 0 ? value : (value as readonly unknown[])[Number(path[0])])}`, path);
    }
    return z.NEVER;
  }
  if (typeof read.data === 'number') return [{ from: 0, to: DAY, bytesPerSecond: read.data }];
  const found = read.data.map(({ from, to, limit }): BandwidthSpan => ({ from, to, bytesPerSecond: limit }));
  for (const [index, one] of found.entries()) {
    const message = emptiness(one) ?? overlap(one, found.slice(0, index));
    if (message !== undefined) wrong(message, [index]);
  }
  return found;
});

const DAY = 24 * 60;

function emptiness({ from, to }: BandwidthSpan): string | undefined {
  return from === to ? `begins and ends at ${clock(from)}; for the whole day write from: "00:00", to: "24:00"` : undefined;
}

function overlap(one: BandwidthSpan, earlier: readonly BandwidthSpan[]): string | undefined {
  const other = earlier.find((each) => parts(each).some(([from, to]) => parts(one).some(([start, end]) => from < end && start < to)));
  return other === undefined ? undefined : `${spell(one)} overlaps with ${spell(other)} above; at any time of day only one limit can hold`;
}

/** A span over midnight is two. */
function parts({ from, to }: BandwidthSpan): readonly (readonly [number, number])[] {
  return from < to ? [[from, to]] : [[from, DAY], [0, to]];
}

function spell({ from, to }: BandwidthSpan): string {
  return `${clock(from)} to ${clock(to)}`;
}

function clock(minute: number): string {
  return `${String(Math.floor(minute / 60)).padStart(2, '0')}:${String(minute % 60).padStart(2, '0')}`;
}
