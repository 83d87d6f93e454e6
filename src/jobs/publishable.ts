import type { WantedDisk } from '../definitions/rewrite.js';
import { rewriteDefinition } from '../definitions/rewrite.js';
import type { TargetConfig } from '../model/config.js';
import type { SpacePart } from '../model/host.js';
import { hasSlack } from '../stores/volume-choice.js';
import type { LocatedServer } from './locate.js';

/**
 * The definition that boots this server on the target, through its `current` links. `parts` are the store's, as its space was told: an image is a volume
 * of whole extents there, and the definition says how much of it is the disk. Pure. Throws `definition-unusable`.
 */
export function publishable({ server, target, parts }: { readonly server: LocatedServer; readonly target: TargetConfig; readonly parts?: readonly SpacePart[] | undefined }): string {
  const links = `${target.current}/${server.server}`;
  return rewriteDefinition(server.seen.definitionFile ?? server.seen.xml, {
    server: server.server,
    disks: server.disks.map((disk) => ({
      ...linkedDisk(target, disk.target, `${links}/${disk.disk}`),
      ...(hasSlack(parts ?? [], disk.bytes) ? { slice: { offset: 0, size: disk.bytes } } : {}),
    })),
    ...(server.seen.nvram === undefined ? {} : { nvram: `${links}/nvram` }),
  }).xml;
}

/** A disk as this target keeps it: libvirt must be told what kind of thing the link leads to. */
export function linkedDisk({ store }: Pick<TargetConfig, 'store'>, target: string, link: string): WantedDisk {
  return { target, link, type: store.startsWith('vg:') ? 'block' : 'file' };
}
