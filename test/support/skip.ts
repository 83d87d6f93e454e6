import type { AsyncFunc, Context, Func } from 'mocha';

/** Where the reporter looks for the reason; on a test, or on a suite whose `before` hook skipped it. */
export const REASON = Symbol.for('reason for skipping');

/** Skips the running test, or from a `before` hook its whole suite, and says why in the test run's summary. */
export function skipBecause(context: Context, reason: string): never {
  const running = context.test;
  const marked = running !== undefined && 'type' in running && running.type === 'hook' ? running.parent : running;
  if (marked !== undefined) Object.assign(marked, { [REASON]: reason });
  return context.skip();
}

/** Whether `make soak` runs; what runs inside a virtual machine has the variable always. */
export const SOAK = (process.env['DR_SOAK'] ?? '') !== '';

/** A test that takes too long for `make test`, or is one more of its kind: `make soak` runs it. */
export function inSoak(title: string, test: Func | AsyncFunc): void {
  if (SOAK) it(title, test);
}
