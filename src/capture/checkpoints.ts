import { createHash } from 'node:crypto';
import { readdir, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { DrError } from '../model/errors.js';
import type { DataSource } from '../model/host.js';
import { writeDurable } from '../system/durable.js';
import { log } from '../system/log.js';
import { dirtyExtents, internalSnapshots } from '../system/qemu.js';
import { stateDirectory } from '../system/state.js';
import { checkpointNames, deleteCheckpoint, domainInfo } from '../system/virsh.js';
import { digestRecord, forgetDigests } from '../transfer/kept-digests.js';
import { attempt } from './attempt.js';
import { attribute, BITMAP } from './backup-job.js';
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
  /** Tracked disks by target. */
  readonly disks: ReadonlyMap<string, TrackedDisk>;
}

interface TrackedDisk {
  /** Where the digests of this capture are kept. */
  readonly digests: string;
  /** The earlier checkpoint since which it is known what changed, if there is one, and its digests. */
  readonly earlier: { readonly name: string; readonly digests: string } | undefined;
}

const PREFIX = 'dr-engine-';
const OURS = /^dr-engine-[0-9a-f]+$/;
/** Digests that nobody used for so long are not believed any more, and removed, in days. */
const FORGET_DAYS = 31;

/** Of one image file in one place: another file under the same target, or two that changed places, have other digests. */
function digestsOf({ uuid }: DomainRef, name: string, { target, path }: PlannedDisk): string {
  const which = createHash('sha256').update(`${target}\n${path}`).digest('hex').slice(0, 16);
  return stateDirectory('checkpoints', `${uuid}.${name}.${which}`);
}

/** Which disks of a running server are going to be tracked, and since when they have been; removes what is of no use. Undefined if none can be. */
export async function planTracking(domain: DomainRef, capture: string, disks: readonly PlannedDisk[]): Promise<Tracking | undefined> {
  const able = disks.filter(({ format }) => format === 'qcow2');
  if (able.length === 0) return undefined;
  return await attempt(`it can't be told what has changed in ${domain.server}`, async () => {
    // With a transient domain libvirt forgets its checkpoints, and the bitmaps would stay in the images for ever.
    if ((await domainInfo(domain.uri, domain.uuid))?.persistent !== true) return undefined;
    const names = await ours(domain);
    const kept = await newestOf(domain, names);
    await dropOthers(domain, names, kept);
    const name = `${PREFIX}${capture}`;
    const tracked = new Map<string, TrackedDisk>();
    for (const disk of able) {
      if (await internalSnapshots(disk.path, disk.format) > 0) continue; // QEMU can't go back to one in an image with bitmaps
      const digests = kept === undefined ? undefined : digestsOf(domain, kept, disk);
      const known = digests !== undefined && await digestRecord(digests) !== undefined;
      tracked.set(disk.target, { digests: digestsOf(domain, name, disk), earlier: known && kept !== undefined ? { name: kept, digests } : undefined });
    }
    return tracked.size === 0 ? undefined : { name, disks: tracked };
  });
}

/** Removes all our checkpoints of a running server that is captured in another way. */
export async function dropCheckpoints(domain: DomainRef): Promise<void> {
  await attempt(`the checkpoints of ${domain.server} can't be removed`, async () => {
    const names = await ours(domain);
    if (names.length > 0) await dropOthers(domain, names, undefined);
  });
}

/** The bitmaps could not be used: without digests the next capture begins anew. */
export async function forgetTracking({ server }: DomainRef, { disks }: Tracking, why: DrError): Promise<void> {
  log.warn(`${server} is captured without its bitmaps, and its disks are read as a whole`, { error: why.message });
  for (const { earlier } of disks.values()) if (earlier !== undefined) await attempt('old digests can\'t be removed', () => forgetDigests(earlier.digests));
}

/** What was kept of a capture that is void is not believed. */
export async function forgetCapture({ disks }: Tracking): Promise<void> {
  for (const { digests } of disks.values()) await attempt('the digests of a void capture can\'t be removed', () => forgetDigests(digests));
}

/** Since which checkpoint changes are to be shown, by the disks' targets. */
export function shownSince({ disks }: Tracking): ReadonlyMap<string, string> {
  return new Map([...disks].flatMap(([target, { earlier }]) => earlier === undefined ? [] : [[target, earlier.name]]));
}

/** What `virsh backup-begin` is told of the checkpoint. */
export async function writeCheckpointXml(path: string, { name, disks: tracked }: Tracking, disks: readonly PlannedDisk[]): Promise<void> {
  const lines = disks.map(({ target }) => `    <disk name='${attribute(target)}' checkpoint='${tracked.has(target) ? 'bitmap' : 'no'}'/>`);
  await writeFile(path, ['<domaincheckpoint>', `  <name>${name}</name>`, '  <disks>', ...lines, '  </disks>', '</domaincheckpoint>', ''].join('\n'), { mode: 0o600, flag: 'wx' });
}

/** What spares reading all of a disk that a backup job serves on `socket`. `directory` is the capture's own. */
export async function changesOf({ server }: DomainRef, { disks }: Tracking, target: string, socket: string, directory: string, signal: AbortSignal): Promise<Pick<DataSource, 'hint' | 'keepDigests'>> {
  const disk = disks.get(target);
  if (disk === undefined) return {};
  const { digests: keepDigests, earlier } = disk;
  if (earlier === undefined) return { keepDigests };
  const changed = join(directory, `${basename(keepDigests)}.json`);
  const known = await attempt(`what has changed in disk ${target} of ${server} can't be told`, async () => {
    await writeDurable(changed, JSON.stringify((await dirtyExtents(socket, target, BITMAP, signal)).map(({ start, length }) => [start, length])));
    return true;
  });
  return known === undefined ? { keepDigests } : { keepDigests, hint: { digests: earlier.digests, changed } };
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

/** Removes all checkpoints but one, digests first; and digests of checkpoints that are gone, and old ones of servers that are. */
async function dropOthers(domain: DomainRef, names: readonly string[], kept: string | undefined): Promise<void> {
  for (const file of new Set((await digestFiles()).map((each) => each.replace(/\.(json|part)$/, '')))) {
    const [uuid, name] = file.split('.');
    const path = stateDirectory('checkpoints', file);
    const old = Date.now() - ((await stat(path).catch(() => undefined))?.mtimeMs ?? Date.now()) > FORGET_DAYS * 86_400_000; // one that is just being written has another name
    if (old || (uuid === domain.uuid && name !== kept)) await forgetDigests(path);
  }
  for (const name of names) if (name !== kept) await deleteCheckpoint(domain.uri, domain.uuid, name);
}
