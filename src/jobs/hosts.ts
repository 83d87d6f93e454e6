import { connect, type Agent } from '../agent/connect.js';
import type { Route } from '../agent/protocol.js';
import { DrError, type ErrorData } from '../model/errors.js';

/** The agents of one run: one per host, however many parts a host plays. */
export interface Hosts extends AsyncDisposable {
  /** Throws why it can't be reached, if it can't. */
  agent(host: string): Agent;
  /**
   * The host's agent, connected anew if its connection was lost: a new agent holds nothing of what the old one held, no lock either. Throws
   * `connection-lost` after `connectMs` milliseconds; nothing has changed then.
   */
  connected(host: string, connectMs: number): Promise<Agent>;
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
  const joining = new Map<string, Promise<Agent>>();
  settled.forEach((result, index) => {
    const host = distinct[index]?.host ?? '';
    if (result.status === 'fulfilled') agents.set(host, result.value);
    else failures.set(host, DrError.from(result.reason));
  });
  const agentOf = (host: string): Agent => {
    const agent = agents.get(host);
    if (agent !== undefined) return agent;
    throw failures.get(host) ?? new DrError('internal', `no connection to ${host} was asked for`);
  };
  const join = async (route: Route, connectMs: number): Promise<Agent> => {
    const agent = await connect(route, run, connectMs).catch((error: unknown) => {
      const { code, message, hint } = DrError.from(error);
      throw code === 'unreachable' ? new DrError('connection-lost', `the connection to ${route.host} was lost, and could not be made anew: ${message.replace(' Nothing was touched.', '')}`, hint) : error;
    });
    agents.set(route.host, agent);
    return agent;
  };
  return {
    agent: agentOf,
    connected: async (host, connectMs) => {
      const agent = agentOf(host);
      const route = distinct.find((one) => one.host === host);
      if (!agent.lost.aborted || route === undefined) return agent;
      const joined = joining.get(host) ?? join(route, connectMs).finally(() => joining.delete(host));
      joining.set(host, joined);
      return await joined;
    },
    failure: (host) => failures.get(host)?.toJSON(),
    get agents() { return [...agents.values()]; },
    [Symbol.asyncDispose]: async () => { await Promise.all([...agents.values()].map((agent) => agent.close())); },
  };
}
