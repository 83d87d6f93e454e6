import { diskNameFor, type JobConfig } from '../model/config.js';
import { DrError, type ErrorData } from '../model/errors.js';
import type { CacheDrive } from '../model/host.js';
import { checkNamePart, imageBase } from '../model/names.js';
import type { ServerSeen } from '../model/server.js';

/** Where each server of a job is and whether its disks can be imaged. Pure. */

export type NodeSeen =
  | { readonly kind: 'seen'; readonly host: string; readonly servers: readonly ServerSeen[]; readonly drives: readonly CacheDrive[] }
  | { readonly kind: 'unreachable'; readonly host: string; readonly error: ErrorData };


export interface PlannedDisk {
  /** Name in image names. */
  readonly disk: string;
  readonly target: string;
  readonly path: string;
  readonly format: string;
  readonly bytes: number;
}

export interface LocatedServer {
  readonly server: string;
  readonly uuid: string;
  readonly node: string;
  /** `off`: read cold, not started afterwards. */
  readonly mode: 'shutdown' | 'live' | 'off';
  readonly disks: readonly PlannedDisk[];
  readonly seen: ServerSeen;
}

export type Located =
  | { readonly kind: 'located'; readonly at: LocatedServer }
  | { readonly kind: 'refused'; readonly server: string; readonly error: ErrorData };

/** Finds every server of the job, in the job's order. What can't be imaged is refused by itself; the others go on. */
export function locateServers(nodes: readonly NodeSeen[], job: JobConfig): Located[] {
  const located = job.servers.map((server): Located => {
    try {
      return { kind: 'located', at: locate(server, nodes, job) };
    } catch (error) {
      return { kind: 'refused', server, error: DrError.from(error).toJSON() };
    }
  });
  return refuseCollisions(located);
}

function locate(server: string, nodes: readonly NodeSeen[], job: JobConfig): LocatedServer {
  const silent = nodes.filter((node) => node.kind === 'unreachable');
  const holders = nodes.flatMap((node) => node.kind === 'seen'
    ? node.servers.filter((seen) => seen.name === server).map((seen) => ({ host: node.host, seen })) : []);
  const active = holders.filter(({ seen }) => seen.state !== 'shut off');

  if (active.length > 1) {
    throw new DrError('server-ambiguous', `cannot image ${server}: it runs on ${active.map(({ host }) => host).join(' and ')} at once. Nothing was touched.`,
      'Find out which of the two is right and stop the other before anything else.');
  }
  const silence = silent.map((node) => node.error.message.replace(/\.?( Nothing was touched\.)?$/, '')).join('; ');
  if (silent.length > 0 && (active.length === 0 || job.capture === 'shutdown')) {
    throw new DrError('unreachable', active.length === 0
      ? `cannot image ${server}: it runs on no node that answers, and not every node answers (${silence}). Nothing was touched.`
      : `cannot shut down ${server}: not every node of its Anvil answers (${silence}), so it could not be known afterwards that it runs nowhere else. Nothing was touched.`,
    'Bring the node back, or take it out of the configuration.');
  }
  const uuids = new Set(holders.map(({ seen }) => seen.uuid));
  if (uuids.size > 1) {
    throw new DrError('server-ambiguous', `cannot image ${server}: the nodes have different domains of that name (${holders.map(({ host, seen }) => `${seen.uuid} on ${host}`).join(', ')}). Nothing was touched.`,
      'Rename or undefine the wrong one.');
  }
  const found = active[0] ?? holders.find(({ seen }) => seen.disks.every((disk) => disk.problem === undefined)) ?? holders[0];
  if (found === undefined) {
    const names = nodes.flatMap((node) => node.kind === 'seen' ? node.servers.map((seen) => seen.name) : []);
    throw new DrError('server-unknown', `no node of the Anvil has a server ${server}. Nothing was touched.`,
      names.length === 0 ? 'Look at virsh list --all on the nodes.' : `Found there: ${[...new Set(names)].join(', ')}.`);
  }
  if (found.seen.state === 'other') {
    throw new DrError('refused', `cannot image ${server} now: its domain on ${found.host} is neither running, paused nor shut off. Nothing was touched.`, 'Look at virsh domstate there and try again.');
  }
  const mode = found.seen.state === 'shut off' ? 'off' : job.capture;
  if (mode === 'live' && job.live === 'lvm' && found.seen.snapshotProblem !== undefined) throw DrError.fromData(found.seen.snapshotProblem);
  return { server, uuid: found.seen.uuid, node: found.host, mode, disks: plannedDisks(found.seen, found.host, mode, job), seen: found.seen };
}

