import type { Agent } from '../agent/connect.js';
import type { Capture } from '../agent/protocol.js';
import { DrError } from '../model/errors.js';
import type { ImageReport, ServerReport } from '../model/report.js';
import { step } from '../system/steps.js';
import { cacheCapture, type CachedCapture } from './cache-capture.js';
import { routeTo, type Emit, type JobContext } from './context.js';
import { complete, send, type Delivered, type Delivery, type DiskSource } from './deliver.js';
import type { Hosts } from './hosts.js';
import type { PlannedServer } from './plan-job.js';
import type { Leash } from './running.js';
import { watchCold } from './watch-cold.js';

/**
 * One server on its way through a run: shut down if the job says so, captured, cached or sent, brought back, completed on every target.
 * Each method may be called once, in the order they are written; `bringBack` may always be called again.
 */
export class ServerRun {
  readonly #images: ImageReport[] = [];
  readonly #notes: string[] = [];
  readonly #node: Agent;
  #capture: Capture | undefined;
  #captureOpen = false;
  #cached: CachedCapture | undefined;
  #delivered: { readonly delivery: Delivery; readonly delivered: Delivered }[] = [];
  #failedTargets: { readonly target: string; readonly error: DrError }[] = [];
  #wentDown: number | undefined;
  #downMs = 0;
  #owesStart = false;
  #error: DrError | undefined;

  constructor(
    readonly context: JobContext, readonly plan: PlannedServer, readonly hosts: Hosts, readonly emit: Emit,
    readonly leash: Leash,
  ) {
    this.#node = hosts.agent(plan.at.node);
  }

  /** Aborted when the run, or this server, is cancelled. */
  get signal(): AbortSignal {
    return this.leash.signal;
  }

  get failed(): boolean {
    return this.#error !== undefined;
  }

