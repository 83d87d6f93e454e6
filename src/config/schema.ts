import { z } from 'zod';
import { bandwidthLimit, SPAN_KEYS } from './bandwidth.js';
import * as is from './leaves.js';

/** The shape of the file. Keys are as people write them; `normalise` gives them the program's names. */

const anvil = {
  nodes: z.array(is.destination).min(1),
  libvirt: is.libvirtUri.optional(),
  definitions: is.directory.optional(),
  commands: z.strictObject({ shutdown: is.command(true).optional(), start: is.command(true).optional() }).optional(),
};

const target = {
  host: is.destination,
  reach: is.destination.optional(),
  store: is.store,
  libvirt: is.libvirtUri.optional(),
  definitions: is.directory.optional(),
  current: is.directory.optional(),
  use_cache: is.yesOrNo.optional(),
  bandwidth_limit: bandwidthLimit.optional(),
  streams: is.wholeNumber(1, 8).optional(),
  allocation: is.oneOf('sparse', 'full').optional(),
};

const job = {
  anvil: is.reference,
  targets: z.array(is.reference).min(1),
  servers: z.array(is.namePart('server')).min(1),
  copies: is.wholeNumber(1, 99),
  capture: is.oneOf('shutdown', 'live'),
  live: is.oneOf('backup', 'lvm').optional(),
  snapshot_size: is.snapshotSize.optional(),
  keep_base: is.yesOrNo.optional(),
  schedule: is.schedule.optional(),
  shutdown_timeout: is.duration.optional(),
  on_shutdown_timeout: is.oneOf('fail', 'force-off').optional(),
  late_shutdown_watch: is.duration.optional(),
  max_job_time: is.duration.optional(),
  scratch: is.directory.optional(),
  scratch_reserve: is.size.optional(),
  disk_names: z.record(z.string(), is.namePart('disk')).optional(),
  overwrite_only_copy: is.yesOrNo.optional(),
  allow_encrypted: is.yesOrNo.optional(),
};

const cache = { signature: is.fileName.optional() };

const top = {
  version: is.version,
  anvils: z.record(z.string(), z.strictObject(anvil)),
  targets: z.record(z.string(), z.strictObject(target)),
  jobs: z.record(z.string(), z.strictObject(job)),
  cache: z.strictObject(cache).optional(),
  reprove_after: is.duration.optional(),
  agent_command: is.command(false).optional(),
};

export const schema = z.strictObject(top);

/** A file that has the shape; what it refers to is not looked at yet. */
export type ConfigFile = z.output<typeof schema>;

/** The keys that are valid in the mapping at this place. */
export function validKeys(path: readonly PropertyKey[]): readonly string[] {
  const [section, , part] = path;
  if (section === undefined) return Object.keys(top);
  if (section === 'cache') return Object.keys(cache);
  if (section === 'anvils') return part === 'commands' ? ['shutdown', 'start'] : Object.keys(anvil);
  if (section === 'targets') return part === 'bandwidth_limit' ? SPAN_KEYS : Object.keys(target);
  return section === 'jobs' ? Object.keys(job) : [];
}
