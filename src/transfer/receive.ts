import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { zeroExtents } from '../system/qemu.js';
import { step } from '../system/steps.js';
import { Accounting } from './accounting.js';
import type { BlockPool } from './block-pool.js';
import { DigestFile } from './digest-file.js';
import { asDestinationError } from './failures.js';
import { ASK_MAX, isPacked, jsonFrame, parseAsk, parseBlockPrefix, parseEnd, parseError, parseHello, parseRun, prefixBytes, type BlockFrame, type Hello, type Received, type Run } from './frames.js';
import { DIGEST_BYTES, geometry, imageDigest, zeroDigests, type Geometry } from './geometry.js';
import { Holdings } from './holdings.js';
import { openToWrite, type OpenedImage } from './image-file.js';
import { ImageWriter } from './image-writer.js';
import { Refusal } from './refusals.js';
import { SideStreams } from './side-streams.js';
import { keepResult, type Offer } from './ticket.js';
import { WireReader, WireWriter } from './wire.js';
import type { WireSource } from './wire-source.js';

/** Digests of zeros that are noted in one go. */
const ZEROS_AT_ONCE = 1024;

/** A sender's ticket was found good, and nobody else writes the image. */
export interface Admission extends AsyncDisposable {
  readonly directory: string;
  readonly offer: Offer;
  /** Somebody began to write with this ticket before: what the image holds is unknown. */
  readonly usedBefore: boolean;
}

export interface ReceiveOptions {
  /** Throws a Refusal (`ticket`) or `locked`. Called once, after the greeting. */
  readonly admit: (hello: Hello) => Promise<Admission>;
  readonly pool: BlockPool;
  /** Ends the transfer with the reason given. */
  readonly signal?: AbortSignal;
  readonly blockBytes: number;
  readonly silenceMs?: number;
  readonly now?: () => Date;
}

/**
 * The destination's side of one transfer. Resolves when every block is written, zeroed or the same, proven, durable, and the
 * result is kept with the ticket; whatever else happens, it throws, the sender is told why, and nothing is called complete.
 */
export async function receive(input: WireSource, output: Writable, options: ReceiveOptions): Promise<Received> {
  const reader = new WireReader(input, options.silenceMs);
  const wire = new WireWriter(output); // a sender that is gone ends the input too
  let streams: SideStreams | undefined;
  const abort = (): void => {
    const reason = DrError.from(options.signal?.reason);
    reader.fail(reason);
    streams?.fail(reason);
  };
  options.signal?.addEventListener('abort', abort);
  let path = 'the image';
  try {
    void wire.preamble().catch(() => undefined); // as above
    await reader.preamble();
    const hello = await greeting(reader, options.blockBytes);
    await using admission = await options.admit(hello);
    path = admission.offer.path;
    await using sides = await SideStreams.listen(admission.directory, hello.sideStreams, options.pool.memory, options.silenceMs);
    streams = sides;
    const result = await new Receiving(reader, sides, wire, hello, admission, options).run();
    await keepResult(admission.directory, result);
    step('receive-after-proof');
    await wire.send(jsonFrame('result', result)).catch(() => undefined); // the result is kept: whoever asks the agent finds it
    return result;
  } catch (error) {
    const failure = asDestinationError(path, error);
    await wire.send(jsonFrame('error', failure.toJSON())).catch(() => undefined); // nobody is there to be told
    throw failure;
  } finally {
    options.signal?.removeEventListener('abort', abort);
    reader.close();
    await wire.end();
  }
}

async function greeting(reader: WireReader, blockBytes: number): Promise<Hello> {
  const first = await reader.header(blockBytes);
  if (first === undefined) throw new Refusal('truncated', 'before the greeting');
  if (first.type !== 'hello') throw new Refusal('out-of-place', `${first.type} instead of hello`);
  return parseHello(await reader.payload(first.length));
}

/** One transfer after the greeting. */
class Receiving {
  readonly #reader: WireReader;
  readonly #sides: SideStreams;
  readonly #wire: WireWriter;
  readonly #admission: Admission;
  readonly #options: ReceiveOptions;
  readonly #disk: Geometry;
  readonly #accounting: Accounting;
  readonly #zeroDigest: (index: number) => Buffer;
  /** The digests of so many blocks of zeros. */
  readonly #zeros: Buffer;
  #failure: DrError | undefined;

