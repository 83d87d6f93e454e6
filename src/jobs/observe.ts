import type { Params } from '../agent/protocol.js';
import { DrError, type ErrorData } from '../model/errors.js';
import type { Space } from '../model/host.js';
import type { ServerOnTarget } from '../model/rotation.js';
import { storeOf, type JobContext } from './context.js';
import type { Hosts } from './hosts.js';
import type { LocatedServer, NodeSeen } from './locate.js';

/** What a run looks at before it decides. Reading only. */

export type TargetSeen =
  | { readonly kind: 'seen'; readonly target: string; readonly servers: readonly ServerOnTarget[]; readonly space: Space }
  | { readonly kind: 'unreachable'; readonly target: string; readonly error: ErrorData };

/** Asks every node of the Anvil for the job's servers and for cache drives, all at once. */
export async function observeNodes(hosts: Hosts, { anvil, job, config }: JobContext): Promise<NodeSeen[]> {
  return Promise.all(anvil.nodes.map(async (host): Promise<NodeSeen> => {
    try {
      const agent = hosts.agent(host);
      const { servers } = await agent.call('node.servers', {
        uri: anvil.libvirt, names: [...job.servers], ...(anvil.definitions === undefined ? {} : { definitions: anvil.definitions }),
        ...(job.capture === 'live' && job.live === 'lvm' ? { snapshotSize: job.snapshotSize } : {}),
      });
      const { drives } = await agent.call('node.cacheDrives', { signature: config.cacheSignature, uri: anvil.libvirt });
      return { kind: 'seen', host, servers, drives };
    } catch (error) {
      return { kind: 'unreachable', host, error: DrError.from(error).toJSON() };
    }
  }));
}

/** Asks every target what it has of the located servers. */
export async function observeTargets(hosts: Hosts, { targets, anvil, job }: JobContext, located: readonly LocatedServer[]): Promise<TargetSeen[]> {
  const servers: Params<'store.observe'>['servers'] = located.map(({ server, uuid, disks }) => ({
    server, uuid, anvil: anvil.name, disks: disks.map(({ disk }) => disk), copies: job.copies,
  }));
  return Promise.all(targets.map(async (target): Promise<TargetSeen> => {
    try {
      const seen = await hosts.agent(target.host).call('store.observe', { store: storeOf(target), servers });
      return { kind: 'seen', target: target.name, servers: seen.servers, space: seen.space };
    } catch (error) {
      return { kind: 'unreachable', target: target.name, error: DrError.from(error).toJSON() };
    }
  }));
}
