import { randomBytes } from 'node:crypto';
import type { Config, JobConfig } from '../model/config.js';
import { imageName } from '../model/names.js';
import type { RotationStep } from '../model/rotation.js';
import type { PlannedServer as ServerView, PlannedStep, PlanView } from '../model/views.js';
import { connectJob } from './connect-job.js';
import { jobContext, onlyServers } from './context.js';
import { locateServers } from './locate.js';
import { observeNodes, observeTargets } from './observe.js';
import { planJob, type Batch, type JobPlan, type PlannedServer } from './plan-job.js';

/** What `dr run` would do, seen from here and now. Touches nothing. */
export async function planJobView(config: Config, name: string, options: { readonly servers?: readonly string[] }): Promise<PlanView> {
  const context = onlyServers(jobContext(config, name), options.servers);
  await using hosts = await connectJob(context, `plan-${randomBytes(4).toString('hex')}`);
  const nodes = await observeNodes(hosts, context);
  const located = locateServers(nodes, context.job);
  const targets = await observeTargets(hosts, context, located.flatMap((one) => one.kind === 'located' ? [one.at] : []));
  const plan = planJob({ context, nodes, located, targets, now: new Date() });
  const first = plan.refused[0];
  return {
    job: name, servers: [...plan.batches.flatMap(({ servers }) => servers).map(viewOf), ...plan.refused.map(({ server, node, error }) => ({ name: server, node, capture: null, disks: [], refusal: error }))],
    steps: plan.batches.flatMap((batch) => stepsOf(batch, context.job)), notes: [...plan.notes, ...leftOut(plan)],
    ...(plan.batches.length === 0 && first !== undefined ? { refusal: first.error } : {}),
  };
}

function viewOf({ at }: PlannedServer): ServerView {
  return { name: at.server, node: at.node, capture: at.mode === 'live' ? 'live' : 'cold', disks: at.disks.map(({ disk, bytes }) => ({ disk, bytes })) };
}

function leftOut(plan: JobPlan): string[] {
  return plan.refusedTargets.map(({ server, target, error }) => `${server} is not sent to ${target}: ${error.message}`);
}

function stepsOf({ servers }: Batch, { live }: JobConfig): PlannedStep[] {
  const say = ({ at }: PlannedServer, text: string, host = at.node): PlannedStep => ({ server: at.server, host, text });
  return [
    ...servers.filter(({ at }) => at.mode === 'shutdown').map((server) => say(server, 'shut it down')),
    ...servers.flatMap((server) => [
      say(server, { shutdown: 'read its disks', off: 'read its disks (it is off and stays off)', live: `take all its disks at one instant${live === 'lvm' ? ' by LVM snapshots' : ''} while it runs on` }[server.at.mode]),
      ...Object.entries(server.cache ?? {}).map(([disk, { node, device, partial }]) => say(server, `copy ${partial ? 'what the targets lack of ' : ''}disk ${disk} to the cache drive ${device}`, node)),
      ...(server.cache !== undefined && server.at.mode === 'shutdown' ? [say(server, 'start it again')] : []),
    ]),
    ...servers.flatMap((server) => [
      ...server.targets.flatMap(({ target, steps }) => [
        ...steps.map((step) => say(server, describeStep(server.at.server, step), target.name)),
        ...server.at.disks.map(({ disk }) => say(server, `write and read back ${imageName(server.at.server, disk, 'incomplete')}`, target.name)),
        say(server, `prove the set, then name it ${server.at.disks.map(({ disk }) => imageName(server.at.server, disk, 1)).join(', ')}`, target.name),
      ]),
      ...(server.cache === undefined && server.at.mode === 'shutdown' ? [say(server, 'start it again')] : []),
    ]),
  ];
}

function describeStep(server: string, step: RotationStep): string {
  switch (step.kind) {
    case 'move': return step.disks.map((disk) => `${imageName(server, disk, step.from)} -> ${imageName(server, disk, step.to)}`).join(', ');
    case 'point-current': return step.set === null ? 'remove the current link: the only copy is about to be overwritten' : `point current/${server} at copy ${String(step.slot)}`;
    case 'begin': return step.recycle.length === 0 ? 'record what is going to be written' : `record what is going to be written over ${step.recycle.map(({ disk }) => imageName(server, disk, 'incomplete')).join(', ')}`;
    case 'allocate': return `make ${imageName(server, step.disk, 'incomplete')}`;
    case 'resize': return `resize ${imageName(server, step.disk, 'incomplete')}`;
    case 'remove': return `remove ${imageName(server, step.disk, step.slot)}`;
  }
}