  constructor(reader: WireReader, sides: SideStreams, wire: WireWriter, hello: Hello, admission: Admission, options: ReceiveOptions) {
    const { offer } = admission;
    if (hello.bytes !== offer.bytes) throw new Refusal('size', `${String(hello.bytes)} bytes instead of ${String(offer.bytes)}`);
    if (hello.blockBytes !== options.blockBytes) throw new Refusal('size', `blocks of ${String(hello.blockBytes)} bytes`);
    this.#reader = reader;
    this.#sides = sides;
    this.#wire = wire;
    this.#admission = admission;
    this.#options = options;
    this.#disk = geometry(offer.bytes, options.blockBytes);
    this.#accounting = new Accounting(this.#disk);
    this.#zeroDigest = zeroDigests(this.#disk);
    this.#zeros = Buffer.alloc(ZEROS_AT_ONCE * DIGEST_BYTES, this.#zeroDigest(0)); // of a disk's only block none of it is used
  }

  async run(): Promise<Received> {
    const began = (this.#options.now?.() ?? new Date()).toISOString();
    const { offer, directory, usedBefore } = this.#admission;
    await using image = await openOffered(offer);
    const untouched = !usedBefore && (image.kind === 'device' || image.mtime === offer.mtime);
    if (!untouched) log.warn('somebody has written to the image since it was offered; it is read instead', { path: offer.path });
    const start = untouched ? offer.start : 'read';
    const recycle = typeof start === 'object' && 'recycle' in start ? start : undefined;
    const without = typeof start === 'object' && 'without' in start ? start.without : undefined;
    const fresh = (start === 'fresh' || without !== undefined) && (image.kind === 'device' || await readsAsZeros(image, offer.bytes));
    const compare = without !== undefined || !(fresh || start === 'stale');

    const writer = new ImageWriter(this.#disk, image, this.#options.pool, {
      readBack: offer.readBack, expectZeros: fresh, zeroDigest: this.#zeroDigest, failed: (error) => { this.#fail(error); },
    });
    await writer.open();
    await using digests = await DigestFile.create(join(directory, 'digests'));
    const holdings = new Holdings(this.#disk, image, this.#options.pool, this.#wire);
    await this.#wire.send(jsonFrame('ready', { compare }));
    const offering = !compare ? Promise.resolve() : holdings.offer(recycle?.recycle ?? without).catch((error: unknown) => { this.#fail(asDestinationError(offer.path, error)); });
    try {
      const total = await this.#answers(writer, digests, holdings, fresh && image.kind === 'file');
      step('receive-before-proof');
      const proof = await writer.finish();
      if (this.#failure !== undefined) throw this.#failure;
      if (!(await digests.finish()).equals(total)) throw new Refusal('total');
      const provenSince = recycle !== undefined && this.#recycledSame > 0 && recycle.provenSince < began ? recycle.provenSince : began;
      return { digest: imageDigest(total), bytesWritten: writer.bytesWritten, proof, provenSince };
    } catch (error) {
      throw this.#failure ?? error;
    } finally {
      holdings.stop();
      await Promise.allSettled([offering, writer.settled(), ...this.#telling]); // no thread may use the image after it is closed
    }
  }

  /** Blocks that were called the same on the word of an earlier proof. */
  #recycledSame = 0;

  /** Reads the sender's answers to their end and sets the work going; the digest he ended with. */
  async #answers(writer: ImageWriter, digests: DigestFile, holdings: Holdings, holes: boolean): Promise<Buffer> {
    for (;;) {
      const found = await this.#reader.header(this.#disk.blockBytes);
      if (found === undefined) throw new Refusal('truncated', `after ${String(this.#accounting.next)} of ${String(this.#disk.blocks)} blocks`);
      switch (found.type) {
        case 'same': {
          const run = parseRun(await this.#reader.payload(found.length));
          this.#accounting.run('same', run, holdings.offered);
          this.#recycledSame += Math.max(0, Math.min(run.first + run.count, holdings.recycled) - run.first);
          await digests.add(holdings.digests(run.first, run.count));
          break;
        }
        case 'zero': {
          const run = parseRun(await this.#reader.payload(found.length));
          this.#accounting.run('zero', run, holdings.offered);
          await this.#addZeros(digests, run);
          if (!holes) writer.zeros(run); // in a fresh file they are holes that we made
          break;
        }
        case 'ask': {
          const index = parseAsk(await this.#reader.payload(found.length));
          this.#accounting.ask(index, holdings.offered);
          this.#tellParts(holdings, index);
          if (this.#telling.size > ASK_MAX) await Promise.race(this.#telling); // answered already, and asked for all the same
          break;
        }
        case 'data': case 'packed': case 'patch': case 'packed-patch':
          await this.#data(found.type, writer, digests, holdings, found.length - prefixBytes(found.type), found.stream);
          break;
        case 'end': {
          const { counts, total } = parseEnd(await this.#reader.payload(found.length));
          this.#accounting.end(counts);
          await this.#reader.end();
          await this.#sides.end();
          return total;
        }
        case 'abort': throw DrError.fromData(parseError(await this.#reader.payload(found.length)));
        case 'ping': case 'hello': case 'ready': case 'have': case 'parts': case 'result': case 'error':
          throw new Refusal('out-of-place', found.type);
      }
      holdings.answered(this.#accounting.next);
      await writer.room();
    }
  }

  /** Questions that are being answered. */
  readonly #telling = new Set<Promise<void>>();

  #tellParts(holdings: Holdings, index: number): void {
    const telling = holdings.tellParts(index).catch((error: unknown) => { this.#fail(asDestinationError(this.#admission.offer.path, error)); })
      .finally(() => { this.#telling.delete(telling); });
    this.#telling.add(telling);
  }

  async #data(type: BlockFrame, writer: ImageWriter, digests: DigestFile, holdings: Holdings, length: number, stream: number): Promise<void> {
    const { index, digest, map } = parseBlockPrefix(await this.#reader.payload(prefixBytes(type)));
    this.#accounting.data(type, index, length, map);
    const slot = await this.#options.pool.acquire();
    try {
      const bytes = slot.bytes.subarray(0, length);
      if (stream !== 0) await this.#sides.fill(stream, bytes);
      else if (!await this.#reader.fill(bytes)) throw new Refusal('truncated', 'before a block\'s bytes');
    } catch (error) {
      this.#options.pool.release(slot); // late bytes may still come into it: nothing that is read from here on counts
      throw error;
    }
    await digests.add(digest);
    const old = map === undefined ? undefined : holdings.take(index);
    writer.data(index, digest, slot, { ...(isPacked(type) ? { packed: length } : {}), ...(map === undefined ? {} : { map }), ...(old === undefined ? {} : { old }) });
  }

  async #addZeros(digests: DigestFile, { first, count }: Run): Promise<void> {
    const last = first + count === this.#disk.blocks ? 1 : 0; // the disk's last block may be shorter than the others
    for (let rest = count - last; rest > 0; rest -= ZEROS_AT_ONCE) await digests.add(this.#zeros.subarray(0, Math.min(rest, ZEROS_AT_ONCE) * DIGEST_BYTES));
    if (last === 1) await digests.add(this.#zeroDigest(this.#disk.blocks - 1));
  }

  #fail(error: DrError): void {
    this.#failure ??= error;
    this.#reader.fail(error);
    this.#sides.fail(error);
  }
}

/** Opens what the ticket was made for, and nothing else. */
async function openOffered(offer: Offer): Promise<OpenedImage> {
  const image = await openToWrite(offer.path);
  const why = image.identity !== offer.identity ? 'is not what it was when the transfer was prepared'
    : image.bytes < offer.bytes ? `has only ${String(image.bytes)} bytes` : undefined;
  if (why === undefined) return image;
  await image[Symbol.asyncDispose]();
  throw new DrError('state-changed', `${offer.path} ${why}. Nothing was written.`, 'Run the job again; it looks at everything afresh.');
}

/** Whether a file said to be fresh is nothing but holes. Of a device that can't be seen: what is to be zero in it is read and proven. */
async function readsAsZeros(image: OpenedImage, bytes: number): Promise<boolean> {
  if (image.allocatedBytes === 0 || bytes === 0) return true;
  const [first] = await zeroExtents(`/proc/${String(process.pid)}/fd/${String(image.tailFd)}`, 'raw').catch(() => []); // then it is read
  return first?.start === 0 && first.length >= bytes;
}

