import { randomBytes } from 'node:crypto';
import type { Agent } from '../agent/connect.js';
import type { Capture, Params } from '../agent/protocol.js';
import type { TargetConfig } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { Space } from '../model/host.js';
import { newSetId, type SetId, type SetIntent } from '../model/image-set.js';
import { imageName } from '../model/names.js';
import type { ImageReport } from '../model/report.js';
import type { RotationPlan, ServerOnTarget } from '../model/rotation.js';
import { planBegin, planComplete } from '../rotation/plan.js';
import { freeFor } from '../stores/volume-choice.js';
import { step } from '../system/steps.js';
import { routeTo, seenFromOthers, storeOf, type Emit, type JobContext } from './context.js';
import type { Hosts } from './hosts.js';
import type { LocatedServer } from './locate.js';
import { persist } from './persist.js';
import { publishable } from './publishable.js';
import type { Patience } from './retry.js';
import { transfer, type DiskSource } from './transfer.js';

/** One server's capture on its way to one target: make room, send, and, once the capture is known to be valid, complete. */

export interface Delivery {
  readonly context: JobContext;
  readonly server: LocatedServer;
  readonly target: TargetConfig;
  readonly hosts: Hosts;
  readonly signal: AbortSignal;
  readonly emit: Emit;
  readonly patience: Patience;
  /** Takes what a person should know although nothing failed. */
  readonly note: (text: string) => void;
}

/** A set whose blocks have all arrived; it becomes an image set only by `complete`. */
export interface Delivered {
  /** Who holds the lock and the tickets: with its connection both are gone. */
  readonly agent: Agent;
  readonly room: Room;
  readonly images: readonly ImageReport[];
  readonly proofs: Params<'store.prove'>['disks'];
}

/** What one try leaves to the next. */
interface SoFar {
  agent?: Agent;
  /** The set that the `incomplete` images are bound to, once they are. */
  room?: Room;
  readonly arrived: Map<string, Arrived>;
  /** Bytes sent by tries that failed, by disk. */
  readonly inVain: Map<string, number>;
}

/** The `incomplete` images, bound to a new set, and the parts of the store that they are in. */
interface Room {
  readonly set: SetId;
  readonly parts: Space['parts'];
}

interface Arrived {
  readonly image: ImageReport;
  readonly proof: Params<'store.prove'>['disks'][string];
}

/**
 * Rotates, and sends every disk into the `incomplete` images; what the link or a process at either end spoils is tried again and goes on where it was.
 * Nothing is complete after this.
 */
export async function send(delivery: Delivery, capture: Capture, sources: Readonly<Record<string, DiskSource>>): Promise<Delivered> {
  const { server, target, patience, note } = delivery;
  const soFar: SoFar = { arrived: new Map(), inVain: new Map() };
  const signal = AbortSignal.any([delivery.signal, ...Object.values(sources).map(({ agent }) => agent.lost)]); // a capture ends with its agent
  return await persist(() => trySending(delivery, capture, sources, soFar), { patience, signal, what: `sending ${server.server} to ${target.name}`, told: note });
}

async function trySending(delivery: Delivery, capture: Capture, sources: Readonly<Record<string, DiskSource>>, soFar: SoFar): Promise<Delivered> {
  const { server, emit, target } = delivery;
  const agent = await holding(delivery);
  if (agent !== soFar.agent) soFar.arrived.clear(); // the tickets ended with the agent that made them: those disks are compared again
  soFar.agent = agent;
  if (soFar.room === undefined) {
    step('deliver-before');
    emit({ kind: 'phase', server: server.server, target: target.name, phase: 'rotating' });
    soFar.room = await makeRoom(delivery, agent, capture);
  }
  const { room } = soFar;
  for (const disk of server.disks) {
    const from = sources[disk.target];
    if (from === undefined) throw new DrError('internal', `the capture of ${server.server} has no ${disk.target}`);
    if (!soFar.arrived.has(disk.disk)) soFar.arrived.set(disk.disk, await sendDisk(delivery, agent, room.set, disk, from, soFar.inVain));
  }
  step('deliver-after');
  const arrived = [...soFar.arrived];
  return { agent, room, images: arrived.map(([, { image }]) => image), proofs: Object.fromEntries(arrived.map(([disk, { proof }]) => [disk, proof])) };
}

/**
 * The target's agent, with this server's lock: a new one has none of the old one's, and asking again for a lock that it holds changes nothing. What another run
 * may have done while nobody held the lock shows in the set that the images are bound to.
 */
async function holding({ hosts, server, target, patience, signal }: Delivery): Promise<Agent> {
  const agent = await hosts.connected(target.host, patience.connectMs);
  await agent.call('lock', { name: `server-${server.server}`, what: `${server.server} on ${target.host}` }, { signal });
  return agent;
}

