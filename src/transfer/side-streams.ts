import { rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { Refusal } from './refusals.js';
import { WireReader } from './wire.js';
import { StreamSource } from './wire-source.js';

/**
 * Further streams of a transfer, where one ssh does not fill the link: each is an ssh of its own, at whose far end a joiner (`joiner.ts`) hands what arrives to the
 * receiver. It says its number, one byte, and then the bytes of blocks.
 */

/** How long a stream that frames speak of already may take to be seen here, in milliseconds. */
const ARRIVE_MS = 5_000;

/** Where a ticket's receiver is joined. */
export function sideStreamsSocket(directory: string): string {
  return join(directory, 'streams');
}

/** The receiver's ends of side streams. */
export class SideStreams implements AsyncDisposable {
  readonly #server: Server;
  readonly #silenceMs: number | undefined;
  readonly #most: number;
  readonly #sockets = new Set<Socket>();
  readonly #readers = new Map<number, WireReader>();
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  private constructor(server: Server, most: number, silenceMs: number | undefined) {
    this.#server = server;
    this.#most = most;
    this.#silenceMs = silenceMs;
  }

  /** Lets streams 1 to `most` be joined to the receiver of a ticket. Where that can't be it is logged: the sender goes without. */
  static async listen(directory: string, most: number, silenceMs?: number): Promise<SideStreams> {
    const server = createServer();
    const streams = new SideStreams(server, most, silenceMs);
    if (most === 0) return streams;
    server.on('connection', (socket) => { void streams.#joined(socket); });
    const path = sideStreamsSocket(directory);
    await rm(path, { force: true }); // of an earlier receiver with this ticket
    await new Promise<void>((resolve) => {
      server.on('error', (error) => {
        log.warn('no further streams can be joined', { path, error: error.message });
        resolve();
      }).listen(path, resolve);
    });
    return streams;
  }

  /** Fills `target` with what comes next on the stream with this number. Throws `stream` if nobody may join it, and `connection-lost` if nobody does, or it ends. */
  async fill(number: number, target: Uint8Array): Promise<void> {
    if (number > this.#most) throw new Refusal('stream', String(number));
    const reader = await this.#reader(number);
    const whole = await reader.fill(target).catch((error: unknown) => {
      if (error instanceof Refusal && error.refusal === 'truncated') return false;
      throw error;
    });
    if (!whole) throw cut(number);
  }

  async #reader(number: number): Promise<WireReader> {
    for (const deadline = Date.now() + ARRIVE_MS; ;) {
      if (this.#failure !== undefined) throw this.#failure;
      const reader = this.#readers.get(number);
      if (reader !== undefined) return reader;
      const left = deadline - Date.now();
      if (left <= 0) throw cut(number);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => { clearTimeout(timer); resolve(); };
      });
    }
  }

  /** Throws `trailing` unless all of them end here. */
  async end(): Promise<void> {
    for (const reader of this.#readers.values()) await reader.end();
  }

  /** Makes the reads under way, and every later one, fail. */
  fail(error: Error): void {
    this.#failure ??= error;
    for (const reader of this.#readers.values()) reader.fail(error);
    this.#wake?.();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const reader of this.#readers.values()) reader.close();
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => { this.#server.close(() => { resolve(); }); });
  }

  async #joined(socket: Socket): Promise<void> {
    this.#sockets.add(socket);
    const reader = new WireReader(new StreamSource(socket), this.#silenceMs);
    try {
      const number = (await reader.payload(1)).readUInt8(0);
      if (number === 0 || number > this.#most || this.#readers.has(number)) throw new Refusal('stream', String(number));
      this.#readers.set(number, reader);
      this.#wake?.();
    } catch {
      reader.close(); // whoever joined sees that nobody listens
    }
  }
}

/** One of several connections is gone: no fault of what was sent. */
function cut(number: number): DrError {
  return new DrError('connection-lost', `connection ${String(number + 1)} of the transfer ended early. The image being written was not completed; complete copies are untouched.`, 'Check the link between the two hosts, then run the job again.');
}
