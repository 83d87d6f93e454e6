import { stat } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import type { SnapshotSize } from '../model/config.js';
import type { DataSource } from '../model/host.js';
import { readDomainXml } from '../system/domain-xml.js';
import { activateVolume, lvmState, snapshotVolume, type Volume } from '../system/lvm.js';
import { deviceNumber } from '../system/mounts.js';
import { backingChain, type BlockSource, type ChainLink } from '../system/qemu.js';
import { run } from '../system/run.js';
import { step } from '../system/steps.js';
import { dumpXml } from '../system/virsh.js';
import { readAttachments, type Attachments } from './attachments.js';
import { refuseForeignJobs } from './backup-job.js';
import { forgetCapture, hintFrom, keepAsBase, tidyBases } from './bases.js';
import type { CaptureFacts } from './cold.js';
import { checkDisks, checkSize, type PlannedDisk } from './disks.js';
import { openExports, privateDirectory, type Exports } from './exports.js';
import { GivingUp } from './giving-up.js';
import { Holdings } from './holdings.js';
import { throwIfCancelled, type OpenCapture, type Verdict } from './open-captures.js';
import type { DomainRef, Owing } from './owing.js';
import { asTag, isOurs, ownerTag } from './pay-snapshot.js';
import { atOneInstant, type Instant } from './quiesce.js';
import { checkRuns } from './running.js';
import { ruined, type OpenSnapshot } from './snapshot-fill.js';
import { planSnapshots, type PlannedSnapshot } from './snapshot-plan.js';
import { FULL_HINT, watchSnapshots } from './snapshot-watch.js';
import { isPaused, whileSuspended } from './suspend.js';

export interface SnapshotRequest extends DomainRef {
  readonly disks: readonly PlannedDisk[];
  readonly nvram?: string;
  readonly tpm: boolean;
  readonly snapshotSize: SnapshotSize;
  /** A snapshot slows its server down: after this it is removed, whatever happens. */
  readonly maxSeconds: number;
  /** The snapshots of raw disks in thin pools are kept once they have been sent, so that the next capture reads only what changed. */
  readonly keepBase?: boolean;
}

/** A snapshot that is going to be made. */
interface Named extends PlannedSnapshot {
  readonly name: string;
}

/**
 * Takes all disks of a running or paused server at one instant by LVM snapshots, which can be read while the server runs on. Throws
 * `disk-unsupported`, `space`, `state-changed`, `refused`, `store-unusable`, `capture-failed`, `cancelled`; whatever it throws, the server runs on
 * and nothing is left.
 */
export async function openSnapshots(owing: Owing, id: string, request: SnapshotRequest, signal: AbortSignal): Promise<{ readonly facts: CaptureFacts; readonly capture: OpenCapture }> {
  const cancelled = (): void => { throwIfCancelled(signal); };
  const { running, pid } = await checkRuns(request);
  await refuseForeignJobs(request, request.disks);
  checkDisks(request, request.disks, (await readDomainXml(await dumpXml(request.uri, request.uuid, { inactive: false }))).disks);
  const chains = await chainsOf(request);
  const named = (await planOf(request)).map((planned, index): Named => ({ ...planned, name: `dr_${id.slice(0, 8)}_${String(index)}` }));
  cancelled();

  const holdings = new Holdings(owing);
  const giving = new GivingUp(holdings);
  try {
    const directory = await privateDirectory(holdings, id);
    const dueAt = new Date(Date.now() + request.maxSeconds * 1000).toISOString();
    for (const { origin, name, bytes } of named) {
      await holdings.hold({ kind: 'snapshot', uri: request.uri, server: request.server, uuid: request.uuid, vg: origin.vg, name, owner: owing.session, thin: bytes === 'thin', dueAt });
    }
    // What the host keeps of the guest's writes is written out before, so that the guest stands still for a short time only.
    await run('sync', ['--data', ...named.map(({ origin }) => origin.path)], { timeoutMs: 120_000 });
    cancelled();

    let attachments: Promise<Attachments> = Promise.resolve({});
    const instant = await takeInstant(owing, request, { running, pid }, needsStandstill(request), async () => {
      cancelled();
      await createAll(request, named, owing.session);
      attachments = readAttachments(request.server, request.uuid, request, directory);
      attachments.catch(() => undefined); // awaited below, when the guest runs on
    });
    const snapshots = await openAll(named, owing.session);
    giving.watch((giveUp) => watchSnapshots(request, { maxSeconds: request.maxSeconds, running }, snapshots, giveUp));
    const { nvram, tpm } = await attachments;
    cancelled();

    const exports = await openExports(holdings, directory, wrapped(request, chains, snapshots), cancelled);
    const hints = await hintsFor(request, snapshots, directory);
    const sources = Object.fromEntries(request.disks.map((disk, index): [string, DataSource] => {
      const device = snapshots[index]?.volume.path ?? '';
      const zeroMap = disk.format === 'raw' ? {} : { zeroMap: { image: device, format: disk.format } };
      return [disk.target, { path: exports.paths.get(disk.target) ?? device, bytes: disk.bytes, direct: true, ...zeroMap, ...hints.get(disk.target) }];
    }));
    cancelled();
    return {
      facts: { ...instant, sources, ...(nvram === undefined ? {} : { nvram }), ...(tpm === undefined ? {} : { tpm }) },
      capture: giving.capture(() => judge(request, exports, snapshots), (verdict) => keepBases(request, owing, snapshots, verdict)),
    };
  } catch (error) {
    throw await giving.abandon() ?? error;
  }
}

