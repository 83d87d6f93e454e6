import type { AnvilConfig, Config, JobConfig, TargetConfig } from '../model/config.js';
import { DrError } from '../model/errors.js';
import { nearest } from './nearest.js';

/** A job with what it refers to. */
export interface ResolvedJob {
  readonly job: JobConfig;
  readonly anvil: AnvilConfig;
  readonly targets: readonly TargetConfig[];
}

/** The job of that name and what it refers to. Throws `usage` with the nearest name if there is none. */
export function resolveJob(config: Config, name: string): ResolvedJob {
  const job = named(config, 'job', config.jobs, name);
  return { job, anvil: named(config, 'Anvil', config.anvils, job.anvil), targets: job.targets.map((target) => targetNamed(config, target)) };
}

/** Throws `usage` with the nearest name if there is no such target. */
export function targetNamed(config: Config, name: string): TargetConfig {
  return named(config, 'target', config.targets, name);
}

/** Throws `usage` unless every server is one of the job's. */
export function checkServersOfJob(job: JobConfig, servers: readonly string[]): void {
  for (const server of servers) {
    if (!job.servers.includes(server)) throw unknown(`server ${JSON.stringify(server)} is not in job ${job.name}`, server, job.servers, 'Its servers are');
  }
}

/** Throws `usage` unless every server is in some job. */
export function checkServersOfAny(config: Config, servers: readonly string[]): void {
  const all = [...new Set([...config.jobs.values()].flatMap((job) => job.servers))];
  for (const server of servers) {
    if (!all.includes(server)) throw unknown(`server ${JSON.stringify(server)} is in no job of ${config.file}`, server, all, 'The servers are');
  }
}

function named<T>(config: Config, kind: string, section: ReadonlyMap<string, T>, name: string): T {
  const found = section.get(name);
  if (found === undefined) throw unknown(`there is no ${kind} ${JSON.stringify(name)} in ${config.file}`, name, [...section.keys()], `The ${kind}s are`);
  return found;
}

function unknown(message: string, word: string, valid: readonly string[], these: string): DrError {
  const near = nearest(word, valid);
  return new DrError('usage', message, near !== undefined ? `Did you mean ${near}?`
    : valid.length === 0 ? 'The configuration has none.' : `${these}: ${valid.join(', ')}.`);
}
