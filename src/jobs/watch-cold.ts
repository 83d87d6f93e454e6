import { DrError } from '../model/errors.js';
import type { JobContext } from './context.js';
import type { Hosts } from './hosts.js';
import type { LocatedServer } from './locate.js';

const EVERY_MS = 2_000;

/**
 * Watches all nodes of the Anvil while a server's disks are read cold: a start anywhere makes the capture void. Each node is asked by
 * itself, so that a slow one hides no other. `lastLook`, after the last byte, throws also when a node can't be asked: then it can't be known.
 */
export function watchCold(hosts: Hosts, { anvil }: JobContext, at: LocatedServer): { readonly signal: AbortSignal; stop(): void; lastLook(): Promise<void> } {
  const found = new AbortController();
  const timers = anvil.nodes.map((node) => {
    let busy = false;
    return setInterval(() => {
      if (busy) return;
      busy = true;
      look(node).catch((error: unknown) => { // a node that is silent now is asked again, at the latest in the end
        if (DrError.from(error).code === 'capture-void') found.abort(error);
      }).finally(() => { busy = false; });
    }, EVERY_MS);
  });

  async function look(node: string): Promise<void> {
    const { states } = await hosts.agent(node).call('node.states', { uri: anvil.libvirt, names: [at.server] });
    const state = states[at.server]?.state;
    if (state === undefined || state === 'shut off') return;
    throw new DrError('capture-void', `${at.server} was started on ${node} while its disks were read. Nothing of this capture was completed; older copies are untouched.`,
      'Run the job again when nobody else starts the server.');
  }

  return {
    signal: found.signal,
    stop: () => { timers.forEach(clearInterval); },
    lastLook: async () => {
      await Promise.all(anvil.nodes.map(async (node) => {
        try {
          await look(node);
        } catch (error) {
          const failure = DrError.from(error);
          if (failure.code === 'capture-void') throw failure;
          throw new DrError('capture-void', `it can't be known that ${at.server} stayed off while its disks were read: ${failure.message} Nothing of this capture was completed; older copies are untouched.`, 'Run the job again when all nodes answer.');
        }
      }));
    },
  };
}
