import { createInterface } from 'node:readline';
import { DrError } from '../model/errors.js';
import { start } from '../system/run.js';
import type { BlocksRead } from './read-blocks.js';

/**
 * Reads an image in a process of its own (a hung disk would leave ours unkillable) and compares it with the block digests in a file, if one is
 * given. `report` hears how many bytes are done. Throws `cancelled`, and `io` if the process ends without an answer.
 */
export async function readImage(path: string, bytes: number, digests: string | undefined, signal: AbortSignal, report: (done: number) => void): Promise<BlocksRead> {
  const cancelled = (): DrError => new DrError('cancelled', `reading ${path} was cancelled. Nothing was changed.`);
  if (signal.aborted) throw cancelled();
  const script = new URL('./read-blocks.js', import.meta.url).pathname;
  const child = start(process.execPath, [script, path, String(bytes), ...digests === undefined ? [] : [digests]], { stdio: ['pipe', 'pipe', 'inherit'] });
  return await new Promise<BlocksRead>((resolve, reject) => {
    let outcome: BlocksRead | undefined;
    const cancel = (): void => {
      child.kill('SIGKILL');
      reject(cancelled()); // not waiting: it may hang in the kernel
    };
    signal.addEventListener('abort', cancel, { once: true });
    child.once('error', (error) => { reject(new DrError('io', `${path} could not be read: ${error.message}`)); });
    child.once('close', (code) => {
      signal.removeEventListener('abort', cancel);
      if (outcome === undefined) reject(new DrError('io', `reading ${path} ended with status ${String(code)} and no answer. Nothing was changed.`, 'Run dr verify again.'));
      else resolve(outcome);
    });
    if (child.stdout === null) throw new DrError('internal', 'the reading process has no standard output');
    createInterface({ input: child.stdout }).on('line', (line) => {
      const said = JSON.parse(line) as BlocksRead | { readonly done: number };
      if ('done' in said) report(said.done);
      else outcome = said;
    });
  });
}
