import { placeImages } from '../cache/place.js';
import type { TargetConfig } from '../model/config.js';
import { DrError, type ErrorData } from '../model/errors.js';
import type { Space } from '../model/host.js';
import type { SetId, SetIntent } from '../model/image-set.js';
import type { RotationPlan, RotationStep, ServerOnTarget } from '../model/rotation.js';
import { planBegin } from '../rotation/plan.js';
import { freeFor } from '../stores/volume-choice.js';
import type { JobContext } from './context.js';
import { publishable } from './publishable.js';
import type { Located, LocatedServer, NodeSeen } from './locate.js';
import type { TargetSeen } from './observe.js';
import { checkImageNames, roomIn } from './plan-volumes.js';

/** What a run will do, decided from what was seen. Pure. */

export interface JobPlan {
  /** Servers that are down or open at the same time. */
  readonly batches: readonly Batch[];
  readonly refused: readonly { readonly server: string; readonly node: string | null; readonly error: ErrorData }[];
  /** Targets that are left out for a server while others are served. */
  readonly refusedTargets: readonly { readonly server: string; readonly target: string; readonly error: ErrorData }[];
  readonly notes: readonly string[];
}

export interface Batch {
  readonly servers: readonly PlannedServer[];
}

export interface PlannedServer {
  readonly at: LocatedServer;
  /** Cache drive by disk name; absent without cache. */
  readonly cache?: Readonly<Record<string, CachePlace>>;
  readonly targets: readonly PlannedTarget[];
}

export interface CachePlace {
  readonly node: string;
  readonly device: string;
  /** Only what differs from the images that are going to be recycled is expected to be written there. */
  readonly partial: boolean;
}

export interface PlannedTarget {
  readonly target: TargetConfig;
  /** What would be done to the images now; planned again from what is there when the time comes. */
  readonly steps: readonly RotationStep[];
  readonly needsBytes: number;
  /** By disk name: the proven set whose image of it is going to be recycled. */
  readonly recycled: Readonly<Record<string, SetId>>;
}

export interface JobSeen {
  readonly context: JobContext;
  readonly nodes: readonly NodeSeen[];
  readonly located: readonly Located[];
  readonly targets: readonly TargetSeen[];
  readonly now: Date;
}

export function planJob(seen: JobSeen): JobPlan {
  const refused: { server: string; node: string | null; error: ErrorData }[] = [];
  const refusedTargets: { server: string; target: string; error: ErrorData }[] = [];
  const servers: PlannedServer[] = [];
  const free = new Map(seen.targets.flatMap((target) => target.kind === 'seen' ? [[target.target, target.space] as const] : []));

  for (const one of seen.located) {
    if (one.kind === 'refused') {
      refused.push({ server: one.server, node: null, error: one.error });
      continue;
    }
    const { at } = one;
    const targets: PlannedTarget[] = [];
    const errors: { target: string; error: ErrorData }[] = [];
    for (const target of seen.context.targets) {
      try {
        targets.push(planTarget(seen, at, target, free));
      } catch (error) {
        errors.push({ target: target.name, error: DrError.from(error).toJSON() });
      }
    }
    const first = errors[0];
    if (targets.length === 0 && first !== undefined) refused.push({ server: at.server, node: at.node, error: first.error });
    else {
      servers.push({ at, targets });
      refusedTargets.push(...errors.map((error) => ({ server: at.server, ...error })));
    }
  }
  const plan = batchesOf(servers, seen);
  return { ...plan, notes: [...seen.targets.flatMap(warningsOf), ...plan.notes], refused, refusedTargets };
}

function warningsOf(seen: TargetSeen): readonly string[] {
  return seen.kind === 'seen' ? (seen.space.warnings ?? []).map((warning) => `${seen.target}: ${warning}`) : [];
}

function planTarget(seen: JobSeen, at: LocatedServer, target: TargetConfig, free: Map<string, Space>): PlannedTarget {
  const there = seen.targets.find((one) => one.target === target.name);
  if (there === undefined) throw new DrError('internal', `${target.name} was not looked at`);
  if (there.kind === 'unreachable') throw DrError.fromData(there.error);
  const server = there.servers.find((one) => one.server === at.server);
  if (server === undefined) throw new DrError('internal', `${target.name} said nothing of ${at.server}`);
  const left = free.get(target.name) ?? there.space;
  checkImageNames(at, target);
  publishable({ server: at, target, parts: left.parts }); // a definition that can't be rewritten is refused now, not after hours of copying
  const plan = planRotation(seen, at, server, freeFor(left, at.disks.map(({ bytes }) => bytes)));
  if (plan.kind === 'refusal') throw new DrError(plan.code, `cannot image ${at.server} to ${target.name}: ${plan.reason} Nothing was touched.`, plan.remedy);
  const parts = left.parts === undefined ? undefined : roomIn(left.parts, plan.steps, server);
  if (plan.needsBytes > left.freeBytes || parts?.lacking !== undefined) {
    const newest = server.images.filter((image) => image.state === 'proven' && image.slot !== 'incomplete').map((image) => image.capturedAt ?? '').sort().at(-1);
    throw new DrError('space', `cannot image ${at.server}: target ${target.name} has ${freeText(left)} free in ${target.store}, the run needs ${gib(Math.max(plan.needsBytes, parts?.lacking ?? 0))} there. Nothing was touched; ${newest === undefined ? 'there is no copy yet' : `the newest copy is from ${newest}`}.`,
      left.parts === undefined ? 'Free space there, extend the file system, or lower copies.' : 'An image is in one volume group: free space there, add a disk to one (vgextend), or lower copies.');
  }
  free.set(target.name, { ...left, freeBytes: left.freeBytes - plan.needsBytes, ...(parts === undefined ? {} : { parts: parts.left }) });
  return { target, steps: plan.steps, needsBytes: plan.needsBytes, recycled: recycledProven(plan.steps, at, server) };
}

