import type { Agent } from '../agent/connect.js';
import type { Capture } from '../agent/protocol.js';
import type { TargetConfig } from '../model/config.js';
import { DrError, ERRORS } from '../model/errors.js';
import type { ImageReport, ServerReport } from '../model/report.js';
import { step } from '../system/steps.js';
import { cacheCapture, roomInCache, type CacheRoom } from './cache-capture.js';
import { routeTo, seenFromOthers, storeOf, type Emit, type JobContext } from './context.js';
import { complete, send, type Delivered, type Delivery } from './deliver.js';
import type { Hosts } from './hosts.js';
import type { PlannedServer } from './plan-job.js';
import { BRIEF, PATIENT, type Patience } from './retry.js';
import type { Leash } from './running.js';
import type { DiskSource } from './transfer.js';
import { watchCold } from './watch-cold.js';

/**
 * One server on its way through a run: shut down if the job says so, captured, cached or sent, brought back, completed on every target.
 * Each part may be attempted once, in the order they are written; `bringBack` may always be called again.
 */
export class ServerRun {
  readonly #images: ImageReport[] = [];
  readonly #notes: string[] = [];
  readonly #node: Agent;
  #capture: Capture | undefined;
  #captureOpen = false;
  #room: CacheRoom | undefined;
  /** What is on cache drives, by disk target. */
  #cached: Readonly<Record<string, DiskSource>> | undefined;
  readonly #delivered: { readonly delivery: Delivery; readonly capture: Capture; readonly delivered: Delivered }[] = [];
  #failedTargets: { readonly target: string; readonly error: DrError }[] = [];
  #gaveWay = false;
  #wentDown: number | undefined;
  #downMs = 0;
  #frozenMs = 0;
  #owesStart = false;
  #error: DrError | undefined;
  /** Whether anything was done beyond looking and locking. */
  #touched = false;
  /** `waiting`: between two parts of its work, while other servers of its batch are at theirs. */
  #stage: 'waiting' | 'working' | 'over' = 'waiting';
  /** All its parts are done. */
  #complete = false;
  readonly #targets: TargetConfig[] = [];

