import { rewriteDefinition } from '../definitions/rewrite.js';
import type { TargetConfig } from '../model/config.js';
import type { LocatedServer } from './locate.js';

/** The definition that boots this server on the target, through its `current` links. Pure. Throws `definition-unusable`. */
export function publishable({ server, target }: { readonly server: LocatedServer; readonly target: TargetConfig }): string {
  const links = `${target.current}/${server.server}`;
  return rewriteDefinition(server.seen.definitionFile ?? server.seen.xml, {
    server: server.server,
    disks: server.disks.map((disk) => ({ target: disk.target, link: `${links}/${disk.disk}` })),
    ...(server.seen.nvram === undefined ? {} : { nvram: `${links}/nvram` }),
  }).xml;
}
