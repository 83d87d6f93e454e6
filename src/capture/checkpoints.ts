import { readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import type { DataSource } from '../model/host.js';
import { writeDurable } from '../system/durable.js';
import { log } from '../system/log.js';
import { dirtyExtents } from '../system/qemu.js';
import { stateDirectory } from '../system/state.js';
import { checkpointNames, deleteCheckpoint, domainInfo } from '../system/virsh.js';
import { digestRecord, forgetDigests } from '../transfer/kept-digests.js';
import { attribute } from './backup-job.js';
import type { PlannedDisk } from './disks.js';
import type { DomainRef } from './owing.js';

/**
 * Checkpoints: with each live capture of qcow2 disks libvirt can begin a bitmap of what the guest writes from that instant on, which the next capture is
 * told. A checkpoint is known by its name, and is of use with the digests of its capture's blocks, which are kept by it. Everything here is a convenience:
 * what goes wrong costs the next capture time, and is logged. Checkpoints that are of no use any more are removed when the next capture begins.
 */
export interface Tracking {
  /** The checkpoint that begins with this capture. */
  readonly name: string;
  /** Tracked disks by target: the earlier checkpoint since which it is known what changed, if there is one. */
  readonly since: ReadonlyMap<string, string | undefined>;
}

const PREFIX = 'dr-engine-';
const OURS = /^dr-engine-[0-9a-f]+$/;
/** What the bitmap is called on the way to us. */
export const BITMAP = 'changed';
/** Digests that nobody used for so long are not believed any more, and removed, in days. */
const FORGET_DAYS = 31;

function digestsOf({ uuid }: DomainRef, name: string, target: string): string {
  return stateDirectory('checkpoints', `${uuid}.${name}.${target}`);
}

/** Which disks of a running server are going to be tracked, and since when they have been; removes what is of no use. Undefined if none can be. */
export async function planTracking(domain: DomainRef, capture: string, disks: readonly PlannedDisk[]): Promise<Tracking | undefined> {
  const tracked = disks.filter(({ format }) => format === 'qcow2').map(({ target }) => target);
  if (tracked.length === 0) return undefined;
  return await attempt(`it can't be told what has changed in ${domain.server}`, async () => {
    // With a transient domain libvirt forgets its checkpoints, and the bitmaps would stay in the images for ever.
    if ((await domainInfo(domain.uri, domain.uuid))?.persistent !== true) return undefined;
    const names = await ours(domain);
    const kept = await newestOf(domain, names);
    await dropAll(domain, names.filter((name) => name !== kept));
    const since = await Promise.all(tracked.map(async (target): Promise<[string, string | undefined]> =>
      [target, kept !== undefined && await digestRecord(digestsOf(domain, kept, target)) !== undefined ? kept : undefined]));
    return { name: `${PREFIX}${capture}`, since: new Map(since) };
  });
}

/** Removes all our checkpoints of a running server that is captured in another way. Costs nothing on hosts that never had any. */
export async function dropCheckpoints(domain: DomainRef): Promise<void> {
  if (!(await digestFiles()).some((file) => file.startsWith(`${domain.uuid}.`))) return;
  await attempt(`the checkpoints of ${domain.server} can't be removed`, async () => dropAll(domain, await ours(domain)));
}

/** The bitmaps could not be used: without digests the next capture begins anew. */
export async function forgetTracking(domain: DomainRef, { since }: Tracking, why: unknown): Promise<void> {
  log.warn(`${domain.server} is captured without its bitmaps, and its disks are read as a whole`, { error: DrError.from(why).message });
  for (const [target, name] of since) if (name !== undefined) await attempt('old digests can\'t be removed', () => forgetDigests(digestsOf(domain, name, target)));
}

/** What `virsh backup-begin` is told of the checkpoint. */
export async function writeCheckpointXml(path: string, { name, since }: Tracking, disks: readonly PlannedDisk[]): Promise<void> {
  const lines = disks.map(({ target }) => `    <disk name='${attribute(target)}' checkpoint='${since.has(target) ? 'bitmap' : 'no'}'/>`);
  await writeFile(path, ['<domaincheckpoint>', `  <name>${name}</name>`, '  <disks>', ...lines, '  </disks>', '</domaincheckpoint>', ''].join('\n'), { mode: 0o600, flag: 'wx' });
}

/** What spares reading all of a disk that a backup job serves on `socket`. `directory` is the capture's own. */
export async function changesOf(domain: DomainRef, { name, since }: Tracking, target: string, socket: string, directory: string): Promise<Pick<DataSource, 'hint' | 'keepDigests'>> {
  if (!since.has(target)) return {};
  const keepDigests = digestsOf(domain, name, target);
  const earlier = since.get(target);
  if (earlier === undefined) return { keepDigests };
  const changed = join(directory, `changed-${target}.json`);
  const known = await attempt(`what has changed in disk ${target} of ${domain.server} can't be told`, async () => {
    await writeDurable(changed, JSON.stringify((await dirtyExtents(socket, target, BITMAP)).map(({ start, length }) => [start, length])));
    return true;
  });
  return known === undefined ? { keepDigests } : { keepDigests, hint: { digests: digestsOf(domain, earlier, target), changed } };
}

async function ours({ uri, uuid }: DomainRef): Promise<readonly string[]> {
  return (await checkpointNames(uri, uuid)).filter((name) => OURS.test(name));
}

async function digestFiles(): Promise<readonly string[]> {
  return await readdir(stateDirectory('checkpoints')).catch(() => []); // none was ever kept here
}

/** The checkpoint whose capture was sent last: digests are kept of those only. */
async function newestOf({ uuid }: DomainRef, names: readonly string[]): Promise<string | undefined> {
  const records = (await digestFiles()).filter((file) => file.startsWith(`${uuid}.`) && file.endsWith('.json'));
  const dated = await Promise.all(records.map(async (file) => ({ name: file.split('.')[1] ?? '', at: (await stat(stateDirectory('checkpoints', file)).catch(() => undefined))?.mtimeMs ?? 0 })));
  return dated.filter(({ name }) => names.includes(name)).sort((a, b) => b.at - a.at)[0]?.name;
}

/** Removes checkpoints, digests first; and digests of checkpoints that are gone, and old ones of servers that are. */
async function dropAll(domain: DomainRef, names: readonly string[]): Promise<void> {
  const left = new Set((await ours(domain)).filter((name) => !names.includes(name)));
  for (const file of (await digestFiles()).filter((each) => !/\.(json|part)$/.test(each))) {
    const [uuid, name] = file.split('.');
    const path = stateDirectory('checkpoints', file);
    const old = Date.now() - ((await stat(path).catch(() => undefined))?.mtimeMs ?? 0) > FORGET_DAYS * 86_400_000;
    if (old || (uuid === domain.uuid && !left.has(name ?? ''))) await forgetDigests(path);
  }
  for (const name of names) await deleteCheckpoint(domain.uri, domain.uuid, name);
}

async function attempt<T>(what: string, act: () => Promise<T>): Promise<T | undefined> {
  try {
    return await act();
  } catch (error) {
    log.warn(what, { error: DrError.from(error).message });
    return undefined;
  }
}