  constructor(
    readonly context: JobContext, readonly plan: PlannedServer, readonly hosts: Hosts, readonly emit: Emit,
    readonly leash: Leash,
  ) {
    this.#node = hosts.agent(plan.at.node);
    // Who is cancelled while others are at work does not wait for them: nothing is attempted, and so it is brought back.
    this.signal.addEventListener('abort', () => { if (this.#stage === 'waiting' && !this.#complete) void this.attempt(() => Promise.resolve()); }, { once: true });
  }

  /** Aborted when the run, or this server, is cancelled. */
  get signal(): AbortSignal {
    return this.leash.signal;
  }

  /** A server that we keep down is not kept waiting for long. */
  get patience(): Patience {
    return this.#owesStart ? BRIEF : PATIENT;
  }

  /**
   * Does one part of the work, unless an earlier one failed. Only one server's failure is that server's: it is noted, its production is brought back,
   * and the rest goes on.
   */
  async attempt(act: () => Promise<void>): Promise<void> {
    if (this.#error !== undefined || this.#stage !== 'waiting') return;
    this.#stage = 'working';
    try {
      this.signal.throwIfAborted();
      await act();
    } catch (error) {
      this.fail(this.signal.aborted ? this.signal.reason : error);
      await this.bringBack().catch((failure: unknown) => { this.fail(failure); });
    } finally {
      this.#stage = 'waiting';
    }
  }

  /** Brings back and removes what may still be left of it; after this nothing is attempted any more. */
  async end(): Promise<void> {
    this.#stage = 'over';
    await this.bringBack().catch((error: unknown) => { this.fail(error); });
    await this.cleanUp();
  }

  /** What fails after the first failure is noted: a start that stays owed must not hide behind what led to it. */
  fail(thrown: unknown): void {
    const error = DrError.from(thrown);
    if (this.#error !== undefined && this.#error.message !== error.message) this.note(error.message);
    this.#error ??= error;
    this.emit({ kind: 'phase', server: this.plan.at.server, phase: 'failed', detail: this.#error.message });
  }

  /**
   * Takes the locks of this server on its node and on its targets, held until the agents' sessions end, has the targets try out their
   * stores, and makes room on the cache drives: what can't be used is left out now, before the server is touched.
   */
  async prepare(): Promise<void> {
    const { server } = this.plan.at;
    const lock = (host: string) => this.hosts.agent(host).call('lock', { name: `server-${server}`, what: `${server} on ${host}` }, { signal: this.signal });
    await lock(this.plan.at.node);
    const locked = new Set([this.plan.at.node]);
    for (const { target } of this.plan.targets) {
      try {
        if (!locked.has(target.host)) await lock(target.host);
        locked.add(target.host);
        await this.hosts.agent(target.host).call('store.check', { store: storeOf(target) }, { signal: this.signal });
        this.#targets.push(target);
      } catch (error) {
        this.#targetFailed(target.name, error);
      }
    }
    const [first] = this.#failedTargets;
    if (this.#targets.length === 0 && first !== undefined) throw first.error;
    if (this.plan.cache !== undefined) this.#room = await roomInCache(this, this.plan.cache, this.#targets);
  }

  async shutDown(): Promise<void> {
    const { at } = this.plan;
    const { job, anvil, config } = this.context;
    this.#touched = true;
    this.leash.hold(); // also when it was let go of before
    if (at.mode !== 'shutdown') return;
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'shutting-down' });
    this.#owesStart = true;
    const { downAt } = await this.#node.call('capture.shutDown', {
      uri: anvil.libvirt, server: at.server, uuid: at.uuid, timeoutSeconds: job.shutdownTimeoutSeconds, onTimeout: job.onShutdownTimeout,
      lateWatchSeconds: job.lateShutdownWatchSeconds, peers: anvil.nodes.filter((node) => node !== at.node).map((node) => routeTo(config, at.node === 'local' ? node : seenFromOthers(node))),
      ...(anvil.commands.shutdown === undefined ? {} : { shutdownCommand: [...anvil.commands.shutdown] }),
      ...(anvil.commands.start === undefined ? {} : { startCommand: [...anvil.commands.start] }),
    }, { signal: this.signal });
    this.#wentDown = Date.parse(downAt);
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'down' });
  }

  /** Whether there is room on cache drives for it, so that it need not be down for longer than reading its disks takes. */
  get hasRoom(): boolean {
    return this.#room !== undefined;
  }

  /**
   * Opens the capture, moves its bytes to the cache or, without one, to the targets, closes it and brings the server back. If the cache fails while others wait, shut down, it
   * only does the last, and has no room any more: its turn is after theirs, when it is shut down again.
   */
  async image(othersWait: boolean): Promise<void> {
    this.#gaveWay = false;
    await this.#take(this.#targets, this.#room, othersWait);
  }

  async #take(targets: readonly TargetConfig[], room: CacheRoom | undefined, othersWait: boolean): Promise<void> {
    const { at } = this.plan;
    const { anvil, job } = this.context;
    step('batch-before-capture');
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'capturing' });
    const request = {
      uri: anvil.libvirt, server: at.server, uuid: at.uuid, xml: at.seen.xml, tpm: at.seen.tpm,
      disks: at.disks.map(({ target, path, format, bytes }) => ({ target, path, format, bytes })),
      ...(at.seen.nvram === undefined ? {} : { nvram: at.seen.nvram }),
    };
    const maxSeconds = job.maxJobTimeSeconds;
    const options = { signal: this.signal };
    this.#capture = at.mode !== 'live' ? await this.#node.call('capture.openCold', request, options)
      : job.live === 'lvm' ? await this.#node.call('capture.openSnapshots', { ...request, snapshotSize: job.snapshotSize, keepBase: job.keepBase, maxSeconds }, options)
      : await this.#node.call('capture.openLive', { ...request, scratch: job.scratch, signature: this.context.config.cacheSignature, scratchReserveBytes: job.scratchReserveBytes, keepBase: job.keepBase, maxSeconds }, options);
    this.#captureOpen = true;
    step('batch-after-capture');
    this.#frozenMs += this.#capture.frozenMs;
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'captured', ms: this.#capture.frozenMs });