/** Vacates slot 1 and binds the `incomplete` images to a new set. */
async function makeRoom(delivery: Delivery, agent: Agent, capture: Capture): Promise<Room> {
  const { job } = delivery.context;
  const set = newSetId(new Date(capture.capturedAt), randomBytes(8).toString('hex'));
  const { parts } = await rotate(delivery, agent, (seen, freeBytes) => planBegin(seen, {
    intent: intentOf(delivery, capture, set, seen.generation + 1), copies: job.copies, overwriteOnlyCopy: job.overwriteOnlyCopy, freeBytes,
  }));
  return { set, parts };
}

async function sendDisk(delivery: Delivery, agent: Agent, set: SetId, disk: LocatedServer['disks'][number], from: DiskSource, inVain: Map<string, number>): Promise<Arrived> {
  const { context: { config }, server, target, signal, emit } = delivery;
  const place = await agent.call('store.incomplete', { store: storeOf(target), server: server.server, disk: disk.disk, set, reproveAfterSeconds: config.reproveAfterSeconds }, { signal });
  const moved = await transfer({
    from, to: agent, route: routeTo(config, from.agent.host === 'local' ? target.reach : seenFromOthers(target.reach)), path: place.path, start: place.start, readBack: true, signal,
    bandwidth: target.bandwidth, streams: target.streams,
    show: { emit, what: 'sending', server: server.server, disk: disk.disk, to: target.name },
    inVain: (bytes) => { inVain.set(disk.disk, (inVain.get(disk.disk) ?? 0) + bytes); },
  });
  if (moved.note !== undefined) delivery.note(`${server.server} disk ${disk.disk}: ${moved.note}`);
  if (from.digest !== undefined && from.digest !== moved.digest) {
    throw new DrError('cache-lost', `${server.server} disk ${disk.disk}: what was read from the cache drive is not what was captured. The image on ${target.name} was not completed; older copies are untouched.`,
      'Replace the cache drive; the next run works without it.');
  }
  return {
    proof: { ticket: moved.ticket, digest: moved.digest },
    image: {
      target: target.name, name: imageName(server.server, disk.disk, 1), disk: disk.disk, bytes: disk.bytes, bytes_read: moved.bytesRead,
      bytes_sent: moved.bytesSent + (inVain.get(disk.disk) ?? 0), bytes_written: moved.bytesWritten, digest: moved.digest, cached: from.digest !== undefined,
    },
  };
}

/** Proves the set, publishes the definition if there is none, gives the set its name and prunes what is surplus. */
export async function complete(delivery: Delivery, capture: Capture, delivered: Delivered): Promise<void> {
  const { context: { job }, server, target, signal, emit } = delivery;
  const { agent } = delivered;
  emit({ kind: 'phase', server: server.server, target: target.name, phase: 'proving' });
  await agent.call('store.prove', {
    store: storeOf(target), set: delivered.room.set, disks: delivered.proofs, definition: server.seen.definitionFile ?? capture.xml,
    ...(capture.nvram === undefined ? {} : { nvram: capture.nvram }), ...(capture.tpm === undefined ? {} : { tpm: capture.tpm }),
  }, { signal });
  await agent.call('definition.publish', { store: storeOf(target), server: server.server, xml: publishable({ server, target, parts: delivered.room.parts }) }, { signal });
  await rotate(delivery, agent, (seen) => planComplete(seen, delivered.room.set, job.copies));
  emit({ kind: 'phase', server: server.server, target: target.name, phase: 'complete' });
  await agent.call('store.tidy', { store: storeOf(target), server: server.server }, { signal });
}

/** Looks, plans and executes: whatever a run that died here has left is part of what is seen. Gives the room that was seen. */
async function rotate({ context, server, target, signal }: Delivery, agent: Agent, plan: (seen: ServerOnTarget, freeBytes: number) => RotationPlan): Promise<Space> {
  const { servers: [seen], space } = await agent.call('store.observe', {
    store: storeOf(target), servers: [{ server: server.server, uuid: server.uuid, anvil: context.anvil.name, disks: server.disks.map(({ disk }) => disk), copies: context.job.copies }],
  }, { signal });
  if (seen === undefined) throw new DrError('internal', `${target.name} said nothing of ${server.server}`);
  const next = plan(seen, freeFor(space, server.disks.map(({ bytes }) => bytes)));
  if (next.kind === 'refusal') throw new DrError(next.code, next.reason, next.remedy);
  await agent.call('store.execute', { store: storeOf(target), server: server.server, steps: [...next.steps] }, { signal });
  return space;
}

function intentOf({ context, server }: Delivery, capture: Capture, set: SetId, generation: number): SetIntent {
  return {
    version: 1, set, generation, anvil: context.anvil.name, job: context.job.name, server: server.server, uuid: server.uuid, node: server.node,
    nodes: context.anvil.nodes.map(seenFromOthers),
    capture: server.mode === 'live' ? 'live' : 'cold', consistency: capture.consistency, capturedAt: capture.capturedAt,
    disks: server.disks.map(({ disk, target, bytes }) => ({ disk, target, bytes })),
  };
}
