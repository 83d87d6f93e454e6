import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import type { Surroundings } from './invocation.js';
import { processTerminal } from './terminal.js';

/** How long after the exit status is known something may still keep the process alive, in milliseconds. */
const LINGER_MS = 3_000;

/**
 * Gives a program this process's surroundings. The first Ctrl-C (or SIGTERM, SIGHUP) asks it to stop and clean up, and nothing shortens
 * that: what it started on other hosts has to be put right. Resolves with the exit status.
 */
export async function interruptible(program: (surroundings: Surroundings) => Promise<number>): Promise<number> {
  const terminal = processTerminal();
  const cancel = new AbortController();
  const stop = (signal: NodeJS.Signals): void => {
    if (cancel.signal.aborted) terminal.err('still cleaning up: servers are brought back and nothing is left behind; please wait\n');
    else cancel.abort(new DrError('cancelled', `cancelled by ${signal === 'SIGINT' ? 'Ctrl-C' : signal}`));
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
  const status = await program({ terminal, env: process.env, signal: cancel.signal, wiring: () => import('./wiring.js') });
  // All work is done and awaited; a handle that was forgotten must not keep a cron job or a person waiting.
  setTimeout(() => {
    log.warn('something kept the process alive after its work was done');
    process.exit();
  }, LINGER_MS).unref();
  return status;
}
