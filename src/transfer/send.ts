import { DrError } from '../model/errors.js';
import type { DataSource } from '../model/host.js';
import { step } from '../system/steps.js';
import { Answers, type Outgoing } from './answers.js';
import { BlockPool, type Slot } from './block-pool.js';
import { Comparison } from './comparison.js';
import { blockPrefix, jsonFrame, parseDigests, parseError, parseReady, parseResult, START_MS, type Received } from './frames.js';
import { BLOCK_BYTES, imageDigest, ImageHash, lengthOf, zeroDigests } from './geometry.js';
import { DigestKeeper } from './kept-digests.js';
import { connectReceiver, type Destination, type ReceiverConnection } from './receiver-connection.js';
import { Questions } from './questions.js';
import { Refusal } from './refusals.js';
import { mostSideStreams, SideLinks } from './side-links.js';
import { SourceReader, type Held } from './source-reader.js';
import { Throttle, type LimitStep } from './throttle.js';
import { WireReader, WireWriter } from './wire.js';
import { StreamSource } from './wire-source.js';
import { within } from './within.js';

/** What is sent where; the parameters of `transfer.send`. */
export interface SendOrder {
  readonly source: DataSource;
  readonly to: Destination;
  readonly ticket: string;
  readonly secret: string;
  /** Absent: none. */
  readonly limit?: readonly LimitStep[];
  /** Over so many ssh connections from the beginning on. Absent: over a further one as long as that helps. */
  readonly streams?: number;
  /** Blocks that differ are sent as they are: what parts of them have changed is not asked. */
  readonly whole?: boolean;
}

export interface Sent {
  readonly digest: string;
  readonly bytesRead: number;
  /** On the wire, framing included. */
  readonly bytesSent: number;
  /** What a person should know of it. */
  readonly note?: string;
}

export interface Sending {
  readonly connect?: (to: Destination, memory: SharedArrayBuffer) => ReceiverConnection | Promise<ReceiverConnection>;
  /** Bytes of the disk dealt with so far, of how many, and what went out. Called for every block. */
  readonly progress?: (report: { readonly done: number; readonly total: number; readonly sent: number }) => void;
  readonly signal?: AbortSignal;
  /** Whose threads and memory to use; one of its own otherwise. */
  readonly pool?: BlockPool;
  readonly blockBytes?: number;
  readonly silenceMs?: number;
  /** Blocks are packed, where that makes them smaller, while the link takes fewer bytes per second. */
  readonly packBelow?: number;
}

/** A thread packs about 100 MiB a second: a link that takes half of that is what the transfer waits for. */
const PACK_BELOW = 50 * 2 ** 20;
/** How long a receiver that stopped reading may take to say why. */
const LAST_WORDS_MS = 3_000;
/** How long reads under way may take to end. */
const SETTLE_MS = 2_000;

/**
 * The source's side of one transfer. Resolves when the receiver has proven every block. Throws `source-failed` if the source could
 * not be read, `cancelled`, and otherwise what the destination said, or what became of it or of the link.
 */
export async function send(order: SendOrder, sending: Sending = {}): Promise<Sent> {
  const blockBytes = sending.blockBytes ?? BLOCK_BYTES;
  const pool = sending.pool ?? new BlockPool({ blockBytes });
  try {
    const linking = Link.open(order, sending, pool); // takes a while, as opening a source may
    linking.catch(() => undefined); // told when the source is open
    const source = await SourceReader.open(order.source, pool, blockBytes, sending.signal).catch(async (error: unknown) => {
      await linking.then((link) => { link.abandon(); }, () => undefined); // the source's failure is the one to tell
      throw error;
    });
    try {
      const link = await linking;
      if (order.source.keepDigests === undefined) return await new Transmission(order, sending, source, pool, link).run();
      await using keeper = await DigestKeeper.open(order.source.keepDigests);
      const sent = await new Transmission(order, sending, source, pool, link, keeper).run();
      await keeper.keep({ bytes: order.source.bytes, readSince: source.readSince });
      return sent;
    } finally {
      // A thread may still be reading; the descriptor must not be closed, and perhaps used for something else, under it.
      if (await pool.settled(SETTLE_MS)) await source[Symbol.asyncDispose]();
    }
  } finally {
    if (sending.pool === undefined && await pool.settled(0)) await pool[Symbol.asyncDispose]();
  }
}

