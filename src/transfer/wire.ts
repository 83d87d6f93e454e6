import type { Writable } from 'node:stream';
import { checkPreamble, HEADER_BYTES, onStream, parseHeader, PING_MS, pingFrame, preamble, PREAMBLE_BYTES, SILENCE_MS, type Header } from './frames.js';
import { Refusal } from './refusals.js';
import type { Throttle } from './throttle.js';
import type { WireSource } from './wire-source.js';

/** How long a link is watched before its speed is known, in milliseconds. */
const MEASURED_MS = 500;
/** Parts of the time-out for silence. */
const TICKS = 24;

/** Reads exact pieces, and gives up when nothing is heard for too long. */
export class WireReader {
  readonly #source: WireSource;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  readonly #watch: NodeJS.Timeout;
  #failure: Error | undefined;
  /** Makes the read under way fail. */
  #giveUp: ((error: Error) => void) | undefined;

  /** `firstMs`: how long the first byte may take, where a program has to be started at the other end. */
  constructor(source: WireSource, silenceMs: number = SILENCE_MS, firstMs: number = silenceMs) {
    this.#source = source;
    const nothing = source.heard;
    let [heard, quietTicks] = [nothing, 0];
    // Only waiting counts as silence: while our own disk is slow we do not listen. Ticks, not the clock: after a standstill
    // of this process there is no telling what has arrived meanwhile.
    this.#watch = setInterval(() => {
      quietTicks = this.#giveUp === undefined || source.heard !== heard ? 0 : quietTicks + 1;
      heard = source.heard;
      const allowedMs = heard === nothing ? firstMs : silenceMs;
      if (quietTicks > TICKS * allowedMs / silenceMs) this.fail(new Refusal('silence', `for ${String(allowedMs / 1000)} s`));
    }, silenceMs / TICKS);
  }

  /** Makes the read under way, and every later one, fail with `error`; the first failure counts. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#giveUp?.(this.#failure);
  }

  close(): void {
    clearInterval(this.#watch);
    this.#source.close();
  }

  /** Fills `target`; false if the wire ended before its first byte. Throws `truncated` if it ended in the middle. */
  async fill(target: Uint8Array): Promise<boolean> {
    for (let filled = 0; filled < target.length;) {
      const rest = target.subarray(filled);
      const got = await this.#unlessFailed(() => this.#source.fill(rest) ?? this.#copied(rest));
      if (got === 0) {
        if (filled === 0) return false;
        throw new Refusal('truncated', 'in the middle of a frame');
      }
      filled += got;
    }
    return true;
  }

  async preamble(): Promise<void> {
    const bytes = Buffer.alloc(PREAMBLE_BYTES);
    if (!await this.fill(bytes)) throw new Refusal('truncated', 'before it began');
    checkPreamble(bytes);
  }

  /** The next frame's header, pings passed over; undefined at the end of the wire. */
  async header(blockBytes: number): Promise<Header | undefined> {
    for (;;) {
      if (!await this.fill(this.#header)) return undefined;
      const found = parseHeader(this.#header, blockBytes);
      if (found.type !== 'ping') return found;
    }
  }

  /** A small payload in memory of its own. */
  async payload(length: number): Promise<Buffer> {
    const bytes = Buffer.alloc(length);
    if (!await this.fill(bytes)) throw new Refusal('truncated', 'before a frame\'s payload');
    return bytes;
  }

  /** Throws `trailing` unless the wire ends here. */
  async end(): Promise<void> {
    if (await this.#unlessFailed(() => this.#source.take(1)) !== undefined) throw new Refusal('trailing');
  }

  async #copied(target: Uint8Array): Promise<number> {
    const piece = await this.#source.take(target.length);
    if (piece === undefined) return 0;
    target.set(piece);
    return piece.length;
  }

  /** After a failure no read is begun. */
  async #unlessFailed<T>(read: () => Promise<T>): Promise<T> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      return await new Promise((resolve, reject) => {
        this.#giveUp = reject;
        read().then(resolve, reject);
      });
    } finally {
      this.#giveUp = undefined;
    }
  }
}

/** A stream that carries bytes of blocks: the first one the frames, too, the others nothing else. */
interface Lane {
  readonly number: number;
  readonly stream: Writable;
  /** Bytes of blocks that it was given and has not taken yet. */
  underWay: number;
}

/** Writes frames whole and in order, pings when there is nothing else to say, and counts what went out. */
export class WireWriter {
  readonly #main: Lane;
  readonly #sides: Lane[] = [];
  readonly #throttle: Throttle | undefined;
  readonly #broken: () => void;
  #isBroken = false;
  #tellBroken: (() => void) | undefined;
  readonly #pulse: NodeJS.Timeout;
  /** Writes that the stream has not answered; of some kinds of streams it never does once they are destroyed. */
  readonly #open = new Set<(error: Error) => void>();
  #turn: Promise<void> = Promise.resolve();
  #pending = 0;
  #lastWrite = Date.now();
  #sent = 0;
  /** Since when there has been something to write without a pause, and what was sent and how long it took before, in the period that is being measured. */
  #busySince = 0;
  #busyMs = 0;
  #busyTotalMs = 0;
  #measuredFrom = 0;
  #bytesPerSecond = Number.MAX_VALUE;

