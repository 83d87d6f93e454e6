import type { SnapshotSize } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { ServerSeen } from '../model/server.js';
import { lvmState } from '../system/lvm.js';
import { deviceNumber } from '../system/mounts.js';
import { planSnapshots } from './snapshot-plan.js';

/** Notes with each running server whether its disks could be taken by LVM snapshots now, and if not why. Changes nothing. */
export async function seeSnapshots(servers: readonly ServerSeen[], size: SnapshotSize): Promise<ServerSeen[]> {
  const running = servers.filter(({ state }) => state !== 'shut off');
  if (running.length === 0) return [...servers];
  const state = await lvmState().catch((error: unknown) => DrError.from(error));
  return Promise.all(servers.map(async (server): Promise<ServerSeen> => {
    if (!running.includes(server) || server.disks.some(({ problem }) => problem !== undefined)) return server;
    try {
      if (state instanceof DrError) throw new DrError(state.code, `cannot capture ${server.name} with live: lvm: ${state.message}. Nothing was touched.`, state.hint);
      const disks = await Promise.all(server.disks.map(async ({ target, path = '' }) => ({ target, path, device: await deviceNumber(path) })));
      planSnapshots(server.name, disks, state, size);
      return server;
    } catch (error) {
      return { ...server, snapshotProblem: DrError.from(error).toJSON() };
    }
  }));
}
