import { closeSync, writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Writable } from 'node:stream';
import { log } from '../system/log.js';
import { SIDE_STREAMS_MAX } from './frames.js';
import { JOINED, type Joining } from './joiner.js';
import { Outlet } from './outlet.js';
import { startOverPipe, type Child, type Destination } from './receiver-connection.js';
import type { WireWriter } from './wire.js';
import { within } from './within.js';

/** The sender's ends of side streams, and when there is to be one more. */

/** As many as are opened by themselves: more than four ciphers at work fill any link. */
const STREAMS_BY_ITSELF = 4;
/** Each stream keeps about a core busy at either end. */
const CORES_PER_STREAM = 2;
const JOIN_MS = 20_000;
const LOOK_MS = 1_000;

/** How many side streams a transfer may come to have; `wanted` streams in all if that was said. */
export function mostSideStreams(wanted: number | undefined, cores = availableParallelism()): number {
  return Math.max(0, Math.min(SIDE_STREAMS_MAX, (wanted ?? Math.min(STREAMS_BY_ITSELF, Math.floor(cores / CORES_PER_STREAM))) - 1));
}

/** Whether a further stream is worth a try, from what went out in each second with those there are. Pure. */
export class Widening {
  /** Bytes per second before the stream that is being tried. */
  #before: number | undefined;
  #warming = 0;
  #over = false;

  /**
   * Looks at one more second, of which the wire had something to do for `busyShare`. True: open another stream now. It is waited for only when the wire is
   * what the transfer waits for, and not again when the last one brought less than a sixth more.
   */
  look(bytes: number, busyShare: number): boolean {
    if (this.#over || busyShare < 0.9) return false;
    if (this.#warming > 0) {
      this.#warming -= 1;
      return false;
    }
    if (this.#before !== undefined && bytes < this.#before * 7 / 6) {
      this.#over = true;
      return false;
    }
    this.#before = bytes;
    this.#warming = 2; // it has to connect, and to come up to speed
    return true;
  }
}

/** Opens side streams for one transfer, as many as are wanted from the beginning, or as long as they help. */
export class SideLinks {
  readonly #to: Destination;
  readonly #joining: Omit<Joining, 'stream'>;
  readonly #memory: SharedArrayBuffer;
  readonly #wire: WireWriter;
  /** How many there may come to be. */
  readonly most: number;
  readonly #links = new Set<SideLink>();
  #opening: Promise<unknown> = Promise.resolve();
  #opened = 0;
  #closed = false;
  #failed: string | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(to: Destination, joining: Omit<Joining, 'stream'>, memory: SharedArrayBuffer, wire: WireWriter, most: number) {
    this.#to = to;
    this.#joining = joining;
    this.#memory = memory;
    this.#wire = wire;
    this.most = most;
  }

  /** Why there are fewer than wanted, for people. */
  get lacking(): string | undefined {
    return this.#failed === undefined ? undefined : `not all of ${String(this.most + 1)} ssh connections to ${this.#to.host} could be used: ${this.#failed}`;
  }

  /** To be called when the receiver is ready: joined before, a stream would find nobody. */
  begin(atOnce: boolean): void {
    if (this.most === 0 || this.#closed) return;
    if (atOnce) {
      while (this.#opened < this.most) this.#open();
      return;
    }
    const widening = new Widening();
    let [sent, busyMs, at] = [this.#wire.sent, this.#wire.busyMs, performance.now()];
    this.#timer = setInterval(() => {
      const [sentNow, busyNow, now] = [this.#wire.sent, this.#wire.busyMs, performance.now()];
      if (widening.look((sentNow - sent) / (now - at) * 1000, (busyNow - busyMs) / (now - at))) this.#open();
      [sent, busyMs, at] = [sentNow, busyNow, now];
      if (this.#opened >= this.most) clearInterval(this.#timer);
    }, LOOK_MS);
  }

  /** No further stream is opened, and those that are on their way are given up. */
  async stop(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const link of this.#links) if (!link.joined) link.kill();
    await this.#opening;
  }

  kill(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const link of this.#links) link.kill();
  }

  #open(): void {
    const stream = ++this.#opened;
    this.#opening = Promise.all([this.#opening, this.#join(stream).catch((error: unknown) => {
      if (this.#closed) return;
      this.#failed = error instanceof Error ? error.message : String(error);
      log.warn('a further stream could not be opened; the transfer goes on without it', { to: this.#to.host, error: this.#failed });
    })]);
  }

  async #join(stream: number): Promise<void> {
    const link = await SideLink.start(this.#to, this.#memory);
    this.#links.add(link);
    if (this.#closed) link.kill();
    const output = await link.join({ ...this.#joining, stream });
    if (this.#closed) output.destroy();
    else this.#wire.join(stream, output);
  }
}

/** One `dr agent --join`, and the pipe that leads to it. */
class SideLink {
  joined = false;
  readonly #child: Child;
  readonly #writeFd: number;
  readonly #memory: SharedArrayBuffer;

  private constructor(child: Child, writeFd: number, memory: SharedArrayBuffer) {
    this.#child = child;
    this.#writeFd = writeFd;
    this.#memory = memory;
  }

  static async start(to: Destination, memory: SharedArrayBuffer): Promise<SideLink> {
    const { child, writeFd } = await startOverPipe(to, '--join', ['-o', 'ControlPath=none']); // a connection that is shared with others would be no further cipher
    return new SideLink(child, writeFd, memory);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  /** Names the transfer, and gives what leads to its receiver. To be called once. */
  async join(joining: Joining): Promise<Writable> {
    const { stdout, stderr } = this.#child;
    let said = '';
    stderr?.on('data', (chunk: Buffer) => { said = (said + chunk.toString('utf8')).slice(-1024); });
    const answer = new Promise<boolean>((resolve) => {
      stdout?.once('data', (chunk: Buffer) => { resolve(chunk.toString('latin1') === JOINED); });
      for (const end of ['error', 'exit'] as const) this.#child.once(end, () => { resolve(false); });
    });
    try {
      writeSync(this.#writeFd, `${JSON.stringify(joining)}\n`);
      this.joined = await within(JOIN_MS, answer, false);
      if (this.joined) return new Outlet(this.#writeFd, this.#memory);
      throw new Error(said.trim() === '' ? 'it did not join' : said.trim());
    } catch (error) {
      this.kill();
      closeSync(this.#writeFd);
      throw error;
    }
  }
}
