import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { domainPausedReason } from '../system/virsh.js';
import type { DomainRef } from './owing.js';
import { freeBytes } from './scratch.js';

/** Looking after a guest while a live capture of it is open. */

const SPACE_EVERY_MS = 250;
const PAUSED_EVERY_MS = 2_000;
/** A scratch place that does not say how full it is for this long hangs. */
const HUNG_AFTER_MS = 5_000;

export interface WatchRequest {
  readonly scratch: string;
  readonly scratchReserveBytes: number;
  readonly maxSeconds: number;
  /** Whether the guest ran when the capture began: one that was paused by somebody else stays so. */
  readonly running: boolean;
}

/** Calls `giveUp`, once, when going on would harm the guest. Call the returned function to end the watch. */
export function watch(domain: DomainRef, request: WatchRequest, giveUp: (why: DrError) => void): () => void {
  let over = false;
  const stop = (): void => {
    over = true;
    clearInterval(space);
    clearInterval(paused);
    clearTimeout(limit);
  };
  const end = (code: 'scratch-full' | 'timeout', why: string, hint: string): void => {
    if (over) return;
    stop();
    giveUp(new DrError(code, `the live capture of ${domain.server} was given up: ${why}. The server runs on; its images are untouched.`, hint));
  };
  const full = 'Give scratch: more room, or run the job when the server writes less.';

  let asked: number | undefined;
  const space = setInterval(() => {
    if (asked !== undefined) {
      if (Date.now() - asked > HUNG_AFTER_MS) end('scratch-full', `the scratch place ${request.scratch} does not answer`, 'Check the storage that it is on.');
      return;
    }
    asked = Date.now();
    freeBytes(request.scratch).then((free) => {
      asked = undefined;
      if (free < request.scratchReserveBytes / 2) end('scratch-full', `only ${String(free)} bytes are left in the scratch place ${request.scratch}`, full);
    }, (error: unknown) => { end('scratch-full', `the scratch place ${request.scratch} is gone: ${DrError.from(error).message}`, 'Check the storage that it is on.'); });
  }, SPACE_EVERY_MS);

  let asking = false;
  const paused = setInterval(() => {
    if (asking || !request.running) return;
    asking = true;
    domainPausedReason(domain.uri, domain.uuid).then((reason) => {
      if (reason === 'I/O error') end('scratch-full', 'the guest was paused by an I/O error', full);
    }, (error: unknown) => { log.warn(`${domain.server} could not be asked for its state`, { error: DrError.from(error).message }); })
      .finally(() => { asking = false; });
  }, PAUSED_EVERY_MS);

  const limit = setTimeout(() => {
    end('timeout', `it was open for ${String(request.maxSeconds)} s, which is max_job_time`, 'A backup job blocks migration and save. Raise max_job_time, or speed up the link.');
  }, Math.min(request.maxSeconds * 1000, 2 ** 31 - 1));
  for (const timer of [space, paused, limit]) timer.unref();
  return stop;
}