/** What each disk is made of: a disk that is not raw must not have parts outside its own volume that are written to. Throws `disk-unsupported`. */
async function chainsOf(request: SnapshotRequest): Promise<ReadonlyMap<string, readonly ChainLink[]>> {
  const chains = new Map<string, readonly ChainLink[]>();
  for (const disk of request.disks) {
    const chain = await backingChain(disk.path, disk.format);
    checkSize(request, disk, chain[0]?.bytes ?? 0);
    if (chain[0]?.dataFile !== undefined) {
      throw new DrError('disk-unsupported', `cannot capture ${request.server} with live: lvm: disk ${disk.target} keeps its data in another place than its volume (${chain[0].dataFile}). Nothing was touched.`, 'Use live: backup.');
    }
    chains.set(disk.target, chain);
  }
  return chains;
}

async function planOf(request: SnapshotRequest): Promise<readonly PlannedSnapshot[]> {
  const disks = await Promise.all(request.disks.map(async ({ target, path }) => ({ target, path, device: await deviceNumber(path) })));
  const state = await lvmState();
  const tidied = await tidyBases(request.server, request.keepBase === true, state.volumes);
  return planSnapshots(request.server, disks, tidied ? await lvmState() : state, request.snapshotSize);
}

/** One snapshot is an instant by itself, as far as the volume's own bytes go; several, or what QEMU keeps in its memory of a qcow2 image, are not. */
function needsStandstill({ disks }: SnapshotRequest): boolean {
  return disks.length > 1 || disks.some(({ format }) => format !== 'raw');
}

async function takeInstant(owing: Owing, request: SnapshotRequest, guest: { readonly running: boolean; readonly pid: number }, standstill: boolean, act: () => Promise<void>): Promise<Instant> {
  let stoodMs = 0;
  const instant = await atOneInstant(owing, request, guest.running, async (frozen) => {
    if (guest.running && standstill) {
      stoodMs = await whileSuspended(owing, request, guest.pid, frozen, act);
      return;
    }
    await act();
    if (standstill && !await isPaused(request)) {
      throw new DrError('capture-failed', `${request.server} was paused and runs now: its disks were not taken at one instant. Its images are untouched.`, 'Run the job again.');
    }
  });
  return { ...instant, frozenMs: Math.max(instant.frozenMs, stoodMs) };
}

/** All at once: LVM does one after the other anyway, but the programs start meanwhile. */
async function createAll(request: SnapshotRequest, named: readonly Named[], owner: string): Promise<void> {
  step('snapshot-before-create');
  const made = await Promise.allSettled(named.map(({ origin, name, bytes }) =>
    snapshotVolume({ vg: origin.vg, origin: origin.name, name, bytes, tags: [ownerTag(owner), `dr.of=${asTag(request.server)}`] })));
  step('snapshot-after-create');
  const failed = made.find((each) => each.status === 'rejected');
  if (failed === undefined) return;
  const failure = DrError.from(failed.reason);
  throw new DrError(failure.code === 'no-space' ? 'space' : 'capture-failed', `the live capture of ${request.server} could not begin: ${failure.message}. The server runs on.`, failure.hint, { cause: failure });
}