/** The way to the receiver, which hears from us from the first moment on: a source may take minutes to open. */
class Link {
  private constructor(readonly connection: ReceiverConnection, readonly wire: WireWriter) {}

  static async open(order: SendOrder, sending: Sending, pool: BlockPool): Promise<Link> {
    const connection = await (sending.connect ?? connectReceiver)(order.to, pool.memory);
    const wire = new WireWriter(connection.output, order.limit === undefined ? undefined : new Throttle(order.limit));
    wire.preamble().catch(() => undefined); // whoever takes the link over is told
    return new Link(connection, wire);
  }

  abandon(): void {
    this.wire.close();
    this.connection.kill();
  }
}

class Transmission {
  readonly #order: SendOrder;
  readonly #sending: Sending;
  readonly #source: SourceReader;
  readonly #pool: BlockPool;
  readonly #keeper: DigestKeeper | undefined;
  readonly #connection: ReceiverConnection;
  readonly #reader: WireReader;
  readonly #wire: WireWriter;
  readonly #comparison: Comparison;
  readonly #questions: Questions;
  readonly #sideLinks: SideLinks;
  readonly #zeroDigest: (index: number) => Buffer;
  #listening: Promise<void> = Promise.resolve();
  #toldAll = false;
  #failure: DrError | undefined;
  #result: Received | undefined;

