import { DrError, type ErrorCode } from '../model/errors.js';
import { log } from '../system/log.js';
import { lvmState } from '../system/lvm.js';
import { domainPausedReason } from '../system/virsh.js';
import type { DomainRef } from './owing.js';
import { fillOf, fillsUp, ruined, type Fill, type OpenSnapshot } from './snapshot-fill.js';

/** Looking after the snapshots of a live capture while it is open. */

/** Between the end of one look and the beginning of the next, in milliseconds. */
const LOOK_EVERY_MS = 1_000;
/** A volume group that does not say for this long how full its snapshots are can't be watched. */
const BLIND_AFTER_MS = 20_000;

type Volumes = Awaited<ReturnType<typeof lvmState>>['volumes'];

let asking: Promise<Volumes> | undefined;

/** All volumes now; captures that ask at the same time share one answer, since LVM takes its time. */
function volumesNow(): Promise<Volumes> {
  asking ??= lvmState().then(({ volumes }) => volumes).finally(() => { asking = undefined; });
  return asking;
}

export interface SnapshotWatchRequest {
  readonly maxSeconds: number;
  /** Whether the guest ran when the capture began: one that was paused by somebody else stays so. */
  readonly running: boolean;
}

/** Calls `giveUp`, once, when a snapshot is lost or going to be, or harms the guest. Call the returned function to end the watch. */
export function watchSnapshots(domain: DomainRef, request: SnapshotWatchRequest, snapshots: readonly OpenSnapshot[], giveUp: (why: DrError) => void): () => void {
  let over = false;
  let next: NodeJS.Timeout | undefined;
  const stop = (): void => {
    over = true;
    clearTimeout(next);
    clearTimeout(blind);
    clearTimeout(limit);
  };
  const end = (code: ErrorCode, why: string, hint: string): void => {
    if (over) return;
    stop();
    giveUp(new DrError(code, `the live capture of ${domain.server} was given up: ${why}. The server runs on; its images are untouched.`, hint));
  };
  const timer = (ms: number, act: () => void): NodeJS.Timeout => setTimeout(act, Math.min(ms, 2 ** 31 - 1)).unref();

  const limit = timer(request.maxSeconds * 1000, () => {
    end('timeout', `it was open for ${String(request.maxSeconds)} s, which is max_job_time`, 'A snapshot slows its server down. Raise max_job_time, or speed up the link.');
  });
  const newBlind = (): NodeJS.Timeout => timer(BLIND_AFTER_MS, () => {
    end('capture-failed', `it could not be seen for ${String(BLIND_AFTER_MS / 1000)} s how full its snapshots are`, 'Look at how long lvs takes on that node, and at /var/log/dr-lvm.log.');
  });
  let blind = newBlind();

  const before = new Map<string, Fill>();
  const look = async (): Promise<void> => {
    const began = performance.now();
    const volumes = await volumesNow();
    const at = performance.now();
    clearTimeout(blind);
    if (over) return;
    blind = newBlind();
    for (const snapshot of snapshots) {
      const why = ruined(snapshot, volumes);
      if (why !== undefined) end('snapshot-full', why, FULL_HINT);
      const fill = fillOf(snapshot, volumes);
      if (fill === undefined) continue;
      const soon = fillsUp(before.get(fill.what), { at, percent: fill.percent }, LOOK_EVERY_MS + at - began);
      if (soon !== undefined) end('snapshot-full', `${fill.what} ${soon}`, FULL_HINT);
      before.set(fill.what, { at, percent: fill.percent });
    }
    if (request.running && snapshots.some(({ volume }) => volume.pool !== undefined) && await domainPausedReason(domain.uri, domain.uuid) === 'I/O error') {
      end('snapshot-full', 'the guest was paused by an I/O error', FULL_HINT);
    }
  };
  const lookAgain = (): void => {
    next = timer(LOOK_EVERY_MS, () => {
      look().catch((error: unknown) => { log.warn(`the snapshots of ${domain.server} could not be looked at`, { error: DrError.from(error).message }); })
        .finally(() => { if (!over) lookAgain(); });
    });
  };
  lookAgain();
  return stop;
}

/** What to do about a snapshot or a pool that has no room. */
export const FULL_HINT = 'Raise snapshot_size (a thin pool: extend it), run the job when the server writes less, or use live: backup.';
