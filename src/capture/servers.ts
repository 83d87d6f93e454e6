import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import type { DiskSeen, DomainState, ServerSeen } from '../model/server.js';
import { hasCode, readIfThere } from '../system/durable.js';
import { readDomainXml, type DomainDisk, type DomainXml } from '../system/domain-xml.js';
import { volumeName, volumeOf } from '../system/mapped-device.js';
import { backingChain } from '../system/qemu.js';
import { domainInfo, domainState, dumpXml } from '../system/virsh.js';

/** Looking at a node's servers. Nothing here changes anything. */

/** How many servers are looked at at a time. */
const AT_ONCE = 4;

/**
 * What this node knows of the named servers; one that has no domain here is absent from the answer. `definitions` is the directory
 * with the admins' own definition files, if the Anvil has one.
 */
export async function seeServers(uri: string, names: readonly string[], definitions?: string): Promise<ServerSeen[]> {
  const seen: ServerSeen[] = [];
  for (let at = 0; at < names.length; at += AT_ONCE) {
    const some = await Promise.all(names.slice(at, at + AT_ONCE).map((name) => seeServer(uri, name, definitions)));
    seen.push(...some.filter((server) => server !== undefined));
  }
  return seen;
}

/** States and UUIDs of the named servers, by name; one that has no domain here is absent. */
export async function seeStates(uri: string, names: readonly string[]): Promise<Record<string, { state: DomainState; uuid: string }>> {
  const states: Record<string, { state: DomainState; uuid: string }> = {};
  for (const name of names) {
    const found = await domainState(uri, name);
    if (found !== undefined) states[name] = found;
  }
  return states;
}

async function seeServer(uri: string, name: string, definitions: string | undefined): Promise<ServerSeen | undefined> {
  const info = await domainInfo(uri, name);
  if (info === undefined || info.name !== name) return undefined; // virsh takes a UUID for a name, too
  try {
    const xml = await dumpXml(uri, info.uuid, { inactive: true });
    const next = await readDomainXml(xml);
    // What is written to now decides, not what would be after the next boot.
    const now = info.state === 'shut off' || !info.persistent ? next : await readDomainXml(await dumpXml(uri, info.uuid, { inactive: false }));
    const definitionFile = definitions === undefined ? undefined : await readIfThere(join(definitions, `${name}.xml`));
    const disks: DiskSeen[] = [];
    for (const disk of now.disks) disks.push(await seeDisk(disk, differenceOf(disk, next)));
    for (const disk of next.disks) {
      if (now.disks.some((other) => other.target === disk.target)) continue;
      disks.push(await seeDisk(disk, 'it is in the definition but not in the running server'));
    }
    return {
      name, uuid: info.uuid, state: info.state, persistent: info.persistent, xml, disks, tpm: now.tpm,
      ...(definitionFile === undefined ? {} : { definitionFile }), ...(now.nvram === undefined ? {} : { nvram: now.nvram }),
    };
  } catch (error) {
    if (error instanceof DrError && error.code === 'server-unknown') return undefined; // it left between two questions
    throw error;
  }
}

/** A disk that the running server has and its definition has not (or otherwise) would be missing after the next boot. */
function differenceOf(disk: DomainDisk, next: DomainXml): string | undefined {
  const other = next.disks.find((each) => each.target === disk.target);
  if (other === undefined) return 'the running server has it but its definition has not';
  if (other.path !== disk.path || other.format !== disk.format) {
    return `the running server has ${disk.path ?? 'nothing'} there, its definition ${other.path ?? 'nothing'}`;
  }
  return undefined;
}

async function seeDisk(disk: DomainDisk, difference: string | undefined): Promise<DiskSeen> {
  const encrypted = disk.encrypted === true;
  const name = disk.path === undefined ? disk.target : await volumeName(disk.path) ?? diskName(disk.path);
  const base = { target: disk.target, format: encrypted ? 'raw' : disk.format, ...(encrypted ? { encrypted } : {}), name, ...(disk.path === undefined ? {} : { path: disk.path }) };
  const problem = disk.problem ?? difference;
  if (problem !== undefined || disk.path === undefined) return { ...base, bytes: 0, problem: problem ?? 'it has no source' };
  const looked = await lookAt(disk.path, base.format);
  return { ...base, ...looked };
}

async function lookAt(path: string, format: string): Promise<{ bytes: number; problem?: string }> {
  try {
    const status = await stat(path);
    if (!status.isFile() && !status.isBlockDevice()) return { bytes: 0, problem: `${path} is neither a file nor a block device` };
    const chain = await backingChain(path, format);
    const bytes = chain[0]?.bytes ?? 0;
    if (chain.some((link) => link.encrypted)) return { bytes, problem: 'it is encrypted' };
    if (bytes === 0) return { bytes, problem: `${path} has no size` };
    return { bytes };
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return { bytes: 0, problem: `there is no ${path}${path.startsWith('/dev/') ? '; if it is a logical volume, it is missing or not active (lvs, lvchange --activate y)' : ''}` };
    if (hasCode(error, 'EACCES', 'EPERM')) return { bytes: 0, problem: `${path} can't be read: permission denied` };
    if (error instanceof DrError && error.code !== 'program-missing') return { bytes: 0, problem: error.message };
    throw error;
  }
}

/** The name that a disk's images carry: its LV's name, or its source's base name without extension. */
export function diskName(path: string): string {
  const base = path.slice(path.lastIndexOf('/') + 1);
  const mapped = /^\/dev\/(?:mapper\/|disk\/by-id\/dm-name-)([^/]+)$/.exec(path)?.[1];
  if (mapped !== undefined) return volumeOf(mapped)?.name ?? mapped;
  if (path.startsWith('/dev/')) return base;
  const dot = base.lastIndexOf('.');
  return dot > 0 ? base.slice(0, dot) : base;
}
