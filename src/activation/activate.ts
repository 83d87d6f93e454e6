import { setTimeout as sleep } from 'node:timers/promises';
import { DrError } from '../model/errors.js';
import type { ActivationEvent, ActivationPlanView, ActivationReport, ActivationRequest, PlannedActivation } from '../model/views.js';
import { planRepair } from '../rotation/plan.js';
import { rotate } from '../rotation/rotate.js';
import { markActivated, readActivated } from '../stores/activated.js';
import { examine, sight } from '../stores/examine.js';
import { lock } from '../system/flock.js';
import { log } from '../system/log.js';
import { stateDirectory } from '../system/state.js';
import { createDomain, domainState } from '../system/virsh.js';
import { originalsAlive } from './fence.js';
import { look, setWithSequence, type ActivationSeen } from './look.js';
import { planActivation } from './plan.js';
import { restoreTpm } from './tpm.js';

export interface ActivateOptions {
  readonly signal: AbortSignal;
  readonly confirm: (plan: ActivationPlanView) => Promise<boolean>;
  readonly onEvent: (event: ActivationEvent) => void;
}

type Outcome = ActivationReport['servers'][number];

/** Servers that are booted at the same time. */
const AT_ONCE = 3;
/** A run whose head has died holds its locks until its agents notice. */
const LOCK_WAIT_SECONDS = 15;
/** A domain that is gone this soon after its start has not booted, in milliseconds. */
const SETTLE_MS = 2_000;

/**
 * Boots servers from their copies on this host, with nothing else reachable. Looks, plans, asks; marks each server before it is started, so
 * that no job touches its images afterwards. Run again it goes on with those that do not run. Throws what keeps it from planning.
 */