  /** What fails after the first failure is noted: a start that stays owed must not hide behind what led to it. */
  fail(thrown: unknown): void {
    const error = DrError.from(thrown);
    if (this.#error !== undefined && this.#error.message !== error.message) this.note(error.message);
    this.#error ??= error;
    this.emit({ kind: 'phase', server: this.plan.at.server, phase: 'failed', detail: this.#error.message });
  }

  /** Takes the locks of this server on its node and on its targets; they are held until the agents' sessions end. */
  async lock(): Promise<void> {
    const { server } = this.plan.at;
    const hosts = [this.plan.at.node, ...this.plan.targets.map(({ target }) => target.host)];
    for (const host of new Set(hosts)) await this.hosts.agent(host).call('lock', { name: `server-${server}`, what: `${server} on ${host}` }, { signal: this.signal });
  }

  async shutDown(): Promise<void> {
    const { at } = this.plan;
    const { job, anvil, config } = this.context;
    if (at.mode !== 'shutdown') return;
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'shutting-down' });
    this.#owesStart = true;
    const { downAt } = await this.#node.call('capture.shutDown', {
      uri: anvil.libvirt, server: at.server, uuid: at.uuid, timeoutSeconds: job.shutdownTimeoutSeconds, onTimeout: job.onShutdownTimeout,
      lateWatchSeconds: job.lateShutdownWatchSeconds, peers: anvil.nodes.filter((node) => node !== at.node).map((node) => routeTo(config, node)),
      ...(anvil.commands.shutdown === undefined ? {} : { shutdownCommand: [...anvil.commands.shutdown] }),
      ...(anvil.commands.start === undefined ? {} : { startCommand: [...anvil.commands.start] }),
    }, { signal: this.signal });
    this.#wentDown = Date.parse(downAt);
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'down' });
  }

  /** Opens the capture, moves its bytes to the cache or, without one, to the targets, closes it and brings the server back. */
  async image(): Promise<void> {
    const { at } = this.plan;
    const { anvil, job } = this.context;
    step('batch-before-capture');
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'capturing' });
    const request = {
      uri: anvil.libvirt, server: at.server, uuid: at.uuid, xml: at.seen.xml, tpm: at.seen.tpm,
      disks: at.disks.map(({ target, path, format, bytes }) => ({ target, path, format, bytes })),
      ...(at.seen.nvram === undefined ? {} : { nvram: at.seen.nvram }),
    };
    this.#capture = at.mode === 'live'
      ? await this.#node.call('capture.openLive', { ...request, scratch: job.scratch, signature: this.context.config.cacheSignature, scratchReserveBytes: job.scratchReserveBytes, maxSeconds: job.maxJobTimeSeconds }, { signal: this.signal })
      : await this.#node.call('capture.openCold', request, { signal: this.signal });
    this.#captureOpen = true;
    step('batch-after-capture');
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'captured', ms: this.#capture.frozenMs });

    const watch = at.mode === 'live' ? undefined : watchCold(this.hosts, this.context, at);
    const signal = watch === undefined ? this.signal : AbortSignal.any([this.signal, watch.signal]);
    try {
      this.#cached = await cacheCapture(this, this.#capture, signal, (note) => { this.note(note); });
      if (this.#cached === undefined) await this.#sendAll(this.#capture, this.#direct(this.#capture), signal);
    } catch (error) {
      throw watch?.signal.aborted === true ? watch.signal.reason : error;
    } finally {
      watch?.stop();
    }
    await this.#closeCapture();
    await this.bringBack().catch(() => undefined); // what was captured is good all the same; it is tried again, and told, at the end
  }

  /** Sends what is on the cache drive, if it is there, and completes the set on every target it reached. */
  async deliver(): Promise<void> {
    if (this.#capture === undefined) return;
    if (this.#cached !== undefined) await this.#sendAll(this.#capture, this.#cached.sources, this.signal);
    for (const { delivery, delivered } of this.#delivered) {
      try {
        await complete(delivery, this.#capture, delivered);
        this.#images.push(...delivered.images);
      } catch (error) {
        this.#targetFailed(delivery.target.name, error);
      }
    }
  }

  /** Lets go of the capture and starts the server again if we shut it down. Safe at any time. */
  async bringBack(): Promise<void> {
    if (this.#captureOpen) await this.#closeCapture().catch((error: unknown) => { this.fail(error); }); // the capture was going to be thrown away
    if (this.#owesStart) await this.#startAgain();
    await this.leash.free();
  }

  async #startAgain(): Promise<void> {
    const { at } = this.plan;
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'starting' });
    const { upAt } = await this.#node.call('capture.bootAgain', { server: at.server, uuid: at.uuid });
    this.#owesStart = false;
    if (this.#wentDown !== undefined) this.#downMs = Math.max(0, Date.parse(upAt) - this.#wentDown);
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'back', ms: this.#downMs });
  }

  /** Removes what is left on cache drives. Also called after a failure. */
  async cleanUp(): Promise<void> {
    await this.#cached?.remove();
  }

  note(text: string): void {
    this.#notes.push(text);
    this.emit({ kind: 'note', level: 'warning', server: this.plan.at.server, text });
  }

  report(): ServerReport {
    const { at } = this.plan;
    const error = this.#error ?? this.#failedTargets[0]?.error;
    const outcome = this.#error?.code === 'cancelled' ? 'cancelled'
      : error === undefined ? 'ok'
      : this.#images.length > 0 ? 'partial' : 'failed';
    return {
      name: at.server, node: at.node, outcome, capture: at.mode === 'live' ? 'live' : 'cold', down_ms: this.#downMs,
      frozen_ms: this.#capture?.frozenMs ?? 0, images: this.#images,
      ...(error === undefined ? {} : { error: error.toJSON() }),
      ...(this.#notes.length === 0 ? {} : { notes: this.#notes }),
    };
  }

  #direct(capture: Capture): Record<string, DiskSource> {
    return Object.fromEntries(Object.entries(capture.sources).map(([target, source]) => [target, { agent: this.#node, source }]));
  }

  /** One target after the other; one that fails does not keep the others from being served. */
  async #sendAll(capture: Capture, sources: Readonly<Record<string, DiskSource>>, signal: AbortSignal): Promise<void> {
    for (const { target } of this.plan.targets) {
      const delivery: Delivery = { context: this.context, server: this.plan.at, target, agent: this.hosts.agent(target.host), signal, emit: this.emit };
      try {
        this.#delivered.push({ delivery, delivered: await send(delivery, capture, sources) });
      } catch (error) {
        if (signal.aborted || this.#node.lost.aborted) throw error;
        this.#targetFailed(target.name, error);
      }
    }
  }

  #targetFailed(target: string, thrown: unknown): void {
    const error = DrError.from(thrown);
    this.#failedTargets.push({ target, error });
    this.emit({ kind: 'phase', server: this.plan.at.server, target, phase: 'failed', detail: error.message });
  }

  async #closeCapture(): Promise<void> {
    if (this.#capture === undefined || !this.#captureOpen) return;
    this.#captureOpen = false;
    step('capture-before-close');
    const verdict = await this.#node.call('capture.close', { id: this.#capture.id });
    step('capture-after-close');
    if (verdict.verdict === 'void') {
      if (verdict.error !== undefined) throw DrError.fromData(verdict.error);
      throw new DrError('capture-void', `the capture of ${this.plan.at.server} is void: ${verdict.reason}. Nothing of it was completed; older copies are untouched.`, 'Run the job again.');
    }
  }
}
