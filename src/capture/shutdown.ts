import { setTimeout as sleep } from 'node:timers/promises';
import { DrError } from '../model/errors.js';
import type { Debt } from '../model/obligation.js';
import { run } from '../system/run.js';
import { step } from '../system/steps.js';
import { destroyDomain, domainInfo, domainState, dumpXml, jobActive, shutdownDomain } from '../system/virsh.js';
import { throwIfCancelled } from './open-captures.js';
import type { DomainRef, Owing } from './owing.js';

export interface ShutdownRequest extends DomainRef {
  readonly timeoutSeconds: number;
  readonly onTimeout: 'fail' | 'force-off';
  readonly lateWatchSeconds: number;
  /** The other nodes of the Anvil. */
  readonly peers: readonly { readonly host: string; readonly agentCommand: readonly string[] }[];
  /** Programs and arguments that replace `virsh shutdown` and `virsh start`; `{server}` is filled in. */
  readonly shutdownCommand?: readonly string[];
  readonly startCommand?: readonly string[];
}

type StartDebt = Extract<Debt, { readonly kind: 'start' }>;

const LOOK_EVERY_MS = 250;
/** How long a domain may take to be off after its plug was pulled. */
const DESTROYED_MS = 30_000;

/** Shuts servers down for one session, and brings them back. */
export class Shutdowns {
  readonly #owing: Owing;
  /** By the domain's UUID. */
  readonly #owed = new Map<string, { readonly id: string; readonly debt: StartDebt }>();

  constructor(owing: Owing) {
    this.#owing = owing;
  }

  /**
   * Shuts a server down and returns when it was off (RFC 3339). From before the request on its start is owed. Throws `shutdown-timeout`
   * when it ignored the request: it is watched from then on, and started if it goes down after all.
   */
  async shutDown(request: ShutdownRequest, signal: AbortSignal): Promise<string> {
    const known = this.#owed.get(request.uuid);
    if (known?.debt.wentDown === true && await isOff(request)) return new Date().toISOString();
    const debt = await this.#debtFor(request);
    throwIfCancelled(signal);
    const { id } = await this.#owing.owe(debt);
    this.#owed.set(request.uuid, { id, debt });
    step('shutdown-before-request');
    await this.#request(request, id);
    if (!await waitUntilOff(request, request.timeoutSeconds * 1000, signal)) await onTimeout(request, signal);
    await this.#noteDown(request.uuid);
    step('shutdown-after-off');
    return new Date().toISOString();
  }

  /**
   * Brings a server back that this session shut down; when it was up (RFC 3339). One that ignored its shutdown goes on being watched;
   * one that was never asked to shut down is left alone. Throws `start-owed` if it can't be known that it runs nowhere else.
   */
  async bootAgain(uuid: string): Promise<string> {
    const owed = this.#owed.get(uuid);
    if (owed !== undefined && await this.#owing.pay(owed.id) !== 'watching') this.#owed.delete(uuid);
    return new Date().toISOString();
  }

  /** What must be known to start the server again, taken while it runs. */
  async #debtFor(request: ShutdownRequest): Promise<StartDebt> {
    const info = await domainInfo(request.uri, request.uuid);
    if (info === undefined) throw new DrError('server-unknown', `there is no domain ${request.server} (${request.uuid}) on this node. Nothing was touched.`, 'Run the job again.');
    if (info.state === 'shut off') throw new DrError('state-changed', `${request.server} is off already. Nothing was touched.`, 'Run the job again: a server that is off is read as it is.');
    const job = await jobActive(request.uri, request.uuid);
    if (job !== undefined) {
      throw new DrError('refused', `${request.server} can't be shut down now: libvirt is busy with a job of its own (${job}). Nothing was touched.`, `Wait until it has ended (virsh domjobinfo ${request.server}).`);
    }
    return {
      kind: 'start', uri: request.uri, server: request.server, uuid: request.uuid, persistent: info.persistent,
      xml: await dumpXml(request.uri, request.uuid, { inactive: true }),
      peers: request.peers.map(({ host }) => host), agentCommand: request.peers[0]?.agentCommand ?? [],
      ...(request.startCommand === undefined ? {} : { startCommand: request.startCommand }),
      watchUntil: new Date(Date.now() + (request.timeoutSeconds + request.lateWatchSeconds) * 1000).toISOString(), wentDown: false,
    };
  }

  async #request(request: ShutdownRequest, id: string): Promise<void> {
    const [program, ...args] = (request.shutdownCommand ?? []).map((word) => word.replaceAll('{server}', request.server));
    try {
      if (program === undefined) await shutdownDomain(request.uri, request.uuid);
      else await run(program, args, { timeoutMs: request.timeoutSeconds * 1000 });
    } catch (error) {
      const failure = DrError.from(error);
      // libvirt refused, so the guest heard nothing. A command of the administrator's may have done half its work: that is watched.
      if (program === undefined && failure.code === 'program-failed') {
        await this.#owing.settled(id);
        this.#owed.delete(request.uuid);
      }
      throw new DrError('capture-failed', `${request.server} could not be asked to shut down: ${failure.message}`, failure.hint, { cause: error });
    }
  }

  async #noteDown(uuid: string): Promise<void> {
    const owed = this.#owed.get(uuid);
    if (owed === undefined) return;
    const debt = { ...owed.debt, wentDown: true };
    await this.#owing.amend(owed.id, debt);
    this.#owed.set(uuid, { id: owed.id, debt });
  }
}

async function isOff(domain: DomainRef): Promise<boolean> {
  const state = (await domainState(domain.uri, domain.uuid))?.state;
  return state === undefined || state === 'shut off'; // a transient domain vanishes
}

async function waitUntilOff(domain: DomainRef, timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (!await isOff(domain)) {
    if (signal !== undefined) throwIfCancelled(signal);
    if (performance.now() >= deadline) return false;
    await sleep(LOOK_EVERY_MS);
  }
  return true;
}

async function onTimeout(request: ShutdownRequest, signal: AbortSignal): Promise<void> {
  if (request.onTimeout === 'fail') {
    throw new DrError('shutdown-timeout', `${request.server} did not shut down in ${String(request.timeoutSeconds)} s. It runs on; should it go down later, it is started again.`,
      'Install a guest agent or enable ACPI in the guest, raise shutdown_timeout, or set on_shutdown_timeout: force-off.');
  }
  throwIfCancelled(signal);
  await destroyDomain(request.uri, request.uuid);
  if (!await waitUntilOff(request, DESTROYED_MS)) {
    throw new DrError('shutdown-timeout', `${request.server} was forced off but is still not off after ${String(DESTROYED_MS / 1000)} s`, 'Its QEMU process may wait for a device that does not answer.');
  }
}