/** Makes the snapshots readable; each is looked up by its name and our tags, and known by its UUID from here on. */
async function openAll(named: readonly Named[], owner: string): Promise<readonly OpenSnapshot[]> {
  const find = async (): Promise<readonly OpenSnapshot[]> => {
    const { volumes } = await lvmState();
    return named.map(({ origin, name, covers }) => {
      const volume = volumes.find((each) => each.vg === origin.vg && each.name === name && isOurs(each, owner));
      if (volume === undefined) throw new DrError('capture-failed', `the snapshot ${origin.vg}/${name} is not there after it was made. The server runs on.`, 'Look at /var/log/dr-lvm.log on that node.');
      return { volume, covers };
    });
  };
  let snapshots = await find();
  const asleep = snapshots.filter(({ volume }) => !volume.active); // thin snapshots are made so
  for (const { volume } of asleep) await activateVolume(volume);
  if (asleep.length > 0) snapshots = await find();
  for (const { volume } of snapshots) {
    const device = await stat(volume.path).catch(() => undefined); // told below
    if (device?.isBlockDevice() !== true) throw new DrError('capture-failed', `the snapshot ${volume.vg}/${volume.name} has no device ${volume.path}. The server runs on.`, 'Is udev running on that node?');
  }
  return snapshots;
}

/** Disks that are not raw are shown by a storage daemon, which reads the snapshot in the place of the volume. */
function wrapped(request: SnapshotRequest, chains: ReadonlyMap<string, readonly ChainLink[]>, snapshots: readonly OpenSnapshot[]): ReadonlyMap<string, BlockSource> {
  const sources = new Map<string, BlockSource>();
  for (const [index, disk] of request.disks.entries()) {
    const [top, ...below] = chains.get(disk.target) ?? [];
    const snapshot = snapshots[index];
    if (disk.format === 'raw' || top === undefined || snapshot === undefined) continue;
    sources.set(disk.target, { kind: 'chain', chain: [{ ...top, path: snapshot.volume.path }, ...below] });
  }
  return sources;
}

/** Whose blocks are the volume's own: of these the pool can say what has changed. */
function kept({ disks, keepBase }: SnapshotRequest, snapshots: readonly OpenSnapshot[]): readonly { readonly target: string; readonly volume: Volume }[] {
  return keepBase !== true ? [] : disks.flatMap(({ target, format }, index) => {
    const volume = snapshots[index]?.volume;
    return format === 'raw' && volume?.kind === 'thin' ? [{ target, volume }] : [];
  });
}

async function hintsFor(request: SnapshotRequest, snapshots: readonly OpenSnapshot[], directory: string): Promise<ReadonlyMap<string, Partial<DataSource>>> {
  const disks = kept(request, snapshots);
  if (disks.length === 0) return new Map();
  const { volumes } = await lvmState();
  return new Map(await Promise.all(disks.map(async ({ target, volume }) => [target, await hintFrom(request.server, target, volume, volumes, directory)] as const)));
}

/** A base is kept of what counts, and forgotten otherwise; to be done before the snapshots are let go of. */
async function keepBases(request: SnapshotRequest, owing: Owing, snapshots: readonly OpenSnapshot[], { verdict }: Verdict): Promise<void> {
  for (const { target, volume } of kept(request, snapshots)) {
    await (verdict === 'valid' ? keepAsBase(request.server, target, volume, owing.session) : forgetCapture(volume));
  }
}

/** Only what LVM says after the last byte was read counts: a snapshot that ran full in between gives errors, or nothing at all. */
async function judge(domain: DomainRef, exports: Exports, snapshots: readonly OpenSnapshot[]): Promise<Verdict> {
  const broken = exports.broken();
  if (broken !== undefined) return { verdict: 'void', reason: broken };
  try {
    const { volumes } = await lvmState(); // not a shared answer, which may be older
    const why = snapshots.map((snapshot) => ruined(snapshot, volumes)).find((each) => each !== undefined);
    if (why === undefined) return { verdict: 'valid' };
    const error = new DrError('snapshot-full', `the live capture of ${domain.server} is void: ${why}. The server runs on; its images are untouched.`, FULL_HINT);
    return { verdict: 'void', reason: why, error: error.toJSON() };
  } catch (error) {
    return { verdict: 'void', reason: `it can't be known whether the snapshots of ${domain.server} lasted until they were read: ${DrError.from(error).message}` };
  }
}
