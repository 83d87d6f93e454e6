import { hostname } from 'node:os';
import type { Route, StoreRef } from '../agent/protocol.js';
import type { AnvilConfig, Config, JobConfig, TargetConfig } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { RunEvent } from '../model/run-event.js';

/** A job with everything its names refer to. */
export interface JobContext {
  readonly config: Config;
  readonly job: JobConfig;
  readonly anvil: AnvilConfig;
  readonly targets: readonly TargetConfig[];
}

/** Display of what goes on; nothing depends on it. */
export type Emit = (event: RunEvent) => void;

/** Throws `usage` if there is no such job. */
export function jobContext(config: Config, name: string): JobContext {
  const job = config.jobs.get(name);
  if (job === undefined) {
    throw new DrError('usage', `there is no job ${name} in ${config.file}`, `The jobs there are: ${[...config.jobs.keys()].join(', ') || 'none'}.`);
  }
  const anvil = config.anvils.get(job.anvil);
  const targets = job.targets.flatMap((target) => config.targets.get(target) ?? []);
  if (anvil === undefined || targets.length !== job.targets.length) throw new DrError('internal', `the job ${name} refers to what is not configured`);
  return { config, job, anvil, targets };
}

/** The job with only some of its servers; all if none is named. Throws `usage` for a stranger. */
export function onlyServers(context: JobContext, wanted: readonly string[] | undefined): JobContext {
  if (wanted === undefined || wanted.length === 0) return context;
  const stranger = wanted.find((server) => !context.job.servers.includes(server));
  if (stranger !== undefined) {
    throw new DrError('usage', `the job ${context.job.name} has no server ${stranger}`, `Its servers are: ${context.job.servers.join(', ')}.`);
  }
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
