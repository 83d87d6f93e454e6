import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { sharedPages } from '../system/shared-memory.js';
import type { BlockFailure, BlockJob, BlockOutcome, DeltaJob, DiskJob, DiskOutcome, PackJob, PartsJob, Payload, WorkerPages } from './block-jobs.js';
import { BLOCK_BYTES } from './geometry.js';

/** A page-aligned block in memory that all threads share. */
export interface Slot {
  /** Where it lies in the shared memory; what jobs call it by. */
  readonly at: number;
  readonly bytes: Buffer;
}

interface Waiting<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

interface Thread {
  readonly worker: Worker;
  readonly jobs: Map<number, Waiting<BlockOutcome>>;
}

export interface PoolSize {
  readonly slots?: number;
  readonly workers?: number;
  readonly blockBytes?: number;
}

/**
 * Worker threads and the blocks they work on: a fixed amount of memory, whatever the size of the disk. The blocks lie on a shared
 * WebAssembly.Memory because that is aligned as O_DIRECT demands.
 */
export class BlockPool implements AsyncDisposable {
  /** What all slots lie in. */
  readonly memory: SharedArrayBuffer;
  readonly #threads: readonly Thread[];
  readonly #free: Slot[] = [];
  #wanting: Waiting<Slot>[] = [];
  #nextJob = 0;
  #failure: Error | undefined;

  constructor({ slots = 12, workers = Math.min(4, Math.max(2, availableParallelism())), blockBytes = BLOCK_BYTES }: PoolSize = {}) {
    const memory = sharedPages(blockBytes * (slots + workers + 1));
    this.memory = memory;
    for (let slot = 0; slot < slots; slot++) {
      const at = slot * blockBytes;
      this.#free.push({ at, bytes: Buffer.from(memory, at, blockBytes) });
    }
    this.#threads = Array.from({ length: workers }, (_, index) => {
      const data: WorkerPages = { memory, scratch: (slots + index) * blockBytes, zeros: (slots + workers) * blockBytes };
      const worker = new Worker(new URL('./block-worker.js', import.meta.url), { workerData: data });
      worker.unref(); // only work keeps the process alive
      const jobs: Thread['jobs'] = new Map();
      worker.on('message', ([id, outcome]: readonly [number, BlockOutcome]) => {
        jobs.get(id)?.resolve(outcome);
        jobs.delete(id);
        if (jobs.size === 0) worker.unref();
      });
      worker.on('error', (error) => { this.fail(error); });
      worker.on('exit', () => { this.fail(new Error('a worker thread ended')); });
      return { worker, jobs };
    });
  }

  /** Waits for a block of memory. To be given back with `release`. */
  acquire(): Promise<Slot> {
    const slot = this.tryAcquire();
    if (slot !== undefined) return Promise.resolve(slot);
    return new Promise((resolve, reject) => {
      if (this.#failure === undefined) this.#wanting.push({ resolve, reject });
      else reject(this.#failure);
    });
  }

  /** A block of memory if one is free now, and so many others. */
  tryAcquire(others = 0): Slot | undefined {
    return this.#failure === undefined && this.#free.length > others ? this.#free.pop() : undefined;
  }

  release(slot: Slot): void {
    const next = this.#wanting.shift();
    if (next === undefined) this.#free.push(slot);
    else next.resolve(slot);
  }

  /** Reads, writes or proves a block. Rejects only after `fail`; what happened to the block is the outcome. */
  run(job: DiskJob): Promise<DiskOutcome> {
    return this.#do(job) as Promise<DiskOutcome>;
  }

  /** Makes of a block in a slot what is to be sent of it. */
  async prepare(job: PackJob | DeltaJob): Promise<Payload> {
    const outcome = await this.#do(job);
    if (outcome.kind === 'payload') return outcome.payload;
    throw new Error(outcome.kind === 'error' ? outcome.message : outcome.kind);
  }

  /** The digests of the parts of a block that is read. */
  parts(job: PartsJob): Promise<Extract<BlockOutcome, { kind: 'parts' }> | BlockFailure> {
    return this.#do(job) as Promise<Extract<BlockOutcome, { kind: 'parts' }> | BlockFailure>;
  }

  /** Has the least busy thread do a job. */
  #do(job: BlockJob): Promise<BlockOutcome> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const thread = this.#threads.reduce((least, each) => each.jobs.size < least.jobs.size ? each : least);
    const id = this.#nextJob++;
    return new Promise((resolve, reject) => {
      thread.jobs.set(id, { resolve, reject });
      thread.worker.ref();
      thread.worker.postMessage([id, job]);
    });
  }

  /** Whether all jobs have ended within this time. A thread that hangs in a read or write can't be waited for. */
  async settled(milliseconds: number): Promise<boolean> {
    const deadline = Date.now() + milliseconds;
    while (this.#threads.some(({ jobs }) => jobs.size > 0)) {
      if (Date.now() >= deadline) return false;
      await sleep(5);
    }
    return true;
  }

  /** Everything that waits, now or later, fails with `error`. Jobs that a thread has begun go on nevertheless. */
  fail(error: Error): void {
    this.#failure ??= error;
    for (const waiting of this.#wanting) waiting.reject(this.#failure);
    this.#wanting = [];
    for (const { jobs } of this.#threads) for (const waiting of jobs.values()) waiting.reject(this.#failure);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.fail(new Error('the pool was closed'));
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }
}
