import { readFile } from 'node:fs/promises';
import { DrError, type ErrorData } from '../model/errors.js';
import { BLOCK_BYTES, DIGEST_BYTES } from '../transfer/geometry.js';
import { hashImage } from '../transfer/image-digest.js';

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
  | { readonly kind: 'unreadable'; readonly error: ErrorData };

const NAMED_AT_MOST = 16;
const REPORT_EVERY = 64;

async function readBlocks(path: string, bytes: number, digests: string | undefined): Promise<BlocksRead> {
  const expected = digests === undefined ? undefined : await readFile(digests);
  const differing: number[] = [];
  let differ = 0;
  const { digest, direct } = await hashImage(path, bytes, (index, found) => {
    const wanted = expected?.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
    if (wanted !== undefined && Buffer.compare(wanted, found) !== 0) {
      differ += 1;
      if (differing.length < NAMED_AT_MOST) differing.push(index);
    }
    if (index % REPORT_EVERY === 0) process.stdout.write(`${JSON.stringify({ done: index * BLOCK_BYTES })}\n`);
  });
  return { kind: 'read', digest, direct, differing, differ };
}

const [, , path, bytes, digests] = process.argv;
if (path === undefined || bytes === undefined) throw new Error('usage: read-blocks <path> <bytes> [<digests>]');
process.stdin.on('end', () => process.exit(1)).resume();
const outcome = await readBlocks(path, Number(bytes), digests)
  .catch((error: unknown): BlocksRead => ({ kind: 'unreadable', error: DrError.from(error).toJSON() }));
process.stdout.write(`${JSON.stringify(outcome)}\n`, () => process.exit(0));
