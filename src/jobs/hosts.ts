import { connect, type Agent } from '../agent/connect.js';
import type { Route } from '../agent/protocol.js';
import { DrError, type ErrorData } from '../model/errors.js';

/** The agents of one run: one per host, however many parts a host plays. */
export interface Hosts extends AsyncDisposable {
  /** Throws why it can't be reached, if it can't. */
  agent(host: string): Agent;
  failure(host: string): ErrorData | undefined;
  /** All that answered. */
  readonly agents: readonly Agent[];
}

/** Connects to all hosts at once. A host that can't be reached is no error until it is asked for. */
export async function connectAll(routes: readonly Route[], run: string): Promise<Hosts> {
  const distinct = [...new Map(routes.map((route) => [route.host, route])).values()];
  const settled = await Promise.allSettled(distinct.map((route) => connect(route, run)));
  const agents = new Map<string, Agent>();
  const failures = new Map<string, DrError>();
  settled.forEach((result, index) => {
    const host = distinct[index]?.host ?? '';
    if (result.status === 'fulfilled') agents.set(host, result.value);
    else failures.set(host, DrError.from(result.reason));
  });
  return {
    agent: (host) => {
      const agent = agents.get(host);
      if (agent !== undefined) return agent;
      throw failures.get(host) ?? new DrError('internal', `no connection to ${host} was asked for`);
    },
    failure: (host) => failures.get(host)?.toJSON(),
    agents: [...agents.values()],
    [Symbol.asyncDispose]: async () => { await Promise.all([...agents.values()].map((agent) => agent.close())); },
  };
}
