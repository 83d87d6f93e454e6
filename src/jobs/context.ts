import { hostname } from 'node:os';
import type { Route, StoreRef } from '../agent/protocol.js';
import { checkServersOfJob, resolveJob, type ResolvedJob } from '../config/lookup.js';
import type { Config, TargetConfig } from '../model/config.js';
import type { RunEvent } from '../model/run-event.js';

/** A job with everything its names refer to. */
export interface JobContext extends ResolvedJob {
  readonly config: Config;
}

/** Display of what goes on; nothing depends on it. */
export type Emit = (event: RunEvent) => void;

/** Throws `usage` if there is no such job. */
export function jobContext(config: Config, name: string): JobContext {
  return { config, ...resolveJob(config, name) };
}

/** The job with only some of its servers; all if none is named. Throws `usage` for a stranger. */
export function onlyServers(context: JobContext, wanted: readonly string[] | undefined): JobContext {
  if (wanted === undefined || wanted.length === 0) return context;
  checkServersOfJob(context.job, wanted);
  return { ...context, job: { ...context.job, servers: context.job.servers.filter((server) => wanted.includes(server)) } };
}

export function routeTo(config: Config, host: string): Route {
  return { host, agentCommand: config.agentCommand };
}

/** How hosts other than this one reach a host: `local` means something else to them. */
export function seenFromOthers(host: string): string {
  return host === 'local' ? hostname() : host;
}

export function storeOf(target: TargetConfig): StoreRef {
  return { store: target.store, allocation: target.allocation, current: target.current, definitions: target.definitions };
}
