import { once } from 'node:events';
import { closeSync, constants, openSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { Inlet } from './inlet.js';
import { Refusal } from './refusals.js';
import { WireReader } from './wire.js';

/**
 * Further streams of a transfer, where one ssh does not fill the link: each is an ssh of its own, at whose far end a joiner (`joiner.ts`) hands what arrives to the
 * receiver. It says its number, one byte, on a socket that stays open as long as both are there, and is answered by one when the receiver has opened the pipe that it
 * has made for the bytes of blocks.
 */

/** How long a stream that frames speak of already may take to be seen here, in milliseconds. */
const ARRIVE_MS = 5_000;
/** How long joiners may take to end their pipes when the transfer is over. */
const SETTLE_MS = 2_000;

/** Where a ticket's receiver is joined. */
export function sideStreamsSocket(directory: string): string {
  return join(directory, 'streams');
}

/** The pipe that the bytes of a stream come through. */
export function sideStreamPipe(directory: string, number: number): string {
  return join(directory, `stream-${String(number)}`);
}

interface SideStream {
  readonly reader: WireReader;
  readonly inlet: Inlet;
  readonly fd: number;
}

/** The receiver's ends of side streams. */
export class SideStreams implements AsyncDisposable {
  readonly #server: Server;
  readonly #directory: string;
  readonly #memory: SharedArrayBuffer;
  readonly #silenceMs: number | undefined;
  readonly #most: number;
  readonly #sockets = new Set<Socket>();
  readonly #streams = new Map<number, SideStream>();
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  private constructor(server: Server, directory: string, most: number, memory: SharedArrayBuffer, silenceMs: number | undefined) {
    this.#server = server;
    this.#directory = directory;
    this.#most = most;
    this.#memory = memory;
    this.#silenceMs = silenceMs;
  }

  /** Lets streams 1 to `most` be joined to the receiver of a ticket, whose blocks lie in `memory`. Where that can't be it is logged: the sender goes without. */
  static async listen(directory: string, most: number, memory: SharedArrayBuffer, silenceMs?: number): Promise<SideStreams> {
    const server = createServer();
    const streams = new SideStreams(server, directory, most, memory, silenceMs);
    if (most === 0) return streams;
    server.on('connection', (socket) => { void streams.#joined(socket); });
    const path = sideStreamsSocket(directory);
    // Of an earlier receiver with this ticket.
    await rm(path, { force: true });
    for (let number = 1; number <= most; number++) await rm(sideStreamPipe(directory, number), { force: true });
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
      const stream = this.#streams.get(number);
      if (stream !== undefined) return stream.reader;
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
    for (const { reader } of this.#streams.values()) await reader.end();
  }

  /** Makes the reads under way, and every later one, fail. */
  fail(error: Error): void {
    this.#failure ??= error;
    for (const { reader } of this.#streams.values()) reader.fail(error);
    this.#wake?.();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const streams = [...this.#streams.values()];
    for (const { reader } of streams) reader.close();
    for (const socket of this.#sockets) socket.destroy(); // joiners end their pipes then
    if (await Inlet.settled(SETTLE_MS, new Set(streams.map(({ inlet }) => inlet)))) for (const { fd } of streams) closeSync(fd);
    await new Promise<void>((resolve) => { this.#server.close(() => { resolve(); }); });
  }

  async #joined(socket: Socket): Promise<void> {
    this.#sockets.add(socket);
    socket.on('error', () => undefined); // it is gone: its pipe ends, too
    try {
      const [said] = await once(socket, 'data') as [Buffer];
      const number = said.length === 1 ? said.readUInt8(0) : 0;
      if (number === 0 || number > this.#most || this.#streams.has(number)) throw new Refusal('stream', String(number));
      const pipe = sideStreamPipe(this.#directory, number);
      const fd = openSync(pipe, constants.O_RDONLY); // at once: the joiner has it open
      const inlet = new Inlet(fd, this.#memory);
      this.#streams.set(number, { reader: new WireReader(inlet, this.#silenceMs), inlet, fd });
      await rm(pipe, { force: true });
      socket.write(said);
      this.#wake?.();
    } catch {
      socket.destroy(); // whoever joined sees that nobody listens
    }
  }
}

/** One of several connections is gone: no fault of what was sent. */
function cut(number: number): DrError {
  return new DrError('connection-lost', `connection ${String(number + 1)} of the transfer ended early. The image being written was not completed; complete copies are untouched.`, 'Check the link between the two hosts, then run the job again.');
}
