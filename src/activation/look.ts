import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { networkInterfaces } from 'node:os';
import si from 'systeminformation';
import { readDefinition, type DefinitionFacts } from '../definitions/read.js';
import { DrError, type ErrorData } from '../model/errors.js';
import type { SetId } from '../model/image-set.js';
import type { Slot } from '../model/names.js';
import type { ImageSeen, ServerOnTarget } from '../model/rotation.js';
import type { ActivationRequest } from '../model/views.js';
import { currentOf } from '../agent/target-hands.js';
import { openStore, type OpenStore } from '../stores/open.js';
import type { CurrentLinks } from '../stores/store.js';
import { readActivated } from '../stores/activated.js';
import { rememberedStores } from '../stores/remembered.js';
import { examine, newestWhole, sight, type Sighting, type WholeSet } from '../stores/examine.js';
import { hasCode } from '../system/durable.js';
import { log } from '../system/log.js';
import { VOLUME_LINK } from '../system/lvm.js';
import { domainState, listDomains } from '../system/virsh.js';
import { machineTypes } from '../system/virsh-host.js';

/** What disaster day starts from: definitions, sets, and this host. Reading only. */

export interface ServerToActivate {
  readonly server: string;
  readonly path: string;
  /** Why the definition can't be used, or what it says. */
  readonly facts: DefinitionFacts | ErrorData;
  readonly onTarget?: ServerOnTarget;
  /** The set that would be booted: the newest whole one, or the one with the sequence asked for. */
  readonly chosen?: { readonly set: SetId; readonly slot: Slot; readonly capturedAt: string | null };
  /** A domain of this name or UUID that is active here now. */
  readonly running: boolean;
  /** Paths the definition needs that are not there. */
  readonly missing: readonly string[];
}

export interface HostSeen {
  readonly memoryBytes: number;
  readonly freeMemoryBytes: number;
  readonly bridges: readonly string[];
  /** Machine types of the installed emulators; empty if they could not be asked. */
  readonly machines: readonly string[];
}

export interface ActivationSeen {
  readonly servers: readonly ServerToActivate[];
  readonly host: HostSeen;
  readonly target?: OpenStore & { readonly current: CurrentLinks };
  readonly sighting?: Sighting;
}

/** Throws `nothing-to-activate` when there is no definition at all, `usage` for a server that has none. */
export async function look(request: ActivationRequest): Promise<ActivationSeen> {
  const files = (await readdir(request.definitions).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return [];
    throw error;
  })).filter((name) => name.endsWith('.xml') && !name.startsWith('.')).sort();
  const all = files.map((name) => name.slice(0, -'.xml'.length));
  const stranger = request.servers.find((server) => !all.includes(server));
  if (stranger !== undefined) throw new DrError('usage', `there is no definition of ${stranger} in ${request.definitions}`, all.length === 0 ? 'There is none at all there.' : `There are: ${all.join(', ')}.`);
  const wanted = request.servers.length === 0 ? all : all.filter((server) => request.servers.includes(server));
  if (wanted.length === 0) throw new DrError('nothing-to-activate', `there are no definitions in ${request.definitions}. Nothing was touched.`, 'Name the directory with --definitions DIR.');

  const store = request.store ?? await storeOfLinks(request.current);
  const target = store === undefined ? undefined : openWithLinks(store, request.current);
  await target?.store.tidy().catch((error: unknown) => { log.warn('not every image could be made accessible', { why: DrError.from(error).message }); }); // what there is must do today
  const sighting = target === undefined ? undefined : await sight(target);
  const onTarget = target === undefined || sighting === undefined ? [] : await examine(sighting, target.current, await readActivated(), 'all');
  const active = (await listDomains(request.libvirt)).map(({ name }) => name);
  const servers = await Promise.all(wanted.map(async (server): Promise<ServerToActivate> => {
    const path = join(request.definitions, `${server}.xml`);
    const facts = await factsOf(path, server);
    const there = onTarget.find((one) => one.server === server);
    const found = 'code' in facts ? undefined : await domainState(request.libvirt, facts.uuid ?? facts.name);
    return {
      server, path, facts, running: found !== undefined ? found.state !== 'shut off' : active.includes(server) && (await domainState(request.libvirt, server))?.state !== 'shut off',
      missing: 'code' in facts ? [] : await missingPaths(facts),
      ...(there === undefined || sighting === undefined ? {} : { onTarget: there, ...chosenOf(sighting, there, request.sequence) }),
    };
  }));
  return { servers, host: await hostSeen(request.libvirt), ...(target === undefined ? {} : { target }), ...(sighting === undefined ? {} : { sighting }) };
}

