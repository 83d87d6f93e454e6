import { createReadStream } from 'node:fs';
import { DrError } from '../model/errors.js';
import type { ImageDigest } from '../model/image-set.js';
import { BlockPool } from './block-pool.js';
import { geometry, imageDigest, ImageHash, lengthOf } from './geometry.js';
import { openToRead } from './image-file.js';

/** The digest of an image from the file that holds its blocks' digests in order. */
export async function imageDigestOfFile(digestsPath: string): Promise<ImageDigest> {
  const hash = new ImageHash();
  for await (const chunk of createReadStream(digestsPath) as AsyncIterable<Buffer>) hash.add(chunk);
  return imageDigest(hash.finish());
}

/**
 * Reads an image past the page cache and digests it in worker threads, so the calling thread stays free. `onBlock` is called in order.
 * `direct` says whether the reads really went past the page cache. Throws `io` if it can't be read or is shorter than `bytes`.
 */
export async function hashImage(path: string, bytes: number, onBlock: (index: number, digest: Uint8Array) => void = () => undefined,
  signal?: AbortSignal): Promise<{ readonly digest: ImageDigest; readonly direct: boolean }> {
  await using file = await openToRead(path, true);
  if (file.bytes < bytes) throw new DrError('io', `${path} has ${String(file.bytes)} bytes, ${String(bytes)} were expected`);
  await using pool = new BlockPool({ slots: 8 });
  const disk = geometry(bytes);
  const hash = new ImageHash();
  const pending: Promise<Buffer>[] = [];
  const read = async (index: number): Promise<Buffer> => {
    const slot = await pool.acquire();
    try {
      const outcome = await pool.run({ kind: 'read', fd: file.fd, offset: index * disk.blockBytes, length: lengthOf(disk, index), slot: slot.at });
      if (outcome.kind === 'done') return Buffer.from(outcome.digest);
      throw new DrError('io', `${path} can't be read at ${String(index * disk.blockBytes)}: ${outcome.kind === 'error' ? outcome.message : 'it ends early'}`, 'Check the disk below it.');
    } finally {
      pool.release(slot);
    }
  };
  try {
    for (let index = 0; index < disk.blocks; index++) {
      if (signal?.aborted === true) throw new DrError('cancelled', 'reading was cancelled');
      while (pending.length < 8 && index + pending.length < disk.blocks) {
        const next = read(index + pending.length);
        next.catch(() => undefined); // told where it is awaited
        pending.push(next);
      }
      const digest = await (pending.shift() as Promise<Buffer>);
      hash.add(digest);
      onBlock(index, digest);
    }
  } finally {
    await Promise.allSettled(pending); // no thread may use the descriptor after it is closed
  }
  return { digest: imageDigest(hash.finish()), direct: file.direct };
}
