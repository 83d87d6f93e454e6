import type { JobContext } from './context.js';
import { routeTo } from './context.js';
import { connectAll, type Hosts } from './hosts.js';

/** Connects to every host that a job touches: the Anvil's nodes and the targets. */
export function connectJob({ config, anvil, targets }: JobContext, run: string): Promise<Hosts> {
  return connectAll([...anvil.nodes, ...targets.map((target) => target.host)].map((host) => routeTo(config, host)), run);
}