    const watch = at.mode === 'live' ? undefined : watchCold(this.hosts, this.context, at);
    const signal = watch === undefined ? this.signal : AbortSignal.any([this.signal, watch.signal]);
    try {
      this.#cached = room === undefined ? undefined : await cacheCapture(this, this.#capture, room, signal);
      this.#gaveWay = this.#cached === undefined && room !== undefined && othersWait && at.mode === 'shutdown';
      if (this.#gaveWay) {
        this.#room = undefined;
        this.note(`${at.server} was started again and waits for its turn, so that no other server is kept down by it`);
      } else if (this.#cached === undefined) await this.#sendAll(this.#capture, this.#direct(this.#capture), targets, signal);
    } catch (error) {
      if (watch?.signal.aborted === true) throw watch.signal.reason;
      if (DrError.from(error).code === 'source-failed') await this.#closeCapture(); // which knows why better, if it was given up
      throw error;
    } finally {
      watch?.stop();
    }
    if (!this.#gaveWay) await watch?.lastLook();
    await this.#closeCapture();
    await this.bringBack().catch(() => undefined); // what was captured is good all the same; it is tried again, and told, at the end
  }

  /** Sends what is on the cache drive, if it is there, and completes the set on every target it reached. */
  async deliver(): Promise<void> {
    if (this.#capture === undefined || this.#gaveWay) return;
    if (this.#cached !== undefined) {
      const missed = await this.#sendAll(this.#capture, this.#cached, this.#targets, this.signal, () => this.#completeArrived());
      const [first] = missed;
      if (first !== undefined) await this.#takeAgain(missed.map(({ target }) => target), first.why);
    }
    await this.#completeArrived();
    this.#complete = true;
  }

  /** Completes what has arrived whole of a capture that is known to be valid: whatever happens to other targets later can't undo that. */
  async #completeArrived(): Promise<void> {
    for (const { delivery, capture, delivered } of this.#delivered.splice(0)) {
      try {
        await complete(delivery, capture, delivered);
        this.#images.push(...delivered.images);
      } catch (error) {
        this.#targetFailed(delivery.target.name, error);
      }
    }
  }

  /** What is on the cache drive was lost, or is not enough any more, before all of it had arrived: that costs the run its cache, not the server. */
  async #takeAgain(targets: readonly TargetConfig[], why: string): Promise<void> {
    this.note(`${this.plan.at.server} is captured again, straight to ${targets.map(({ name }) => name).join(', ')}, since what was on the cache drive is of no use any more: ${why}`);
    await this.cleanUp();
    this.#cached = undefined;
    await this.shutDown();
    await this.#take(targets, undefined, false);
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
    if (this.#wentDown !== undefined) this.#downMs += Math.max(0, Date.parse(upAt) - this.#wentDown);
    this.#wentDown = undefined;
    this.emit({ kind: 'phase', server: at.server, node: at.node, phase: 'back', ms: this.#downMs });
  }

  /** Removes what is left on cache drives. Also called after a failure. */
  async cleanUp(): Promise<void> {
    await this.#room?.remove();
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
      : !this.#touched && error.exitStatus === ERRORS.refused ? 'refused'
      : this.#images.length > 0 ? 'partial' : 'failed';
    return {
      name: at.server, node: at.node, outcome, capture: at.mode === 'live' ? 'live' : 'cold', down_ms: this.#downMs,
      frozen_ms: this.#frozenMs, images: this.#images,
      ...(error === undefined ? {} : { error: error.toJSON() }),
      ...(this.#notes.length === 0 ? {} : { notes: this.#notes }),
    };
  }

  #direct(capture: Capture): Record<string, DiskSource> {
    return Object.fromEntries(Object.entries(capture.sources).map(([target, source]) => [target, { agent: this.#node, source }]));
  }

  /** One target after the other; one that fails does not keep the others from being served. Gives those that a lost cache drive kept from being served, and why. */
  async #sendAll(capture: Capture, sources: Readonly<Record<string, DiskSource>>, targets: readonly TargetConfig[], signal: AbortSignal,
    arrived: () => Promise<void> = () => Promise.resolve()): Promise<readonly { readonly target: TargetConfig; readonly why: string }[]> {
    const missed: { readonly target: TargetConfig; readonly why: string }[] = [];
    for (const target of targets) {
      const delivery: Delivery = { context: this.context, server: this.plan.at, target, hosts: this.hosts, signal, emit: this.emit, patience: this.patience, note: (text) => { this.note(text); } };
      try {
        const delivered = await send(delivery, capture, sources);
        this.#mustAgree(delivered);
        this.#delivered.push({ delivery, capture, delivered });
        await arrived();
      } catch (error) {
        if (signal.aborted || this.#node.lost.aborted) throw error;
        if (isCacheLost(error, sources)) missed.push({ target, why: DrError.from(error).message });
        else if (DrError.from(error).code === 'source-failed') throw error; // of no use to the other targets either
        else this.#targetFailed(target.name, error);
      }
    }
    return missed;
  }

  /** One capture has one digest, wherever it went: another one shows that a hint of what had not changed was believed and wrong. */
  #mustAgree({ images }: Delivered): void {
    for (const { disk, digest, target } of images) {
      const other = this.#delivered.flatMap(({ delivered }) => delivered.images).find((image) => image.disk === disk && image.digest !== digest);
      if (other === undefined) continue;
      throw new DrError('source-failed', `${this.plan.at.server} disk ${disk} was read differently for ${other.target} and for ${target}. Nothing of this capture was completed; older copies are untouched.`,
        'Run the job again: the whole disk is read.');
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

/** Whether a transfer failed because what lies on a cache drive can't be read, or is not what was captured. */
function isCacheLost(error: unknown, sources: Readonly<Record<string, DiskSource>>): boolean {
  const cached = Object.values(sources).filter(({ digest }) => digest !== undefined);
  return cached.length > 0 && (['source-failed', 'sender-died', 'cache-lost'].includes(DrError.from(error).code) || cached.some(({ agent }) => agent.lost.aborted));
}
