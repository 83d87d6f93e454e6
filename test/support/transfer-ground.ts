import { createHash, randomBytes } from 'node:crypto';
import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import type { DataSource } from '../../src/model/host.js';
import { BlockPool } from '../../src/transfer/block-pool.js';
import type { Received } from '../../src/transfer/frames.js';
import { BLOCK_BYTES } from '../../src/transfer/geometry.js';
import { hashImage } from '../../src/transfer/image-digest.js';
import { receive } from '../../src/transfer/receive.js';
import { admit } from '../../src/transfer/receiver.js';
import { send, type Sending, type Sent } from '../../src/transfer/send.js';
import { makeTicket, type Start } from '../../src/transfer/ticket.js';
import { StreamSource } from '../../src/transfer/wire-source.js';
import { temporaryDirectory, type TestPlace } from './file-systems.js';

export const MIB = 1024 * 1024;

/** What a block of a test disk holds: bytes that look random and differ by letter, 0xFF, or a hole. */
export type Fill = string;

/** A place with a state directory of its own, to move disks about in. */
export class TransferGround {
  readonly #place: TestPlace;
  readonly #stateBefore = process.env['DR_STATE_DIR'];
  /** The receivers'. */
  readonly pool = new BlockPool();
  /** The senders'; a failure spoils it, and another is made for the next one. */
  #sendersPool: BlockPool | undefined;

  private constructor(place: TestPlace) {
    this.#place = place;
    process.env['DR_STATE_DIR'] = join(place.path, 'state');
  }

  static async make(): Promise<TransferGround> {
    return new TransferGround(await temporaryDirectory('transfer'));
  }

  async remove(): Promise<void> {
    await this.pool[Symbol.asyncDispose]();
    await this.#sendersPool?.[Symbol.asyncDispose]();
    if (this.#stateBefore === undefined) delete process.env['DR_STATE_DIR'];
    else process.env['DR_STATE_DIR'] = this.#stateBefore;
    await this.#place.remove();
  }

  path(name: string): string {
    return join(this.#place.path, name);
  }

  /** Makes a file of blocks of 1 MiB, one per character: `.` is a hole, `#` is 0xFF, any other its own noise. `bytes` cuts or extends it. */
  async disk(name: string, fill: Fill, bytes = fill.length * BLOCK_BYTES, path = this.path(name), blockBytes = BLOCK_BYTES): Promise<string> {
    await writeFile(path, '');
    await truncate(path, bytes);
    const handle = await open(path, 'r+');
    try {
      for (const [index, letter] of [...fill].entries()) {
        const length = Math.min(blockBytes, bytes - index * blockBytes);
        if (letter !== '.' && length > 0) await handle.write(blockOf(letter).subarray(0, length), 0, length, index * blockBytes);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    return path;
  }

  /** A file with the digests of an image's blocks. */
  async digestsOf(image: string, bytes: number): Promise<string> {
    const digests: Buffer[] = [];
    await hashImage(image, bytes, (_, digest) => digests.push(Buffer.from(digest)));
    const file = this.path('old.digests');
    await writeFile(file, Buffer.concat(digests));
    return file;
  }

  /** Moves a disk with both sides in this process, over streams. */
  async move(source: Partial<DataSource> & { readonly path: string; readonly bytes: number },
    destination: { readonly path: string; readonly start: Start; readonly readBack?: boolean; readonly now?: Date; readonly pool?: BlockPool; readonly ticket?: { readonly ticket: string; readonly secret: string } },
    sending: Sending & { readonly limitBytesPerSecond?: number } = {}): Promise<{ readonly sent: Sent; readonly received: Received; readonly ticket: string }> {
    const made = destination.ticket ?? await makeTicket({ path: destination.path, bytes: source.bytes, start: destination.start, readBack: destination.readBack ?? true });
    const [there, back] = [pipe(), pipe()];
    const receiving = receive(new StreamSource(there), back, {
      pool: destination.pool ?? this.pool, blockBytes: sending.blockBytes ?? BLOCK_BYTES, admit: (hello) => admit(hello, new AbortController()),
      ...(destination.now === undefined ? {} : { now: () => destination.now ?? new Date() }),
    });
    receiving.catch(() => undefined); // what the sender says comes first
    const pool = this.#sendersPool ??= new BlockPool();
    const sent = await send({
      source: { direct: true, ...source }, to: { host: 'local', agentCommand: [] }, ...made,
      ...(sending.limitBytesPerSecond === undefined ? {} : { limit: [{ afterMs: 0, bytesPerSecond: sending.limitBytesPerSecond }] }),
    }, {
      ...sending, pool,
      connect: () => ({ input: back, output: there, ended: () => Promise.resolve('it ended'), kill: () => { there.destroy(); } }),
    }).catch(async (error: unknown) => {
      this.#sendersPool = undefined;
      await pool[Symbol.asyncDispose]();
      there.destroy(); // it may have failed before it had anything to do with the receiver
      await receiving.catch(() => undefined);
      throw error;
    });
    return { sent, received: await receiving, ticket: made.ticket };
  }
}

/** A stream that has its own copy of what passes, as the kernel's pipes have: the sender's memory is used again at once. */
export function pipe(): Transform {
  return new Transform({ transform: (chunk: Buffer, _encoding, done) => { done(null, Buffer.from(chunk)); } });
}

const blocks = new Map<string, Buffer>();

/** The block that a letter stands for. */
export function blockOf(letter: string): Buffer {
  let block = blocks.get(letter);
  if (block === undefined) {
    block = letter === '.' ? Buffer.alloc(BLOCK_BYTES) : letter === '#' ? Buffer.alloc(BLOCK_BYTES, 0xff) : randomBytes(BLOCK_BYTES);
    blocks.set(letter, block);
  }
  return block;
}

/** The digest of an image as documented, computed the plain way. */
export function plainDigest(content: Buffer, blockBytes = BLOCK_BYTES): string {
  const whole = createHash('sha256');
  for (let at = 0; at < content.length; at += blockBytes) {
    whole.update(createHash('sha256').update(content.subarray(at, at + blockBytes)).digest());
  }
  return `sha256-1MiB:${whole.digest('hex')}`;
}

export async function plainDigestOf(path: string): Promise<string> {
  return plainDigest(await readFile(path));
}