  constructor(order: SendOrder, sending: Sending, source: SourceReader, pool: BlockPool, { connection, wire }: Link, keeper?: DigestKeeper) {
    this.#order = order;
    this.#sending = sending;
    this.#source = source;
    this.#pool = pool;
    this.#keeper = keeper;
    this.#connection = connection;
    this.#reader = new WireReader(new StreamSource(this.#connection.input), sending.silenceMs, sending.silenceMs ?? START_MS);
    this.#wire = wire;
    wire.whenBroken(() => { void this.#broken(); });
    this.#comparison = new Comparison(source.disk.blocks);
    this.#questions = new Questions(source.disk, this.#wire);
    const wanted = order.limit !== undefined ? 1 : order.streams ?? (order.to.host === 'local' ? 1 : undefined); // a limit is smooth only over one, and without ssh there is no cipher that could be the limit
    this.#sideLinks = new SideLinks(order.to, { ticket: order.ticket, secret: order.secret }, pool.memory, this.#wire, mostSideStreams(wanted));
    this.#zeroDigest = zeroDigests(source.disk);
  }

  async run(): Promise<Sent> {
    const { signal } = this.#sending;
    const cancel = (): void => { this.#fail(new DrError('cancelled', 'the transfer was cancelled')); };
    signal?.addEventListener('abort', cancel);
    if (signal?.aborted === true) cancel();
    this.#listening = this.#listen();
    try {
      const digest = imageDigest(await this.#talk());
      await this.#sideLinks.stop();
      await this.#wire.end();
      await this.#listening;
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#result?.digest !== digest) {
        throw new DrError('digest-mismatch', `the receiver on ${this.#order.to.host} found ${String(this.#result?.digest)}, ${digest} was sent`, 'Run the job again; if it happens twice, test the memory of both hosts.');
      }
      return { digest, bytesRead: this.#source.bytesRead, bytesSent: this.#wire.sent, ...this.#note() };
    } catch (error) {
      if (!(error instanceof DrError)) await this.#broken(); // writing failed
      const failure = this.#failure ?? DrError.from(error);
      if (failure.code === 'source-failed' || failure.code === 'cancelled') await this.#sayWhy(failure);
      throw failure;
    } finally {
      signal?.removeEventListener('abort', cancel);
      this.#reader.close();
      this.#wire.close();
      await this.#connection.ended(LAST_WORDS_MS); // in peace, if the result was told
      this.#connection.kill();
      this.#sideLinks.kill();
    }
  }

  #note(): Pick<Sent, 'note'> {
    const notes = [this.#source.note, this.#order.streams === undefined ? undefined : this.#sideLinks.lacking].filter((note) => note !== undefined);
    return notes.length === 0 ? {} : { note: notes.join('; ') };
  }

  /** Greets, answers every block, and ends; the digest of everything. */
  async #talk(): Promise<Buffer> {
    const { source } = this.#order;
    const { disk } = this.#source;
    const wire = this.#wire;
    await wire.send(jsonFrame('hello', { ticket: this.#order.ticket, secret: this.#order.secret, bytes: source.bytes, blockBytes: disk.blockBytes, sideStreams: this.#sideLinks.most }));
    const hash = new ImageHash();
    const answers = new Answers(wire, () => { void this.#broken(); });
    const told = (blocks: number): void => {
      this.#sending.progress?.({ done: Math.min(source.bytes, blocks * disk.blockBytes), total: source.bytes, sent: wire.sent });
    };
    let onTheWay = 0;
    const answered = (blocks: number): void => {
      if (onTheWay === 0) told(blocks); // otherwise earlier blocks are still on their way out
    };
    // What seldom has to be waited for gives a promise only then: a disk may have millions of blocks that nobody needs to read.
    const digested = (digest: Buffer): Promise<void> | undefined => {
      hash.add(digest);
      return this.#keeper?.add(digest);
    };
    const settled = async (index: number): Promise<void> => {
      await answers.flush(); // the receiver may be waiting for what we have not said yet
      await this.#comparison.known(index);
    };
    const held: Held = {
      knows: (index) => this.#comparison.knows(index),
      matches: (index, digest) => this.#comparison.matches(index, digest),
      known: settled,
    };

    for (;;) {
      const piece = await this.#source.next(held);
      if (this.#failure !== undefined) throw this.#failure;
      if (piece === undefined) break;
      if (piece.kind === 'known') {
        for (let index = piece.first; index < piece.first + piece.count; index++) {
          const digest = piece.digest(index);
          const kept = digested(digest);
          if (kept !== undefined) await kept;
          if (!this.#comparison.knows(index)) await settled(index);
          const said = answers.run(this.#comparison.holds(index, digest) ? 'same' : 'zero', index);
          if (said !== undefined) await said;
        }
        answered(piece.first + piece.count);
        continue;
      }
      const { index, digest, slot } = piece;
      await digested(digest);
      if (!this.#comparison.knows(index)) await settled(index);
      if (this.#comparison.holds(index, digest)) {
        this.#pool.release(slot);
        await answers.run('same', index);
      } else if (digest.equals(this.#zeroDigest(index))) {
        this.#pool.release(slot);
        await answers.run('zero', index);
      } else {
        onTheWay += 1;
        await answers.block(this.#outgoing(index, digest, slot, () => {
          this.#pool.release(slot);
          onTheWay -= 1;
          told(index + 1);
        }));
      }
      answered(index + 1);
      step('send-after-block');
    }
    const total = hash.finish();
    await answers.flush();
    this.#toldAll = true;
    await answers.end(total);
    return total;
  }

  /** What is to be sent of a block that differs: as much of it as has changed, packed where that pays. */
  #outgoing(index: number, digest: Buffer, slot: Slot, out: () => void): Outgoing | Promise<Outgoing> {
    const length = lengthOf(this.#source.disk, index);
    const pack = this.#wire.bytesPerSecond < (this.#sending.packBelow ?? PACK_BELOW);
    const ask = this.#order.whole !== true && this.#comparison.compares && !this.#comparison.matches(index, this.#zeroDigest(index)) && this.#questions.worthwhile();
    if (!ask && !pack) return { prefix: blockPrefix('data', index, digest, length), bytes: slot.bytes.subarray(0, length), out };
    return this.#prepare(index, digest, slot, { ask, pack }).then((ready) => ({ ...ready, out }), (error: unknown) => {
      this.#fail(DrError.from(error));
      throw error;
    });
  }

  async #prepare(index: number, digest: Buffer, slot: Slot, how: { readonly ask: boolean; readonly pack: boolean }): Promise<Omit<Outgoing, 'out'>> {
    const whole = lengthOf(this.#source.disk, index);
    const held = how.ask ? await this.#questions.ask(index) : undefined;
    const job = { slot: slot.at, length: whole };
    const { length, packed, map } = held !== undefined ? await this.#pool.prepare({ kind: 'delta', ...job, held, pack: how.pack, blockBytes: this.#source.disk.blockBytes })
      : how.pack ? await this.#pool.prepare({ kind: 'pack', ...job })
      : { length: whole, packed: false };
    if (held !== undefined) this.#questions.learn(map === undefined ? 0 : 1 - length / whole);
    const type = map === undefined ? packed ? 'packed' : 'data' : packed ? 'packed-patch' : 'patch';
    return { prefix: blockPrefix(type, index, digest, length, map), bytes: slot.bytes.subarray(0, length) };
  }

  /** Takes in what the receiver says until it ends; turns its end, or a word that has no place, into the failure of all. */
  async #listen(): Promise<void> {
    try {
      await this.#reader.preamble();
      for (;;) {
        const found = await this.#reader.header(this.#source.disk.blockBytes);
        if (found === undefined) break;
        switch (found.type) {
          case 'ready':
            this.#comparison.ready(parseReady(await this.#reader.payload(found.length)).compare);
            this.#sideLinks.begin(this.#order.streams !== undefined);
            break;
          case 'have': {
            const { index, digests } = parseDigests(await this.#reader.payload(found.length));
            this.#comparison.add(index, digests);
            break;
          }
          case 'parts': {
            const { index, digests } = parseDigests(await this.#reader.payload(found.length));
            this.#questions.answered(index, digests);
            break;
          }
          case 'result':
            if (!this.#toldAll) throw new Refusal('out-of-place', 'result');
            this.#result = parseResult(await this.#reader.payload(found.length));
            return;
          case 'error': throw DrError.fromData(parseError(await this.#reader.payload(found.length)));
          case 'ping': case 'hello': case 'abort': case 'same': case 'zero': case 'data': case 'packed': case 'patch': case 'packed-patch': case 'ask': case 'end':
            throw new Refusal('out-of-place', found.type);
        }
      }
      throw new Refusal('truncated');
    } catch (error) {
      const early = error instanceof Refusal && (error.refusal === 'truncated' || error.refusal === 'not-ours');
      this.#fail(early ? await this.#lost(error) : DrError.from(error));
    }
  }

  /** Writing failed. The receiver has most likely said why, which is the better message, and it only has to be read. */
  async #broken(): Promise<void> {
    const lost = await this.#lost();
    await within(LAST_WORDS_MS, this.#listening, undefined);
    this.#fail(lost);
  }

  async #lost(cause?: Refusal): Promise<DrError> {
    const why = await this.#connection.ended(LAST_WORDS_MS);
    const began = cause?.refusal === 'not-ours' ? `; what it said is not our protocol` : '';
    return new DrError('connection-lost', `the transfer to ${this.#order.to.host} ended early: ${why}${began}. The image being written was not completed; complete copies are untouched.`,
      this.#order.to.host === 'local' ? 'Look at the log of this host.' : `Check that this host reaches ${this.#order.to.host} with ssh, without a password; then run the job again.`);
  }

  #fail(error: DrError): void {
    this.#failure ??= error;
    this.#comparison.fail(this.#failure);
    this.#questions.fail(this.#failure);
    this.#pool.fail(this.#failure);
    this.#reader.fail(this.#failure);
    if (error.code !== 'source-failed' && error.code !== 'cancelled') this.#wire.close();
  }

  /** Tells the receiver that the fault is not his. He may be gone, or not listening. */
  async #sayWhy(failure: DrError): Promise<void> {
    await within(1_000, this.#wire.send(jsonFrame('abort', failure.toJSON())).catch(() => undefined), undefined);
  }
}
