import { appendFileSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { StepName } from '../model/steps.js';

const directory = process.env['DR_STEPS'];

/**
 * Announces that a named step has been reached. Does nothing unless the fault tests set DR_STEPS to a directory: then the
 * step is logged there (`log`: `<step> <pid>`), and if the file `stop-at` names it, the process stands still until the
 * file `go` appears or it is killed. `stop-at` holds `<step> <n>`: stop at the n-th time this file is honoured.
 */
export function step(name: StepName): void {
  if (directory === undefined) return;
  appendFileSync(join(directory, 'log'), `${name} ${String(process.pid)}\n`);
  const order = join(directory, 'stop-at');
  if (!existsSync(order)) return;
  const [wanted, count] = readFileSync(order, 'utf8').trim().split(' ');
  if (wanted !== name) return;
  if (Number(count ?? '1') > 1) {
    writeFileSync(order, `${name} ${String(Number(count) - 1)}`);
    return;
  }
  renameSync(order, join(directory, 'stopped-at'));
  writeFileSync(join(directory, 'reached'), `${name} ${String(process.pid)}\n`);
  const pause = new Int32Array(new SharedArrayBuffer(4));
  while (!existsSync(join(directory, 'go'))) Atomics.wait(pause, 0, 0, 20);
}