function plannedDisks(seen: ServerSeen, host: string, mode: LocatedServer['mode'], job: JobConfig): PlannedDisk[] {
  checkNamePart('server', seen.name);
  if (seen.disks.length === 0) throw new DrError('disk-unsupported', `${seen.name} has no disks to image. Nothing was touched.`, 'Take it out of the job.');
  const taken = new Map<string, string>();
  return seen.disks.map((disk) => {
    if (disk.problem !== undefined) {
      throw new DrError('disk-unsupported', `cannot image ${seen.name}: its disk ${disk.target} on ${host}: ${disk.problem}. Nothing was touched.`, 'Change the disk, or take the server out of the job.');
    }
    if (disk.encrypted === true) refuseEncrypted(seen, disk.target, mode, job);
    if (disk.path === undefined) throw new DrError('disk-unsupported', `cannot image ${seen.name}: its disk ${disk.target} has no path. Nothing was touched.`);
    const name = diskNameFor(job, seen.name, disk.target, disk.name);
    checkNamePart('disk', name);
    if (name === 'nvram' && seen.nvram !== undefined) {
      throw new DrError('name-collision', `cannot image ${seen.name}: its disk ${disk.target} would be named nvram, like its UEFI variables. Nothing was touched.`, `Name it in the job: disk_names: {${disk.target}: another-name}.`);
    }
    const other = taken.get(name);
    if (other !== undefined) {
      throw new DrError('name-collision', `cannot image ${seen.name}: its disks ${other} and ${disk.target} would both be named ${name}. Nothing was touched.`,
        `Name them in the job: disk_names: {${disk.target}: another-name}.`);
    }
    taken.set(name, disk.target);
    return { disk: name, target: disk.target, path: disk.path, format: disk.format, bytes: disk.bytes };
  });
}

/** The encrypted bytes can be copied as they are, but only while nobody has them open: what a running QEMU gives out is decrypted. */
function refuseEncrypted(seen: ServerSeen, target: string, mode: LocatedServer['mode'], job: JobConfig): void {
  if (!job.allowEncrypted) {
    throw new DrError('disk-unsupported', `cannot image ${seen.name}: its disk ${target} is encrypted. Nothing was touched.`,
      'Say allow_encrypted: true in the job if the encrypted bytes are to be copied as they are; the target needs the secret to boot it.');
  }
  if (mode === 'live') {
    throw new DrError('disk-unsupported', `cannot image ${seen.name} while it runs: its disk ${target} is encrypted, and a live capture would store it decrypted. Nothing was touched.`,
      'Use capture: shutdown for this server.');
  }
}

/** Two servers whose names run together (`A` with disk `B_C`, `A_B` with disk `C`) would write to the same images: both are refused. */
function refuseCollisions(located: readonly Located[]): Located[] {
  const owners = new Map<string, string[]>();
  for (const one of located) {
    if (one.kind === 'refused') continue;
    for (const { disk } of one.at.disks) {
      const base = imageBase(one.at.server, disk);
      owners.set(base, [...owners.get(base) ?? [], `disk ${disk} of ${one.at.server}`]);
    }
  }
  return located.map((one) => {
    if (one.kind === 'refused') return one;
    const base = one.at.disks.map(({ disk }) => imageBase(one.at.server, disk)).find((name) => (owners.get(name)?.length ?? 0) > 1);
    if (base === undefined) return one;
    return {
      kind: 'refused', server: one.at.server,
      error: new DrError('name-collision', `${(owners.get(base) ?? []).join(' and ')} would have the same image names (${base}_1). Nothing was touched.`, 'Give one of the disks another name with disk_names.').toJSON(),
    };
  });
}
