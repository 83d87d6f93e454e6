import { constants } from 'node:fs';
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { BlockPool } from '../transfer/block-pool.js';
import { DIGEST_BYTES, geometry, imageDigest, ImageHash, lengthOf } from '../transfer/geometry.js';

/**
 * A process of its own that reads an image past the page cache and compares its blocks with digests:
 * `node read-blocks.js <path> <bytes> [<digests>]`. Prints JSON lines: `{"done":…}` as it goes, and at the end a `BlocksRead`. It ends when
 * its standard input does.
 */
export type BlocksRead =
  | { readonly kind: 'read'; readonly digest: string;
      /** Whether every block was read past the page cache. */
      readonly direct: boolean;
      /** Indexes of the blocks that differ, the first of them; and how many there are. */
      readonly differing: readonly number[]; readonly differ: number }
  | { readonly kind: 'unreadable'; readonly block: number; readonly why: string };

const NAMED_AT_MOST = 16;
const REPORT_EVERY = 64;

async function readBlocks(path: string, bytes: number, expected: Buffer | undefined, report: (done: number) => void): Promise<BlocksRead> {
  const disk = geometry(bytes);
  const { handle, direct } = await openDirect(path);
  await using pool = new BlockPool();
  const hash = new ImageHash();
  const differing: number[] = [];
  let differ = 0;
  const under: Promise<{ readonly index: number; readonly digest?: Uint8Array; readonly why?: string }>[] = [];
  const take = async (): Promise<BlocksRead | undefined> => {
    const read = await under.shift();
    if (read === undefined) return undefined;
    if (read.digest === undefined) return { kind: 'unreadable', block: read.index, why: read.why ?? 'unknown' };
    hash.add(read.digest);
    const wanted = expected?.subarray(read.index * DIGEST_BYTES, (read.index + 1) * DIGEST_BYTES);
    if (wanted !== undefined && Buffer.compare(wanted, read.digest) !== 0) {
      differ += 1;
      if (differing.length < NAMED_AT_MOST) differing.push(read.index);
    }
    if (read.index % REPORT_EVERY === 0) report(read.index * disk.blockBytes);
    return undefined;
  };
  try {
    for (let index = 0; index < disk.blocks; index++) {
      let slot = pool.tryAcquire();
      while (slot === undefined) {
        const failure = await take();
        if (failure !== undefined) return failure;
        slot = pool.tryAcquire();
      }
      const held = slot;
      under.push(pool.run({ kind: 'read', fd: handle.fd, offset: index * disk.blockBytes, length: lengthOf(disk, index), slot: held.at }).then((outcome) => {
        pool.release(held);
        if (outcome.kind === 'done') return { index, digest: outcome.digest };
        return { index, why: outcome.kind === 'error' ? outcome.message : 'it ends before its last block' };
      }));
    }
    while (under.length > 0) {
      const failure = await take();
      if (failure !== undefined) return failure;
    }
  } finally {
    await Promise.allSettled(under);
    await handle.close();
  }
  return { kind: 'read', digest: imageDigest(hash.finish()), direct, differing, differ };
}

async function openDirect(path: string): Promise<{ readonly handle: FileHandle; readonly direct: boolean }> {
  try {
    return { handle: await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_DIRECT), direct: true };
  } catch {
    return { handle: await open(path, constants.O_RDONLY | constants.O_NOFOLLOW), direct: false }; // refused; any other error shows again here
  }
}

const [, , path, bytes, digests] = process.argv;
if (path === undefined || bytes === undefined) throw new Error('usage: read-blocks <path> <bytes> [<digests>]');
process.stdin.on('end', () => process.exit(1)).resume();
const expected = digests === undefined ? undefined : await readFile(digests);
const outcome = await readBlocks(path, Number(bytes), expected, (done) => { process.stdout.write(`${JSON.stringify({ done })}\n`); })
  .catch((error: unknown): BlocksRead => ({ kind: 'unreadable', block: 0, why: error instanceof Error ? error.message : String(error) }));
process.stdout.write(`${JSON.stringify(outcome)}\n`, () => process.exit(0));
