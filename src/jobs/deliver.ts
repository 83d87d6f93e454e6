import { randomBytes } from 'node:crypto';
import type { Agent } from '../agent/connect.js';
import type { Capture, Params } from '../agent/protocol.js';
import type { TargetConfig } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { DataSource } from '../model/host.js';
import { newSetId, type SetId, type SetIntent } from '../model/image-set.js';
import { imageName } from '../model/names.js';
import type { ImageReport } from '../model/report.js';
import type { RotationPlan, ServerOnTarget } from '../model/rotation.js';
import { planBegin, planComplete } from '../rotation/plan.js';
import { freeFor } from '../stores/volume-choice.js';
import { step } from '../system/steps.js';
import { routeTo, seenFromOthers, storeOf, type Emit, type JobContext } from './context.js';
import type { LocatedServer } from './locate.js';
import { publishable } from './publishable.js';
import { transfer } from './transfer.js';

/** One server's capture on its way to one target: make room, send, and, once the capture is known to be valid, complete. */

export interface Delivery {
  readonly context: JobContext;
  readonly server: LocatedServer;
  readonly target: TargetConfig;
  readonly agent: Agent;
  readonly signal: AbortSignal;
  readonly emit: Emit;
  /** Takes what a person should know although nothing failed. */
  readonly note: (text: string) => void;
}

/** A set whose blocks have all arrived; it becomes an image set only by `complete`. */
export interface Delivered {
  readonly set: SetId;
  readonly images: readonly ImageReport[];
  readonly proofs: Params<'store.prove'>['disks'];
}

/** Where a disk's bytes are read: on which host, and from which path. */
export interface DiskSource {
  readonly agent: Agent;
  readonly source: DataSource;
  /** Digest of what was captured, when it is known from an earlier hop. */
  readonly digest?: string;
}

/** Rotates, and sends every disk into the `incomplete` images. Nothing is complete after this. */
export async function send(delivery: Delivery, capture: Capture, sources: Readonly<Record<string, DiskSource>>): Promise<Delivered> {
  const { context: { config, job }, server, target, agent, signal, emit } = delivery;
  step('deliver-before');
  const set = newSetId(new Date(capture.capturedAt), randomBytes(8).toString('hex'));
  emit({ kind: 'phase', server: server.server, target: target.name, phase: 'rotating' });
  await rotate(delivery, (seen, freeBytes) => planBegin(seen, {
    intent: intentOf(delivery, capture, set, seen.generation + 1), copies: job.copies, overwriteOnlyCopy: job.overwriteOnlyCopy, freeBytes,
  }));

  const images: ImageReport[] = [];
  const proofs: Record<string, { ticket: string; digest: string }> = {};
  for (const disk of server.disks) {
    const from = sources[disk.target];
    if (from === undefined) throw new DrError('internal', `the capture of ${server.server} has no ${disk.target}`);
    const place = await agent.call('store.incomplete', { store: storeOf(target), server: server.server, disk: disk.disk, reproveAfterSeconds: config.reproveAfterSeconds }, { signal });
    const moved = await transfer({
      from, to: agent, route: routeTo(config, from.agent.host === 'local' ? target.reach : seenFromOthers(target.reach)), path: place.path, start: place.start, readBack: true, signal,
      bandwidth: target.bandwidth,
      show: { emit, what: 'sending', server: server.server, disk: disk.disk, to: target.name },
    });
    if (moved.note !== undefined) delivery.note(`${server.server} disk ${disk.disk}: ${moved.note}`);
    if (from.digest !== undefined && from.digest !== moved.digest) {
      throw new DrError('cache-lost', `${server.server} disk ${disk.disk}: what was read from the cache drive is not what was captured. The image on ${target.name} was not completed; older copies are untouched.`,
        'Replace the cache drive; the next run works without it.');
    }
    proofs[disk.disk] = { ticket: moved.ticket, digest: moved.digest };
    images.push({
      target: target.name, name: imageName(server.server, disk.disk, 1), disk: disk.disk, bytes: disk.bytes, bytes_read: moved.bytesRead,
      bytes_sent: moved.bytesSent, bytes_written: moved.bytesWritten, digest: moved.digest, cached: from.digest !== undefined,
    });
  }
  step('deliver-after');
  return { set, images, proofs };
}

/** Proves the set, publishes the definition if there is none, gives the set its name and prunes what is surplus. */
export async function complete(delivery: Delivery, capture: Capture, delivered: Delivered): Promise<void> {
  const { context: { job }, server, target, agent, signal, emit } = delivery;
  emit({ kind: 'phase', server: server.server, target: target.name, phase: 'proving' });
  await agent.call('store.prove', {
    store: storeOf(target), set: delivered.set, disks: delivered.proofs, definition: server.seen.definitionFile ?? capture.xml,
    ...(capture.nvram === undefined ? {} : { nvram: capture.nvram }), ...(capture.tpm === undefined ? {} : { tpm: capture.tpm }),
  }, { signal });
  const { space: { parts } } = await agent.call('store.space', { store: storeOf(target) }, { signal });
  await agent.call('definition.publish', { store: storeOf(target), server: server.server, xml: publishable({ server, target, parts }) }, { signal });
  await rotate(delivery, (seen) => planComplete(seen, delivered.set, job.copies));
  emit({ kind: 'phase', server: server.server, target: target.name, phase: 'complete' });
  await agent.call('store.tidy', { store: storeOf(target), server: server.server }, { signal });
}

/** Looks, plans and executes: whatever a run that died here has left is part of what is seen. */
async function rotate({ context, server, target, agent, signal }: Delivery, plan: (seen: ServerOnTarget, freeBytes: number) => RotationPlan): Promise<void> {
  const { servers: [seen], space } = await agent.call('store.observe', {
    store: storeOf(target), servers: [{ server: server.server, uuid: server.uuid, anvil: context.anvil.name, disks: server.disks.map(({ disk }) => disk), copies: context.job.copies }],
  }, { signal });
  if (seen === undefined) throw new DrError('internal', `${target.name} said nothing of ${server.server}`);
  const next = plan(seen, freeFor(space, server.disks.map(({ bytes }) => bytes)));
  if (next.kind === 'refusal') throw new DrError(next.code, next.reason, next.remedy);
  await agent.call('store.execute', { store: storeOf(target), server: server.server, steps: [...next.steps] }, { signal });
}

function intentOf({ context, server }: Delivery, capture: Capture, set: SetId, generation: number): SetIntent {
  return {
    version: 1, set, generation, anvil: context.anvil.name, job: context.job.name, server: server.server, uuid: server.uuid, node: server.node,
    nodes: context.anvil.nodes.map(seenFromOthers),
    capture: server.mode === 'live' ? 'live' : 'cold', consistency: capture.consistency, capturedAt: capture.capturedAt,
    disks: server.disks.map(({ disk, target, bytes }) => ({ disk, target, bytes })),
  };
}
