import type { Agent } from '../agent/connect.js';
import type { Params } from '../agent/protocol.js';
import { DIGEST_BYTES, geometry } from '../transfer/geometry.js';

/** How long a target may look for the digests of one piece, in milliseconds. */
const ANSWER_MS = 60_000;

/** Images of one disk, each on its target, that a run is going to recycle. */
export type Recycled = readonly { readonly agent: Agent; readonly image: Omit<Params<'store.digests'>, 'first'> }[];

/**
 * The block digests that all the images have in common, in order, piece by piece; zeros where they differ, which is no block's digest. Ends where one of them is not
 * known any further, so it gives nothing if that is so from the beginning. Memory does not grow with the disk.
 */
export async function* commonDigests(images: Recycled, signal: AbortSignal): AsyncGenerator<Buffer> {
  const blocks = Math.min(...images.map(({ image }) => geometry(image.bytes).blocks));
  for (let first = 0; images.length > 0 && first < blocks;) {
    const inTime = { signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]) }; // no run waits long for what only makes it quicker
    const told = await Promise.all(images.map(async ({ agent, image }) => Buffer.from((await agent.call('store.digests', { ...image, first }, inTime)).digests, 'base64')));
    const common = inCommon(told);
    if (common.length === 0) return;
    yield common;
    first += common.length / DIGEST_BYTES;
  }
}

/** As many whole digests as all have; zeros where they differ. */
export function inCommon([one = Buffer.alloc(0), ...others]: readonly Buffer[]): Buffer {
  const shortest = Math.min(one.length, ...others.map(({ length }) => length));
  const common = Buffer.from(one.subarray(0, shortest - shortest % DIGEST_BYTES));
  for (let at = 0; at < common.length; at += DIGEST_BYTES) {
    if (others.some((other) => one.compare(other, at, at + DIGEST_BYTES, at, at + DIGEST_BYTES) !== 0)) common.fill(0, at, at + DIGEST_BYTES);
  }
  return common;
}
