import { DrError } from '../model/errors.js';
import type { BlockFailure } from './block-jobs.js';
import { Refusal } from './refusals.js';

/** What goes wrong with blocks and files, as errors for people. */

const SAFE = 'The image being written was not completed; complete copies are untouched.';

/** What a failed block of the destination means; `patched`: of which only parts were sent. */
export function destinationFailure(path: string, offset: number, outcome: BlockFailure, patched = false): DrError {
  const where = `${path} at offset ${String(offset)}`;
  switch (outcome.kind) {
    case 'damaged-on-arrival': return new Refusal(patched ? 'patch-digest' : 'block-digest', `block at offset ${String(offset)}`);
    case 'not-what-was-written':
      return new DrError('digest-mismatch', `${where} gives back something else than was written. ${SAFE}`, 'Do not trust that disk: check its health (smartctl) and the kernel log.');
    case 'short': return new DrError('io', `${where} ended while it was read back. ${SAFE}`, 'Find out what made it smaller.');
    case 'error': return destinationError(where, outcome.code, outcome.message);
  }
}

/** What an error of a file at the destination means. */
export function destinationError(what: string, code: string, message: string): DrError {
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new DrError('no-space', `there is no space left to write ${what}. ${SAFE}`, 'Free space there, or lower copies; then run the job again: what has arrived is not sent again.');
  }
  return new DrError('io', `${what} can't be written: ${message}. ${SAFE}`, 'Check that disk and its file system (kernel log, dr check).');
}

/** What a failed block of the source means. Its code tells everyone that the destination is not to blame. */
export function sourceFailure(path: string, offset: number, outcome: BlockFailure): DrError {
  const why = outcome.kind === 'error' ? outcome.message : 'it ends early';
  return new DrError('source-failed', `the source ${path} can't be read at offset ${String(offset)}: ${why}. ${SAFE}`,
    'Check the disk of the server, or why the capture ended; then run the job again.');
}

/** A block that was said not to have changed has: what was taken on the same word before it may be wrong too. */
export function hintFailure(path: string, offset: number): DrError {
  return new DrError('source-failed', `the hint of what has changed in ${path} is wrong at offset ${String(offset)}, so what was sent is not what is there. ${SAFE}`,
    'Run the job again: the hint was dropped, and the whole disk is read.');
}

/** A block that was left out because the destination had it is asked for. */
export function leftOut(path: string, offset: number): DrError {
  return new DrError('source-failed', `the target has not any more what it had at offset ${String(offset)} when ${path} was written without it. ${SAFE}`, 'Find out who else writes to that image.');
}

/** A block of which the digest is known is another one. */
export function notAsCaptured(path: string, offset: number): DrError {
  return new DrError('source-failed', `${path} gives back something else at offset ${String(offset)} than was written to it. ${SAFE}`, 'Do not trust that drive: check its health (smartctl) and the kernel log.');
}

/** Any thrown value as a DrError; what the operating system says of a file of the destination becomes `no-space` or `io`. */
export function asDestinationError(what: string, thrown: unknown): DrError {
  if (thrown instanceof DrError) return thrown;
  if (thrown instanceof Error && 'errno' in thrown && 'code' in thrown) return destinationError(what, String(thrown.code), thrown.message);
  return DrError.from(thrown);
}
