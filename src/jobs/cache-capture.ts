import { randomBytes } from 'node:crypto';
import type { Agent } from '../agent/connect.js';
import type { Capture } from '../agent/protocol.js';
import { expectedBytes } from '../cache/place.js';
import type { TargetConfig } from '../model/config.js';
import { DrError } from '../model/errors.js';
import { DIGEST_BYTES, geometry } from '../transfer/geometry.js';
import { commonDigests, type Recycled } from './common-digests.js';
import { routeTo, storeOf } from './context.js';
import type { ServerRun } from './image-server.js';
import type { LocatedServer } from './locate.js';
import { persist } from './persist.js';
import type { CachePlace, PlannedServer } from './plan-job.js';
import { transfer, type DiskSource } from './transfer.js';

/** Files on cache drives for the disks of one server, made before it is captured. */
export interface CacheRoom {
  /** By disk name. */
  readonly files: Readonly<Record<string, CacheFile>>;
  /** Safe to call twice. */
  remove(): Promise<void>;
}

interface CacheFile {
  /** Of the drive's host. */
  readonly keeper: Agent;
  readonly device: string;
  readonly path: string;
  /** There are the digests of the blocks that all targets have: they are left out. Absent: that is not known. */
  readonly without?: string;
}

/**
 * Makes a file for every disk on the cache drive that the plan gave it, with the digests of the blocks that need not be written there. Undefined when a drive failed:
 * a lost cache costs the run its cache, not its servers. Throws on cancellation.
 */
export async function roomInCache(server: ServerRun, cache: NonNullable<PlannedServer['cache']>, targets: readonly TargetConfig[]): Promise<CacheRoom | undefined> {
  const { plan: { at } } = server;
  const files: Record<string, CacheFile> = {};
  const remove = async (): Promise<void> => {
    for (const { keeper, path } of Object.values(files)) await keeper.call('cache.remove', { path }).catch(() => undefined); // owed: its host removes it when the session ends
  };
  try {
    const run = randomBytes(8).toString('hex');
    for (const disk of at.disks) {
      const place = cache[disk.disk];
      if (place === undefined) throw new DrError('internal', `no cache place for ${disk.disk}`);
      files[disk.disk] = await makeFile(server, run, disk, place, targets);
    }
    return { files, remove };
  } catch (error) {
    await remove();
    return withoutCache(server, error);
  }
}

/** Tries first with what is known of the targets; for as long as that is not known to the disk's end, the file is made for the whole disk. */
async function makeFile(server: ServerRun, run: string, disk: LocatedServer['disks'][number], place: CachePlace, targets: readonly TargetConfig[]): Promise<CacheFile> {
  const { plan: { at }, context: { config, anvil }, hosts, signal } = server;
  const keeper = hosts.agent(place.node);
  await keeper.call('cache.open', { device: place.device, signature: config.cacheSignature, uri: anvil.libvirt }, { signal });
  const allocate = (expected: { readonly expectedBytes?: number }): Promise<{ path: string }> =>
    keeper.call('cache.allocate', { device: place.device, run, name: `${at.server}_${disk.disk}`, bytes: disk.bytes, ...expected }, { signal });

  const digests = commonDigests(recycledBy(server, disk, targets), signal);
  const next = async (): Promise<Buffer | undefined> => {
    const piece = await digests.next().catch(() => undefined); // a target that does not answer now is told when it is its turn
    return piece?.done === false ? piece.value : undefined;
  };
  const first = await next();
  if (first === undefined) return { keeper, device: place.device, ...await allocate({}) };

  const { path } = await allocate({ expectedBytes: expectedBytes({ bytes: disk.bytes, partial: true }) });
  let [told, without] = [0, ''];
  try {
    for (let piece: Buffer | undefined = first; piece !== undefined; piece = await next()) {
      ({ without } = await keeper.call('cache.without', { path, digests: piece.toString('base64') }, { signal }));
      told += piece.length;
    }
  } catch {
    // What can't be noted is not left out.
  }
  if (told === geometry(disk.bytes).blocks * DIGEST_BYTES) return { keeper, device: place.device, path, without };
  await keeper.call('cache.remove', { path }, { signal });
  return { keeper, device: place.device, ...await allocate({}) };
}

/** The images that the targets are going to write over; none unless each of them has one of which enough is known. */
function recycledBy({ plan, context: { config }, hosts }: ServerRun, { disk, bytes }: LocatedServer['disks'][number], targets: readonly TargetConfig[]): Recycled {
  const recycled = targets.flatMap((target) => {
    const set = plan.targets.find((planned) => planned.target.name === target.name)?.recycled[disk];
    return set === undefined ? [] : [{ agent: hosts.agent(target.host), image: { store: storeOf(target), set, disk, bytes, reproveAfterSeconds: config.reproveAfterSeconds } }];
  });
  return recycled.length === targets.length ? recycled : [];
}

/**
 * Copies every disk of an open capture into its file on a cache drive; what is read there has the digests of what was captured. Undefined when a drive failed. Throws when
 * the source failed, or on cancellation.
 */
export async function cacheCapture(server: ServerRun, capture: Capture, room: CacheRoom, signal: AbortSignal): Promise<Readonly<Record<string, DiskSource>> | undefined> {
  const node = server.hosts.agent(server.plan.at.node);
  const sources: Record<string, DiskSource> = {};
  try {
    for (const disk of server.plan.at.disks) {
      const source = capture.sources[disk.target];
      const file = room.files[disk.disk];
      if (source === undefined || file === undefined) throw new DrError('internal', `no cache place for ${disk.disk}`);
      sources[disk.target] = await cacheDisk(server, disk.disk, { agent: node, source }, file, signal);
    }
    return sources;
  } catch (error) {
    await room.remove();
    const failure = DrError.from(error);
    if (signal.aborted || node.lost.aborted || failure.code === 'source-failed') throw error;
    return withoutCache(server, error);
  }
}

async function cacheDisk(server: ServerRun, disk: string, from: DiskSource, { keeper, device, path, without }: CacheFile, signal: AbortSignal): Promise<DiskSource> {
  const { plan: { at }, context: { config }, emit } = server;
  const first = without === undefined ? 'fresh' : { without };
  let again = false;
  const moved = await persist(async () => {
    const start = again && without === undefined ? 'read' : first; // what a try that failed has written is not written again
    again = true;
    return await transfer({
      from, to: keeper, route: routeTo(config, keeper.host === at.node ? 'local' : keeper.host), path, start, readBack: false, bandwidth: [], signal,
      show: { emit, what: 'caching', server: at.server, disk, to: device },
    });
  }, {
    // A drive is let go of with its agent, and a capture with its own.
    patience: server.patience, signal: AbortSignal.any([signal, from.agent.lost, keeper.lost]), what: `caching ${at.server} disk ${disk} on ${device}`, told: (note) => { server.note(note); },
  });
  if (moved.note !== undefined) server.note(`${at.server} disk ${disk}: ${moved.note}`);
  const { bytes } = from.source;
  return {
    agent: keeper, digest: moved.digest,
    source: { path, bytes, direct: true, ...(without === undefined ? { zeroMap: { image: path, format: 'raw' } } : { partial: { ticket: moved.ticket, base: without } }) },
  };
}

function withoutCache(server: ServerRun, error: unknown): undefined {
  if (server.signal.aborted) throw error;
  const failure = DrError.from(error);
  if (failure.code === 'cancelled') throw error;
  server.note(`${server.plan.at.server} goes straight to the targets: the cache could not be used (${failure.message}) in job ${server.context.job.name}`);
  return undefined;
}
