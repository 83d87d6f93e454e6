import { createInterface } from 'node:readline';
import { DrError, type ErrorData } from '../model/errors.js';
import { log } from '../system/log.js';
import { BlockPool } from './block-pool.js';
import { send, type SendOrder, type Sent } from './send.js';

/** Milliseconds between two reports of progress. */
const PROGRESS_MS = 250;

/** One line of JSON each on standard output. The last one is a result or an error. */
export type SenderLine =
  | { readonly kind: 'progress'; readonly done: number; readonly total: number; readonly sent: number }
  | { readonly kind: 'result'; readonly result: Sent }
  | { readonly kind: 'error'; readonly error: ErrorData };

/**
 * The body of `dr agent --send`: a process of its own, because a source that hangs takes the process that reads it along. The order
 * comes as one line of JSON on standard input; when standard input ends, the transfer is cancelled. Resolves to the exit status.
 */
export async function runSender(): Promise<number> {
  process.umask(0o077);
  const cancelled = new AbortController();
  const order = await firstLine(() => { cancelled.abort(); });
  if (order === undefined) return 1; // whoever started us is gone already
  const pool = new BlockPool();
  let last = 0;
  let status = 0;
  let line: SenderLine;
  try {
    const result = await send(order, {
      pool, signal: cancelled.signal,
      progress: (report) => {
        const now = Date.now();
        if (now - last < PROGRESS_MS && report.done < report.total) return;
        last = now;
        void print({ kind: 'progress', ...report });
      },
    });
    line = { kind: 'result', result };
  } catch (error) {
    const failure = DrError.from(error);
    if (failure.code === 'internal') log.error('sending failed in an unforeseen way', { error: error instanceof Error ? error.stack : String(error) });
    line = { kind: 'error', error: failure.toJSON() };
    status = 1;
  }
  await print(line);
  process.stdin.destroy();
  // Leaving in the ordinary way waits for all threads, and one that hangs in a read would keep us here for ever.
  if (!await pool.settled(0)) process.kill(process.pid, 'SIGKILL');
  await pool[Symbol.asyncDispose]();
  return status;
}

function print(line: SenderLine): Promise<void> {
  return new Promise((resolve) => {
    process.stdout.write(`${JSON.stringify(line)}\n`, () => { resolve(); }); // an agent that is gone closes our input too
  });
}

/** The order, if it came; `ended` is told when standard input ends after it. */
function firstLine(ended: () => void): Promise<SendOrder | undefined> {
  process.stdout.on('error', ended);
  return new Promise((resolve) => {
    const lines = createInterface({ input: process.stdin });
    lines.once('line', (text) => { resolve(JSON.parse(text) as SendOrder); }); // from our own agent
    lines.once('close', () => {
      resolve(undefined);
      ended();
    });
  });
}
