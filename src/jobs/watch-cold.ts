import { DrError } from '../model/errors.js';
import type { JobContext } from './context.js';
import type { Hosts } from './hosts.js';
import type { LocatedServer } from './locate.js';

const EVERY_MS = 2_000;

/**
 * Watches all nodes of the Anvil while a server's disks are read cold: a start anywhere makes the capture void. A node that stops
 * answering is left to the end-of-capture checks and to the connection's own watch.
 */
export function watchCold(hosts: Hosts, { anvil }: JobContext, at: LocatedServer): { readonly signal: AbortSignal; stop(): void } {
  const found = new AbortController();
  let busy = false;
  const timer = setInterval(() => {
    if (busy) return;
    busy = true;
    void look().finally(() => { busy = false; });
  }, EVERY_MS);

  async function look(): Promise<void> {
    await Promise.all(anvil.nodes.filter((node) => hosts.failure(node) === undefined).map(async (node) => {
      const { states } = await hosts.agent(node).call('node.states', { uri: anvil.libvirt, names: [at.server] }).catch(() => ({ states: {} as Record<string, { state: string }> }));
      const state = states[at.server]?.state;
      if (state !== undefined && state !== 'shut off') {
        found.abort(new DrError('capture-void', `${at.server} was started on ${node} while its disks were read. Nothing of this capture was completed; older copies are untouched.`,
          'Run the job again when nobody else starts the server.'));
      }
    }));
  }
  return { signal: found.signal, stop: () => { clearInterval(timer); } };
}