export async function activate(request: ActivationRequest, { signal, confirm, onEvent }: ActivateOptions): Promise<ActivationReport> {
  const seen = await look(request);
  const alive = request.originalsAreOff ? new Map<string, never>() : await originalsAlive(seen, request.libvirt);
  const plan = planActivation({ servers: seen.servers, host: seen.host, alive, ...(request.sequence === undefined ? {} : { sequence: request.sequence }) });
  const yes = await confirm(plan);
  if (request.dryRun) return { outcome: 'dry-run', servers: plan.servers.map((one) => ({ ...brief(one), outcome: one.action === 'boot' ? 'planned' : one.action, ...reasonOf(one) })) };
  if (plan.refusal !== undefined) return { outcome: 'refused', servers: plan.servers.map((one) => ({ ...brief(one), outcome: 'refused', ...reasonOf(one) })), error: plan.refusal };
  if (!yes) throw new DrError('not-confirmed', 'nothing was booted: it was not confirmed', 'Answer yes, or give --yes.');

  const outcomes = new Map<string, Outcome>();
  const waiting = [...plan.servers];
  const work = async (): Promise<void> => {
    for (let one = waiting.shift(); one !== undefined; one = waiting.shift()) outcomes.set(one.server, await bootOne(one, seen, request, signal, onEvent));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const servers = plan.servers.flatMap(({ server }) => outcomes.get(server) ?? []);
  return { outcome: outcomeOf(servers, signal.aborted), servers };
}

async function bootOne(one: PlannedActivation, seen: ActivationSeen, request: ActivationRequest, signal: AbortSignal, onEvent: ActivateOptions['onEvent']): Promise<Outcome> {
  if (one.action !== 'boot') {
    onEvent({ kind: 'skipped', server: one.server, detail: one.action === 'running' ? 'it runs here already' : one.reason?.message ?? 'refused' });
    return { ...brief(one), outcome: one.action, ...reasonOf(one) };
  }
  if (signal.aborted) return { ...brief(one), outcome: 'skipped' };
  onEvent({ kind: 'booting', server: one.server });
  try {
    await boot(one, seen, request);
    onEvent({ kind: 'booted', server: one.server });
    return { ...brief(one), outcome: 'booted' };
  } catch (thrown) {
    const error = DrError.from(thrown).toJSON();
    onEvent({ kind: 'failed', server: one.server, error });
    return { ...brief(one), outcome: 'failed', error };
  }
}

async function boot(one: PlannedActivation, seen: ActivationSeen, request: ActivationRequest): Promise<void> {
  const server = seen.servers.find(({ server: name }) => name === one.server);
  if (server === undefined || seen.target === undefined) throw new DrError('internal', `${one.server} was planned without a set`);
  // The same lock that a job holds while it writes here: never boot from names that are being moved.
  await using _lock = await lock(stateDirectory('locks', `server-${one.server}.lock`), `${one.server} on this host`, LOCK_WAIT_SECONDS);
  const { set, paths, onTarget, sighting } = await setToBoot(seen.target, one.server, request.sequence);
  if (!request.originalsAreOff) {
    // The plan may have waited for its answer for an hour.
    const reason = (await originalsAlive({ servers: [{ ...server, onTarget }], sighting }, request.libvirt)).get(one.server);
    if (reason !== undefined) throw DrError.fromData(reason);
  }
  await markActivated({ server: one.server, set: set.set, at: new Date().toISOString(), by: 'by dr-activate' });
  await seen.target.current.point(one.server, { set: set.set, slot: set.slot, paths });
  if (!('code' in server.facts) && server.facts.tpm && server.facts.uuid !== undefined) await restoreTpm(seen.target.catalog.directory(set.set), server.facts.uuid);
  await createDomain(request.libvirt, one.definition);
  await sleep(SETTLE_MS);
  const state = await domainState(request.libvirt, one.server);
  if (state === undefined || state.state === 'shut off') {
    throw new DrError('activation-failed', `${one.server} was started and has ended again at once`, `Look at /var/log/libvirt/qemu/${one.server}.log and at its console; then run dr-activate again.`);
  }
}

/**
 * The set to boot and where its disks are, looked at under the server's lock: a job may have moved names since the plan was shown. What a
 * run left half-way is put right first, so that the newest proven set has a number.
 */
async function setToBoot(target: NonNullable<ActivationSeen['target']>, server: string, sequence: number | undefined) {
  const look = async () => {
    const sighting = await sight(target);
    const [onTarget] = (await examine(sighting, target.current, await readActivated(), 'all')).filter((one) => one.server === server);
    return { sighting, onTarget };
  };
  let { sighting, onTarget } = await look();
  if (onTarget !== undefined) {
    const repair = planRepair(onTarget);
    if (repair.kind === 'plan' && repair.steps.length > 0) {
      // What can't be put right today (a volume group that lacks a disk takes no changes) keeps nobody from booting what is whole.
      await rotate(target, server, repair.steps).catch((error: unknown) => { log.warn('an interrupted rotation could not be finished', { server, why: DrError.from(error).message }); });
      ({ sighting, onTarget } = await look());
    }
  }
  const set = setWithSequence(sighting, onTarget?.images ?? [], sequence);
  if (onTarget === undefined || set === undefined) {
    throw new DrError('nothing-to-activate', `${server} has no complete set${sequence === undefined ? '' : ` with sequence ${String(sequence)}`} here any more`, 'See dr images for what there is.');
  }
  return { set, paths: set.paths, onTarget, sighting };
}

function brief(one: PlannedActivation): Pick<Outcome, 'server' | 'set' | 'captured_at'> {
  return { server: one.server, set: one.set, captured_at: one.captured_at };
}

function reasonOf(one: PlannedActivation): { error?: NonNullable<Outcome['error']> } {
  return one.reason === undefined ? {} : { error: one.reason };
}

function outcomeOf(servers: readonly Outcome[], cancelled: boolean): ActivationReport['outcome'] {
  if (cancelled) return 'cancelled';
  const good = servers.filter(({ outcome }) => outcome === 'booted' || outcome === 'running').length;
  if (good === servers.length) return 'ok';
  return good > 0 ? 'partial' : 'failed';
}
