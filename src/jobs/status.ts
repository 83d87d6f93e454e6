import { join } from 'node:path';
import { z } from 'zod';
import { nextRun } from '../config/schedule.js';
import type { Config } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { ServerOnTarget } from '../model/rotation.js';
import type { CancelReport, CopyStatus, JobStatus, StatusReport } from '../model/views.js';
import { readIfThere, readJson } from '../system/durable.js';
import { stateDirectory } from '../system/state.js';
import { jobContext, routeTo, storeOf } from './context.js';
import { connectAll, type Hosts } from './hosts.js';
import { requestCancel, requestPath, runningJob } from './running.js';

const LastRun = z.object({ outcome: z.string(), started_at: z.string(), finished_at: z.string() });

/** Last, running and next run of each job, the age of each server's newest copy, and what nodes still owe. */
export async function statusReport(config: Config): Promise<StatusReport> {
  const now = Date.now();
  const nodes = [...config.anvils.values()].flatMap((anvil) => anvil.nodes);
  const targets = [...config.targets.values()];
  await using hosts = await connectAll([...nodes, ...targets.map(({ host }) => host)].map((host) => routeTo(config, host)), 'status');
  const problems = [...new Set([...nodes, ...targets.map(({ host }) => host)])].flatMap((host) => {
    const failure = hosts.failure(host);
    return failure === undefined ? [] : [{ host, ...failure }];
  });
  const jobs = await Promise.all([...config.jobs.keys()].map((job) => jobStatus(config, job)));
  const owed = await Promise.all(hosts.agents.map(async (agent) => (await agent.call('owed', {})).obligations.map(({ debt, createdAt, stuck }) => ({
    host: agent.host, what: `${debt.kind} ${'server' in debt ? debt.server : 'path' in debt ? debt.path : 'mountPoint' in debt ? debt.mountPoint : debt.what}`, since: createdAt, stuck: stuck ?? null,
  }))));
  const copies = await Promise.all([...config.jobs.keys()].map((job) => copyStatus(config, job, hosts, now, problems)));
  return { jobs, servers: copies.flat(), owed: owed.flat(), problems };
}

async function jobStatus(config: Config, name: string): Promise<JobStatus> {
  const { job } = jobContext(config, name);
  const last = LastRun.safeParse(await readJson(join(stateDirectory('runs'), `${name}.json`)));
  const running = await runningJob(name);
  const next = job.schedule === undefined ? undefined : nextRun(job.schedule, new Date());
  return {
    job: name, last: last.success ? last.data : null, next: next?.toISOString() ?? null,
    running: running === undefined ? null : { since: running.since, host: running.host, pid: running.pid },
  };
}

async function copyStatus(config: Config, name: string, hosts: Hosts, now: number, problems: (StatusReport['problems'][number])[]): Promise<CopyStatus[]> {
  const { job, targets } = jobContext(config, name);
  const rows = await Promise.all(targets.filter(({ host }) => hosts.failure(host) === undefined).map(async (target) => {
    try {
      const { servers } = await hosts.agent(target.host).call('store.observe', { store: storeOf(target), servers: 'all' });
      return job.servers.map((server) => copyOf(server, target.name, servers.find((one) => one.server === server), now));
    } catch (error) {
      problems.push({ host: target.host, ...DrError.from(error).toJSON() });
      return [];
    }
  }));
  return rows.flat();
}

function copyOf(server: string, target: string, there: ServerOnTarget | undefined, now: number): CopyStatus {
  const proven = there?.images.filter((image) => image.state === 'proven') ?? [];
  const sets = new Map(proven.map((image) => [image.identity?.set ?? '', image]));
  const newest = [...sets.values()].sort((a, b) => (b.generation ?? 0) - (a.generation ?? 0))[0];
  return {
    server, target, captured_at: newest?.capturedAt ?? null, complete_sets: sets.size, activated: there?.activated ?? null,
    age_ms: newest?.capturedAt === undefined ? null : now - Date.parse(newest.capturedAt),
  };
}

/** How long a run is given to have stopped, or to have let go of a server, in milliseconds. */
const CANCEL_MS = 60_000;

/** Stops a run on this host cleanly, or frees one of its servers, and waits until that is done. */
export async function cancelJob(config: Config, name: string, { server }: { readonly server?: string }): Promise<CancelReport> {
  jobContext(config, name);
  const running = await runningJob(name);
  if (running === undefined) return { job: name, server: server ?? null, outcome: 'not-running' };
  await requestCancel(running, server);
  const over = async (): Promise<boolean> => (await runningJob(name))?.pid !== running.pid
    || (server !== undefined && await readIfThere(requestPath(name, server)) === undefined);
  const until = Date.now() + CANCEL_MS;
  while (!await over()) {
    if (Date.now() > until) {
      throw new DrError('timeout', `the job ${name} (process ${String(running.pid)}) has not ${server === undefined ? 'stopped' : `let go of ${server}`} in ${String(CANCEL_MS / 1000)} s`,
        'It may be waiting for a host; what it holds is freed by the hosts themselves.');
    }
    await new Promise((resolve) => { setTimeout(resolve, 200); });
  }
  return { job: name, server: server ?? null, outcome: 'cancelled' };
}
