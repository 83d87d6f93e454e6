import type { Config } from '../model/config.js';
import type { Finding } from '../model/host.js';
import { connectAll, type Hosts } from './hosts.js';
import { jobContext, routeTo, seenFromOthers, storeOf, type JobContext } from './context.js';
import { locateServers } from './locate.js';
import { observeNodes, observeTargets } from './observe.js';
import { planJob } from './plan-job.js';

/** Asks every host of a job, or of all jobs, everything that a run or an activation needs. Touches nothing. */
export async function checkAll(config: Config, job: string | undefined): Promise<Finding[]> {
  const contexts = (job === undefined ? [...config.jobs.keys()] : [job]).map((name) => jobContext(config, name));
  const routes = contexts.flatMap(({ anvil, targets }) => [...anvil.nodes, ...targets.map(({ host }) => host)]).map((host) => routeTo(config, host));
  await using hosts = await connectAll(routes, 'check');
  const findings: Finding[] = [];
  for (const host of new Set(routes.map((route) => route.host))) {
    const failure = hosts.failure(host);
    findings.push(failure === undefined
      ? { ok: true, level: 'ok', host, what: 'it can be reached and has the same version', remedy: '' }
      : { ok: false, level: 'error', host, what: failure.message, remedy: failure.hint });
  }
  findings.push(...await nodes(contexts, hosts), ...await targets(contexts, hosts));
  for (const context of contexts) findings.push(...await servers(context, hosts));
  return unique(findings);
}

async function nodes(contexts: readonly JobContext[], hosts: Hosts): Promise<Finding[]> {
  const asked = await Promise.all(contexts.flatMap(({ anvil, job, config }) => anvil.nodes.filter((node) => hosts.failure(node) === undefined).map(async (node) =>
    (await hosts.agent(node).call('check', {
      role: 'node', uri: anvil.libvirt, scratch: job.scratch, signature: config.cacheSignature,
      peers: anvil.nodes.filter((other) => other !== node).map((other) => routeTo(config, node === 'local' ? other : seenFromOthers(other))),
    })).findings)));
  return asked.flat();
}

async function targets(contexts: readonly JobContext[], hosts: Hosts): Promise<Finding[]> {
  const asked = await Promise.all(contexts.flatMap(({ targets: all }) => all.filter(({ host }) => hosts.failure(host) === undefined).map(async (target) =>
    (await hosts.agent(target.host).call('check', { role: 'target', uri: target.libvirt, store: storeOf(target) })).findings)));
  return asked.flat();
}

/** What a run of the job would refuse now, and what the servers' definitions invite. */
async function servers(context: JobContext, hosts: Hosts): Promise<Finding[]> {
  const seen = await observeNodes(hosts, context);
  const located = locateServers(seen, context.job);
  const at = located.flatMap((one) => one.kind === 'located' ? [one.at] : []);
  const plan = planJob({ context, nodes: seen, located, targets: await observeTargets(hosts, context, at), now: new Date() });
  const host = `job ${context.job.name}`;
  return [
    ...plan.batches.flatMap((batch) => batch.servers).map((server): Finding =>
      ({ ok: true, level: 'ok', host, what: `${server.at.server} on ${server.at.node} can be imaged (${String(server.at.disks.length)} disks)`, remedy: '' })),
    ...[...plan.refused, ...plan.refusedTargets].map(({ error }): Finding => ({ ok: false, level: 'error', host, what: error.message, remedy: error.hint })),
    ...at.filter((server) => server.mode === 'live' && !server.seen.xml.includes('error_policy=')).map((server): Finding => ({
      ok: true, level: 'warning', host, what: `${server.server}: without error_policy='stop' a scratch place that vanishes shows as write errors in the guest`,
      remedy: 'Add error_policy="stop" to the <driver> of its disks.',
    })),
  ];
}

function unique(findings: readonly Finding[]): Finding[] {
  return [...new Map(findings.map((finding) => [JSON.stringify(finding), finding])).values()];
}
