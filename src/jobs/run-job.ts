import { randomBytes } from 'node:crypto';
import type { Config } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { RunReport, ServerReport } from '../model/report.js';
import { lock } from '../system/flock.js';
import { stateDirectory } from '../system/state.js';
import { jobContext, onlyServers, type Emit } from './context.js';
import { connectJob } from './connect-job.js';
import { ServerRun } from './image-server.js';
import { observeNodes, observeTargets } from './observe.js';
import { locateServers } from './locate.js';
import { planJob } from './plan-job.js';
import { announceRun } from './running.js';
import { reportRun } from './report.js';

export interface RunOptions {
  /** Only these servers of the job; all of them if absent. */
  readonly servers?: readonly string[];
  readonly signal: AbortSignal;
  readonly onEvent: Emit;
}

/**
 * A whole run of a job. Throws what refuses or ends the run as a whole (`already-running`, `usage`, `unreachable`, …) before anything was
 * touched; after that every failure is in the report.
 */
export async function runJob(config: Config, name: string, options: RunOptions): Promise<RunReport> {
  const context = onlyServers(jobContext(config, name), options.servers);
  const startedAt = new Date();
  await using _lock = await lock(stateDirectory('locks', `job-${name}.lock`), `the job ${name}`).catch(alreadyRunning(name));
  await using running = await announceRun(name, startedAt, context.job.servers, options.signal);

  options.onEvent({ kind: 'phase', phase: 'observing' });
  await using hosts = await connectJob(context, `${name}-${randomBytes(4).toString('hex')}`);
  const nodes = await observeNodes(hosts, context);
  const located = locateServers(nodes, context.job);
  const targets = await observeTargets(hosts, context, located.flatMap((one) => one.kind === 'located' ? [one.at] : []));

  options.onEvent({ kind: 'phase', phase: 'planning' });
  const plan = planJob({ context, nodes, located, targets, now: startedAt });
  const done: ServerReport[] = [];
  for (const batch of plan.batches) {
    const servers = batch.servers.map((server) => new ServerRun(context, server, hosts, options.onEvent, running.leash(server.at.server)));
    await imageBatch(servers);
    done.push(...servers.map((server) => server.report()));
    if (options.signal.aborted) break;
  }
  return await reportRun(context, plan, done, startedAt, options.signal);
}

/**
 * All servers of a batch for which there is room on cache drives go down together; each is back as soon as its images are safe; then they are delivered. A server without room
 * would keep others waiting, shut down: those come after them, one by one, and so does one for which the drive turned out to be too small or broken.
 */
async function imageBatch(servers: readonly ServerRun[]): Promise<void> {
  try {
    for (const server of servers) await server.attempt(() => server.prepare());
    await imageTogether(servers.filter(({ hasRoom }) => hasRoom));
    for (const server of servers.filter(({ hasRoom }) => !hasRoom)) await imageTogether([server]);
  } finally {
    for (const server of servers) await server.end();
  }
}

async function imageTogether(servers: readonly ServerRun[]): Promise<void> {
  await Promise.all(servers.map((server) => server.attempt(() => server.shutDown())));
  for (const [index, server] of servers.entries()) await server.attempt(() => server.image(index < servers.length - 1));
  for (const server of servers) await server.attempt(() => server.deliver());
}

function alreadyRunning(name: string) {
  return (error: unknown): never => {
    if (DrError.from(error).code !== 'locked') throw error;
    throw new DrError('already-running', `the job ${name} is running already on this host. Nothing was touched.`, `See dr status; dr cancel ${name} stops it.`);
  };
}