  constructor(stream: Writable, throttle?: Throttle) {
    this.#main = { number: 0, stream, underWay: 0 };
    this.#throttle = throttle;
    this.#broken = () => {
      this.#isBroken = true;
      this.#tellBroken?.();
    };
    stream.on('error', this.#broken);
    this.#pulse = setInterval(() => {
      if (this.#pending === 0 && Date.now() - this.#lastWrite >= PING_MS - 200) this.send(pingFrame()).catch(() => undefined); // that is known: see `whenBroken`
    }, PING_MS / 3);
  }

  /** Bytes given to the stream so far, framing included. */
  get sent(): number {
    return this.#sent;
  }

  /** What the stream took lately, times without anything to write left out. More than any link until that was measured. */
  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  /** Has somebody told when the far end stopped reading, at once if it has. */
  whenBroken(tell: () => void): void {
    this.#tellBroken = tell;
    if (this.#isBroken) tell();
  }

  preamble(): Promise<void> {
    return this.send(preamble());
  }

  /** For how long there has been something to write, in milliseconds. */
  get busyMs(): number {
    return this.#busyTotalMs + (this.#pending === 0 ? 0 : performance.now() - this.#busySince);
  }

  /** Writes the pieces of one frame; resolves when the operating system has them, so that their memory can be used again. */
  async send(...pieces: readonly Uint8Array[]): Promise<void> {
    if (this.#throttle === undefined) {
      await this.#measured(Promise.all(pieces.map((piece) => this.#write(this.#main, piece)))); // the stream keeps the order of the calls
      return;
    }
    const mine = this.#turn.then(() => this.#slowly(pieces));
    this.#turn = mine.catch(() => undefined); // whoever sent it is told
    await this.#measured(mine);
  }

  /** Has the bytes of blocks go over a further stream, too. */
  join(number: number, stream: Writable): void {
    stream.on('error', this.#broken);
    this.#sides.push({ number, stream, underWay: 0 });
  }

  /** Writes the frame of a block; its bytes go over the stream that has least to do. Resolves like `send`. */
  async block(prefix: Buffer, bytes: Uint8Array): Promise<void> {
    const lane = this.#sides.reduce((best, side) => side.underWay < best.underWay ? side : best, this.#main);
    lane.underWay += bytes.length;
    try {
      if (lane === this.#main) await this.send(prefix, bytes);
      else await this.#measured(Promise.all([this.#write(this.#main, onStream(lane.number, prefix)), this.#write(lane, bytes)]));
    } finally {
      lane.underWay -= bytes.length;
    }
  }

  async #measured(writing: Promise<unknown>): Promise<void> {
    if (this.#pending === 0) this.#busySince = performance.now();
    this.#pending += 1;
    try {
      await writing;
    } finally {
      this.#pending -= 1;
      this.#lastWrite = Date.now();
      this.#measure();
    }
  }

  /** No more frames; ends the stream once what was sent is out. */
  async end(): Promise<void> {
    clearInterval(this.#pulse);
    await this.#turn;
    for (const { stream } of [this.#main, ...this.#sides]) stream.end();
  }

  close(): void {
    clearInterval(this.#pulse);
    for (const { stream } of [this.#main, ...this.#sides]) stream.destroy();
    for (const reject of this.#open) reject(new Error('the stream was closed'));
  }

  #measure(): void {
    const now = performance.now();
    this.#busyMs += now - this.#busySince;
    this.#busyTotalMs += now - this.#busySince;
    this.#busySince = now;
    if (this.#busyMs < MEASURED_MS) return;
    this.#bytesPerSecond = (this.#sent - this.#measuredFrom) / this.#busyMs * 1000;
    this.#busyMs = 0;
    this.#measuredFrom = this.#sent;
  }

  async #slowly(pieces: readonly Uint8Array[]): Promise<void> {
    const throttle = this.#throttle;
    if (throttle === undefined) return;
    for (const piece of pieces) {
      for (let at = 0; at < piece.length;) {
        const bytes = await throttle.take(piece.length - at);
        await this.#write(this.#main, piece.subarray(at, at + bytes));
        at += bytes;
      }
    }
  }

  #write({ stream }: Lane, piece: Uint8Array): Promise<void> {
    this.#sent += piece.length;
    return new Promise((resolve, reject) => {
      this.#open.add(reject);
      stream.write(piece, (error) => {
        this.#open.delete(reject);
        if (error) reject(error);
        else resolve();
      });
    });
  }
}
