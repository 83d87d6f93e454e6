import type { Agent } from '../agent/connect.js';
import type { Capture } from '../agent/protocol.js';
import { DrError } from '../model/errors.js';
import { routeTo } from './context.js';
import type { DiskSource } from './deliver.js';
import type { ServerRun } from './image-server.js';
import { persist } from './persist.js';
import type { PlannedServer } from './plan-job.js';
import { transfer } from './transfer.js';

/** A capture whose bytes are on cache drives: it can be read there after the server is back. */
export interface CachedCapture {
  /** By disk target (`vda`). */
  readonly sources: Readonly<Record<string, DiskSource>>;
  remove(): Promise<void>;
}

/**
 * Copies every disk of an open capture to the cache drives that the plan gave it. Undefined when a drive failed:
 * a lost cache costs the run its cache, not its servers. Throws when the source failed, or on cancellation.
 */
export async function cacheCapture(server: ServerRun, capture: Capture, cache: NonNullable<PlannedServer['cache']>, signal: AbortSignal, note: (text: string) => void): Promise<CachedCapture | undefined> {
  const { plan: { at }, context: { config, job }, hosts, emit } = server;
  const node = hosts.agent(at.node);
  const made: { agent: Agent; path: string }[] = [];
  const remove = async (): Promise<void> => {
    for (const { agent, path } of made.splice(0)) await agent.call('cache.remove', { path }).catch(() => undefined); // owed: its node removes it when the session ends
  };
  const sources: Record<string, DiskSource> = {};
  try {
    for (const disk of at.disks) {
      const source = capture.sources[disk.target];
      const drive = cache[disk.disk];
      if (source === undefined || drive === undefined) throw new DrError('internal', `no cache place for ${disk.disk}`);
      const keeper = hosts.agent(drive.node);
      await keeper.call('cache.open', { device: drive.device, signature: config.cacheSignature, uri: server.context.anvil.libvirt }, { signal });
      const { path } = await keeper.call('cache.allocate', { device: drive.device, run: capture.id, name: `${at.server}_${disk.disk}`, bytes: source.bytes }, { signal });
      made.push({ agent: keeper, path });
      let start: 'fresh' | 'read' = 'fresh';
      const moved = await persist(async () => {
        const order = {
          from: { agent: node, source }, to: keeper, route: drive.node === at.node ? routeTo(config, 'local') : routeTo(config, drive.node),
          path, start, readBack: false, bandwidth: [], signal, show: { emit, what: 'caching' as const, server: at.server, disk: disk.disk, to: drive.device },
        };
        start = 'read'; // what a try that failed has written is not written again
        return await transfer(order);
      }, {
        // A drive is let go of with its agent, and a capture with its own.
        patience: server.patience, signal: AbortSignal.any([signal, node.lost, keeper.lost]), what: `caching ${at.server} disk ${disk.disk} on ${drive.device}`, told: note,
      });
      if (moved.note !== undefined) note(`${at.server} disk ${disk.disk}: ${moved.note}`);
      sources[disk.target] = {
        agent: keeper, digest: moved.digest,
        source: { path, bytes: source.bytes, direct: true, zeroMap: { image: path, format: 'raw' } },
      };
    }
    return { sources, remove };
  } catch (error) {
    await remove();
    const failure = DrError.from(error);
    if (signal.aborted || node.lost.aborted || failure.code === 'source-failed' || failure.code === 'cancelled') throw error;
    note(`${at.server} goes straight to the targets: the cache could not be used (${failure.message}) in job ${job.name}`);
    return undefined;
  }
}
