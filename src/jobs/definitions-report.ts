import { targetNamed } from '../config/lookup.js';
import { compareDefinition } from '../definitions/compare.js';
import { rewriteDefinition } from '../definitions/rewrite.js';
import { readDefinition } from '../definitions/read.js';
import type { Config, TargetConfig } from '../model/config.js';
import { diskNameFor } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { DefinitionRow } from '../model/views.js';
import { jobContext, routeTo, storeOf } from './context.js';
import { connectAll, type Hosts } from './hosts.js';
import type { Asking } from './images.js';
import { locateServers, type Located } from './locate.js';
import { observeNodes } from './observe.js';
import { linkedDisk, publishable } from './publishable.js';

/** The definitions on the targets, and whether they still fit their sources. Applies nothing: they are the admin's. */
export async function definitionsReport(config: Config, { signal, onProblem }: Asking): Promise<DefinitionRow[]> {
  const contexts = [...config.jobs.keys()].map((name) => jobContext(config, name));
  const routes = [...contexts.flatMap(({ anvil }) => anvil.nodes), ...[...config.targets.values()].map(({ host }) => host)].map((host) => routeTo(config, host));
  await using hosts = await connectAll(routes, 'definitions');
  const located = new Map(await Promise.all(contexts.map(async (context) => [context.job.name, locateServers(await observeNodes(hosts, context), context.job)] as const)));
  const rows: DefinitionRow[] = [];
  for (const target of config.targets.values()) {
    try {
      const wanted = contexts.filter(({ job }) => job.targets.includes(target.name)).flatMap(({ job }) => located.get(job.name) ?? []);
      rows.push(...await rowsOf(target, hosts, wanted, signal));
    } catch (error) {
      onProblem(target.name, DrError.from(error));
    }
  }
  return rows;
}

async function rowsOf(target: TargetConfig, hosts: Hosts, wanted: readonly Located[], signal: AbortSignal): Promise<DefinitionRow[]> {
  const agent = hosts.agent(target.host);
  const { definitions } = await agent.call('definition.list', { store: storeOf(target) }, { signal });
  const { space: { parts } } = await agent.call('store.space', { store: storeOf(target) }, { signal });
  const nameOf = (one: Located): string => one.kind === 'located' ? one.at.server : one.server;
  const orphans = definitions.filter(({ server }) => !wanted.some((one) => nameOf(one) === server));
  return [
    ...wanted.map((one): DefinitionRow => {
      const server = nameOf(one);
      const there = definitions.find((definition) => definition.server === server);
      const row = { target: target.name, server, path: there?.path ?? `${target.definitions}/${server}.xml` };
      if (there === undefined) return { ...row, state: 'missing', difference: [] };
      if (one.kind === 'refused') return { ...row, state: 'unknown', difference: [one.error.message] };
      try {
        const { fits, differences } = compareDefinition(there.xml, publishable({ server: one.at, target, parts }));
        const lines = differences.flatMap(({ path, source, published }) => [`- ${path}: ${published ?? 'not there'}`, `+ ${path}: ${source ?? 'not there'}`]);
        return { ...row, state: fits ? 'fits' : 'drifted', difference: lines };
      } catch (error) {
        return { ...row, state: 'unknown', difference: [DrError.from(error).message] };
      }
    }),
    ...orphans.map(({ server, path }): DefinitionRow => ({ target: target.name, server, path, state: 'orphan', difference: [] })),
  ];
}

/** What would be published on the target for this XML. No host is asked. Throws `definition-unusable`. */
export function previewDefinition(config: Config, { xml, server, target: name }: { readonly xml: string; readonly server: string; readonly target: string }): Promise<string> {
  const target = targetNamed(config, name);
  const job = [...config.jobs.values()].find((one) => one.servers.includes(server) && one.targets.includes(name));
  const facts = readDefinition(xml);
  const links = `${target.current}/${server}`;
  const disks = facts.disks.filter(({ device, type }) => (device === 'disk' || device === 'lun') && (type === 'file' || type === 'block')).map((disk) => {
    const natural = (disk.path ?? disk.target).split('/').at(-1)?.replace(/\.[^.]*$/, '') ?? disk.target;
    return linkedDisk(target, disk.target, `${links}/${job === undefined ? natural : diskNameFor(job, server, disk.target, natural)}`);
  });
  return Promise.resolve(rewriteDefinition(xml, { server, disks, ...(facts.nvram === undefined ? {} : { nvram: `${links}/nvram` }) }).xml);
}
