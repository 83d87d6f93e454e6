import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import type { DataSource } from '../model/host.js';
import { readDomainXml } from '../system/domain-xml.js';
import { virtualSize, type BlockSource } from '../system/qemu.js';
import { dumpXml } from '../system/virsh.js';
import { readAttachments, type Attachments } from './attachments.js';
import { begin, isRunning, refuseForeignJobs, writeBackupXml } from './backup-job.js';
import { changesOf, dropCheckpoints, forgetCapture, forgetTracking, planTracking, shownSince, writeCheckpointXml, type Tracking } from './checkpoints.js';
import type { CaptureFacts } from './cold.js';
import { checkDisks, checkSize, type PlannedDisk } from './disks.js';
import { openExports, privateDirectory, type Exports } from './exports.js';
import { GivingUp } from './giving-up.js';
import { Holdings } from './holdings.js';
import { throwIfCancelled, type OpenCapture, type Verdict } from './open-captures.js';
import type { DomainRef, Owing } from './owing.js';
import { atOneInstant } from './quiesce.js';
import { checkRuns } from './running.js';
import { makeScratch, SOCKET, type ScratchRequest } from './scratch.js';
import { watch } from './watch.js';

export interface LiveRequest extends DomainRef, ScratchRequest {
  readonly disks: readonly PlannedDisk[];
  readonly nvram?: string;
  readonly tpm: boolean;
  /** A backup job blocks migration and save: after this it is ended, whatever happens. */
  readonly maxSeconds: number;
  /** From this capture on libvirt keeps bitmaps of what changes in qcow2 disks, so that the next one reads only that. */
  readonly keepBase?: boolean;
}

/**
 * Takes all disks of a running or paused server at one instant and makes that instant readable while the server runs on.
 * Throws `state-changed`, `refused`, `space`, `capture-failed`, `cancelled`; whatever it throws, the server runs on and nothing is left.
 */
export async function openLive(owing: Owing, id: string, request: LiveRequest, signal: AbortSignal): Promise<{ readonly facts: CaptureFacts; readonly capture: OpenCapture }> {
  const cancelled = (): void => { throwIfCancelled(signal); };
  const { running, pid } = await checkRuns(request);
  await refuseForeignJobs(request, request.disks);
  checkDisks(request, request.disks, (await readDomainXml(await dumpXml(request.uri, request.uuid, { inactive: false }))).disks);
  cancelled();

  const holdings = new Holdings(owing);
  const giving = new GivingUp(holdings);
  try {
    const directory = await privateDirectory(holdings, id);
    const scratch = await makeScratch(holdings, request, id, request.server, pid);
    const socket = join(scratch, SOCKET);
    const xmlPath = join(directory, 'backup.xml');
    await writeBackupXml(xmlPath, socket, scratch, request.disks);
    const planned = await planTracked(request, id, { directory, socket, scratch });
    await holdings.hold({ kind: 'backup', uri: request.uri, server: request.server, uuid: request.uuid, socket, dueAt: new Date(Date.now() + request.maxSeconds * 1000).toISOString() });
    cancelled();

    let attachments: Promise<Attachments> = Promise.resolve({});
    let untracked: DrError | undefined;
    const instant = await atOneInstant(owing, request, running, async () => {
      cancelled();
      untracked = planned && await failureToTrack(request, planned);
      if (planned === undefined || untracked !== undefined) await begin(request, xmlPath);
      attachments = readAttachments(request.server, request.uuid, request, directory);
      attachments.catch(() => undefined); // awaited below, when the guest has been thawed
    });
    const tracking = untracked === undefined ? planned?.tracking : undefined;
    giving.watch((giveUp) => watch(request, { ...request, scratch, running }, giveUp));
    if (planned !== undefined && untracked !== undefined) await forgetTracking(request, planned.tracking, untracked);
    const { nvram, tpm } = await attachments;
    cancelled();

    const exports = await openExports(holdings, directory, new Map(request.disks.map((disk): [string, BlockSource] =>
      [disk.target, { kind: 'nbd', socket, exportName: disk.target }])), cancelled);
    const sources: Record<string, DataSource> = {};
    for (const disk of request.disks) {
      const image = `nbd+unix:///${encodeURIComponent(disk.target)}?socket=${socket.split('/').map(encodeURIComponent).join('/')}`;
      checkSize(request, disk, await virtualSize(image, 'raw'));
      const changes = tracking === undefined ? {} : await changesOf(request, tracking, disk.target, socket, directory, signal);
      sources[disk.target] = { path: exports.paths.get(disk.target) ?? '', bytes: disk.bytes, direct: true, zeroMap: { image, format: 'raw' }, ...changes };
    }
    cancelled();
    return {
      facts: { ...instant, sources, ...(nvram === undefined ? {} : { nvram }), ...(tpm === undefined ? {} : { tpm }) },
      capture: giving.capture(() => judge(request, exports, socket), async ({ verdict }) => {
        if (verdict === 'void' && tracking !== undefined) await forgetCapture(tracking);
      }),
    };
  } catch (error) {
    throw await giving.abandon() ?? error;
  }
}

interface Tracked {
  readonly tracking: Tracking;
  readonly backupXml: string;
  readonly checkpointXml: string;
}

async function planTracked(request: LiveRequest, id: string, { directory, socket, scratch }: { readonly directory: string; readonly socket: string; readonly scratch: string }): Promise<Tracked | undefined> {
  if (request.keepBase !== true) {
    await dropCheckpoints(request);
    return undefined;
  }
  const tracking = await planTracking(request, id, request.disks);
  if (tracking === undefined) return undefined;
  const [backupXml, checkpointXml] = [join(directory, 'tracked-backup.xml'), join(directory, 'checkpoint.xml')];
  await writeBackupXml(backupXml, socket, scratch, request.disks, shownSince(tracking));
  await writeCheckpointXml(checkpointXml, tracking, request.disks);
  return { tracking, backupXml, checkpointXml };
}

/** Begins with bitmaps. Says why where that fails (one is broken, or the image is too old for them): then nothing has begun, and it is done without. */
async function failureToTrack(request: LiveRequest, { backupXml, checkpointXml }: Tracked): Promise<DrError | undefined> {
  try {
    await begin(request, backupXml, checkpointXml);
    return undefined;
  } catch (error) {
    return DrError.from(error);
  }
}

async function judge(domain: DomainRef, exports: Exports, socket: string): Promise<Verdict> {
  const broken = exports.broken();
  if (broken !== undefined) return { verdict: 'void', reason: broken };
  try {
    if (await isRunning(domain, socket)) return { verdict: 'valid' };
    return { verdict: 'void', reason: `the backup job of ${domain.server} ended before its disks were read; was the server shut down?` };
  } catch (error) {
    return { verdict: 'void', reason: `it can't be known whether the backup job of ${domain.server} lasted until its disks were read: ${DrError.from(error).message}` };
  }
}