function chosenOf(sighting: Sighting, { images }: ServerOnTarget, sequence: number | undefined): Pick<ServerToActivate, 'chosen'> {
  const whole = setWithSequence(sighting, images, sequence);
  if (whole === undefined) return {};
  return { chosen: { set: whole.set, slot: whole.slot, capturedAt: sighting.records.get(whole.set)?.about.capturedAt ?? null } };
}

/** The newest whole set, or the one with that sequence. One that was booted here before counts: it goes on from there. */
export function setWithSequence(sighting: Sighting, images: readonly ImageSeen[], sequence: number | undefined): WholeSet | undefined {
  return newestWhole(sighting, images.filter(({ slot }) => sequence === undefined || slot === sequence), true);
}

function openWithLinks(store: string, current: string): NonNullable<ActivationSeen['target']> {
  const open = openStore({ store, allocation: 'sparse' });
  return { ...open, current: currentOf({ current }, open) };
}

async function factsOf(path: string, server: string): Promise<DefinitionFacts | ErrorData> {
  try {
    return readDefinition(await readFile(path, 'utf8'), `the definition of ${server}`);
  } catch (error) {
    return DrError.from(error).toJSON();
  }
}

/** The store that the links lead to: the directory of the first image found through `current`, or the volume groups that jobs have named with these links. */
async function storeOfLinks(current: string): Promise<string | undefined> {
  for (const server of await readdir(current).catch(() => [])) { // no link was ever made
    const links = join(current, server);
    for (const disk of await readdir(links).catch(() => [])) { // dangling: the next one may not be
      const image = await readlink(join(links, disk)).catch(() => undefined); // no link
      if (image?.endsWith('.raw') === true) return `fs:${dirname(image)}`;
      if (image?.startsWith(VOLUME_LINK) === true) return await rememberedVolumes(current);
    }
  }
  return undefined;
}

/** The volume groups of all stores that jobs have named with these links: one that was added later may hold the newest set. */
async function rememberedVolumes(current: string): Promise<string | undefined> {
  const stores = (await rememberedStores()).filter((one) => one.current === current && one.store.startsWith('vg:'));
  const entries = stores.flatMap(({ store }) => store.slice('vg:'.length).split(','));
  const groups = new Map(entries.map((entry) => [entry.replace(/\/.*/, ''), entry]));
  return groups.size === 0 ? undefined : `vg:${[...groups.values()].join(',')}`;
}

async function missingPaths(facts: DefinitionFacts): Promise<string[]> {
  const wanted = [
    ...facts.disks.flatMap(({ path }) => path === undefined ? [] : [path]),
    ...facts.paths.map(({ path, need }) => need === 'exists' ? path : dirname(path)),
    ...facts.emulator === undefined ? [] : [facts.emulator],
  ];
  const there = await Promise.all(wanted.map((path) => stat(path).then(() => true, () => false)));
  return wanted.filter((_path, index) => there[index] === false);
}

async function hostSeen(uri: string): Promise<HostSeen> {
  const memory = await si.mem();
  return { memoryBytes: memory.total, freeMemoryBytes: memory.available, bridges: [...new Set([...Object.keys(networkInterfaces()), ...await readdir('/sys/class/net')])], machines: await machineTypes(uri) };
}