/** Of which disks a proven image of the same size is going to be written over: what is in it may be known without reading. */
function recycledProven(steps: readonly RotationStep[], at: LocatedServer, there: ServerOnTarget): Record<string, SetId> {
  const recycled = steps.flatMap((step) => step.kind === 'begin' ? step.recycle : []);
  return Object.fromEntries(recycled.flatMap(({ disk, set }) => {
    const image = there.images.find((one) => one.disk === disk && one.identity?.set === set);
    return image?.state === 'proven' && image.bytes === at.disks.find((one) => one.disk === disk)?.bytes ? [[disk, set]] : [];
  }));
}

function freeText({ freeBytes, parts }: Space): string {
  return parts === undefined ? gib(freeBytes) : parts.map((part) => `${gib(part.freeBytes)} in ${part.name}`).join(' and ');
}

function planRotation({ context: { job, anvil }, now }: JobSeen, at: LocatedServer, there: ServerOnTarget, freeBytes: number): RotationPlan {
  const intent: SetIntent = {
    version: 1, set: '00000000T000000Z-0000000000000000', generation: there.generation + 1, anvil: anvil.name, job: job.name, server: at.server, uuid: at.uuid,
    node: at.node, capture: at.mode === 'live' ? 'live' : 'cold', consistency: 'crash', capturedAt: now.toISOString(),
    disks: at.disks.map(({ disk, target, bytes }) => ({ disk, target, bytes })),
  };
  return planBegin(there, { intent, copies: job.copies, overwriteOnlyCopy: job.overwriteOnlyCopy, freeBytes });
}

/**
 * Cache drives of a server's own node are used first, else those of another node. If everything fits at once all servers are one batch,
 * largest first; if not, or without cache, one server after the other.
 */
function batchesOf(servers: readonly PlannedServer[], { nodes }: JobSeen): Pick<JobPlan, 'batches' | 'notes'> {
  const holders = nodes.flatMap((node) => node.kind === 'seen' && node.drives.length > 0 ? [node] : []);
  const keeperOf = (server: PlannedServer) => holders.find((node) => node.host === server.at.node) ?? holders[0];
  const notes: string[] = [];
  const cached = new Map<string, PlannedServer>();
  let allAtOnce = holders.length > 0;

  for (const keeper of holders) {
    const mine = servers.filter((server) => keeperOf(server) === keeper);
    const placed = placeImages(mine.map(({ at, targets }) => ({ server: at.server, disks: at.disks.map(({ disk, bytes }) => ({ disk, bytes, partial: isPartial(targets, disk) })) })), keeper.drives);
    if (placed.kind === 'one-at-a-time') allAtOnce = false;
    for (const server of mine) {
      const places = placed.placements[server.at.server];
      if (places === undefined) {
        notes.push(`${server.at.server} does not fit on the cache drives of ${keeper.host}: it goes straight to the targets`);
        allAtOnce = false;
        continue;
      }
      cached.set(server.at.server, { ...server, cache: Object.fromEntries(Object.entries(places).map(([disk, device]) => [disk, { node: keeper.host, device, partial: isPartial(server.targets, disk) }])) });
    }
  }
  const planned = servers.map((server) => cached.get(server.at.server) ?? server).sort((a, b) => size(b) - size(a));
  return { notes, batches: allAtOnce && planned.length > 0 ? [{ servers: planned }] : planned.map((server) => ({ servers: [server] })) };
}

function isPartial(targets: readonly PlannedTarget[], disk: string): boolean {
  return targets.every(({ recycled }) => recycled[disk] !== undefined);
}

function size(server: PlannedServer): number {
  return server.at.disks.reduce((sum, { bytes }) => sum + bytes, 0);
}

function gib(bytes: number): string {
  const gibibytes = bytes / 2 ** 30;
  return gibibytes >= 10 ? `${String(Math.round(gibibytes))} GiB` : gibibytes >= 0.1 ? `${gibibytes.toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
