import type { DrError, ErrorCode } from '../model/errors.js';

/** What is worth another try within a run, and how long to wait for it. Pure: who tries, and what is looked at before, is elsewhere. */

/** How much patience there is with failures in a row. */
export interface Patience {
  /** Milliseconds before each further try; when they are used up, so is the patience. */
  readonly waitsMs: readonly number[];
  /** How long a lost connection may take to be made anew, in milliseconds. */
  readonly connectMs: number;
}

/** While production runs: five tries, which a switch or a host has about two minutes to come back for. */
export const PATIENT: Patience = { waitsMs: [2_000, 8_000, 25_000, 60_000], connectMs: 20_000 };

/** While a server is kept down for it: enough for a process that died. With the time to notice a cut link it is back within half a minute. */
export const BRIEF: Patience = { waitsMs: [1_000, 3_000], connectMs: 5_000 };

/** A try that went on for so long was no failure in a row with the one before: a long transfer may be cut many times. */
const WENT_WELL_MS = 10 * 60_000;

/**
 * Failures that may pass by themselves: of the link, of a process at either end of it, and of locks that such a process leaves behind for some
 * seconds. What was refused, a full or broken disk, a source that can't be read and a void capture would be the same again.
 */
const PASSING: ReadonlySet<ErrorCode> = new Set(['connection-lost', 'sender-died', 'locked']);

export function mayPass({ code }: Pick<DrError, 'code'>): boolean {
  return PASSING.has(code);
}

/** How many tries in a row have failed, the one just ended included. */
export function failuresInARow(before: number, tookMs: number): number {
  return tookMs >= WENT_WELL_MS ? 1 : before + 1;
}

/** Milliseconds to wait before the next try after so many failures in a row; undefined when it is time to give up. */
export function waitAfter(patience: Patience, failures: number): number | undefined {
  return patience.waitsMs[failures - 1];
}

/** How many tries there are in all. */
export function triesOf(patience: Patience): number {
  return patience.waitsMs.length + 1;
}
