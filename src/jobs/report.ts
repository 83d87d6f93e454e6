import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import type { RunReport, ServerReport } from '../model/report.js';
import { makeDirectory, writeDurable } from '../system/durable.js';
import { stateDirectory } from '../system/state.js';
import type { JobContext } from './context.js';
import type { JobPlan } from './plan-job.js';

/** Puts the servers' reports together in the job's order, and keeps the result for `dr status`. */
export async function reportRun({ job }: JobContext, plan: JobPlan, done: readonly ServerReport[], startedAt: Date, signal: AbortSignal): Promise<RunReport> {
  const nothing = { capture: null, down_ms: 0, frozen_ms: 0, images: [] } as const;
  const servers = job.servers.map((name): ServerReport => {
    const report = done.find((one) => one.name === name);
    if (report !== undefined) return withRefusedTargets(report, plan);
    const refused = plan.refused.find((one) => one.server === name);
    if (refused !== undefined) return { name, node: refused.node, outcome: 'refused', ...nothing, error: refused.error };
    return { name, node: null, outcome: 'cancelled', ...nothing, error: new DrError('cancelled', 'the run was cancelled before this server. Nothing of it was touched.').toJSON() };
  });
  const report: RunReport = {
    job: job.name, outcome: signal.aborted ? 'cancelled' : outcomeOf(servers),
    started_at: startedAt.toISOString(), finished_at: new Date().toISOString(), servers,
  };
  await makeDirectory(stateDirectory('runs'));
  await writeDurable(join(stateDirectory('runs'), `${job.name}.json`), JSON.stringify(report));
  return report;
}

/** A target that was refused for this server before it was touched makes the server's result partial. */
function withRefusedTargets(report: ServerReport, plan: JobPlan): ServerReport {
  const refused = plan.refusedTargets.filter((one) => one.server === report.name);
  const first = refused[0];
  if (first === undefined) return report;
  return {
    ...report, outcome: report.outcome === 'ok' ? 'partial' : report.outcome, error: report.error ?? first.error,
    notes: [...report.notes ?? [], ...refused.map(({ target, error }) => `not sent to ${target}: ${error.message}`)],
  };
}

export function outcomeOf(servers: readonly ServerReport[]): RunReport['outcome'] {
  const all = (outcome: ServerReport['outcome']): boolean => servers.every((server) => server.outcome === outcome);
  if (all('ok')) return 'ok';
  if (all('refused')) return 'refused';
  if (all('cancelled')) return 'cancelled';
  return servers.some((server) => server.outcome === 'ok' || server.outcome === 'partial') ? 'partial' : 'failed';
}
