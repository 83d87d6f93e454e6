/**
 * What has changed within a block. Parts are compared by short digests, which need not be proof against anything: whatever a patch makes of a block
 * is held against the digest of the whole block. A map has a bit for each part, lowest first; of a short block the rest are 0.
 */

/** A block that differs is compared part by part: so many to a block, of 4 KiB, which is what file systems write. The last part of a disk may be shorter. */
export const PARTS = 256;
/** Bytes of a part's digest, an XXH64 (`part-digests.ts`). */
export const PART_DIGEST_BYTES = 8;
/** Bytes of a map. */
export const MAP_BYTES = PARTS / 8;

/** Bytes of a part of a block. */
export function partBytes(blockBytes: number): number {
  return blockBytes / PARTS;
}

/** How many parts so many bytes of a block have. */
export function partsIn(length: number, blockBytes: number): number {
  return Math.ceil(length / partBytes(blockBytes));
}

/** Marks a part on a map. */
export function mark(map: Uint8Array, part: number): void {
  map[part >> 3] = (map[part >> 3] ?? 0) | (1 << (part & 7));
}

function isMarked(map: Uint8Array, part: number): boolean {
  return ((map[part >> 3] ?? 0) & (1 << (part & 7))) !== 0;
}

/** Bytes of the marked parts of a block of `length` bytes; undefined if one is marked that the block does not have. */
export function patchBytes(map: Uint8Array, length: number, blockBytes: number): number | undefined {
  const parts = partsIn(length, blockBytes);
  let bytes = 0;
  for (let part = 0; part < PARTS; part++) {
    if (!isMarked(map, part)) continue;
    if (part >= parts) return undefined;
    bytes += Math.min(partBytes(blockBytes), length - part * partBytes(blockBytes));
  }
  return bytes;
}

/** Moves the marked parts of a block to its beginning, in order; how many bytes they are. What is behind them is garbage. */
export function gather(block: Uint8Array, map: Uint8Array, blockBytes: number): number {
  const size = partBytes(blockBytes);
  let to = 0;
  for (let part = 0; part * size < block.length; part++) {
    if (!isMarked(map, part)) continue;
    block.copyWithin(to, part * size, Math.min(block.length, (part + 1) * size));
    to += Math.min(size, block.length - part * size);
  }
  return to;
}

/** The other way round: puts the marked parts, which come one behind the other, in their places in a block. */
export function scatter(parts: Uint8Array, map: Uint8Array, blockBytes: number, block: Uint8Array): void {
  const size = partBytes(blockBytes);
  let from = 0;
  for (let part = 0; part * size < block.length; part++) {
    if (!isMarked(map, part)) continue;
    const length = Math.min(size, block.length - part * size);
    block.set(parts.subarray(from, from + length), part * size);
    from += length;
  }
}

/** The marked ranges of a block, `[start, end)` in bytes, widened to whole sectors (the last one as far as the block goes) and joined where they meet. */
export function markedRanges(map: Uint8Array, length: number, blockBytes: number, sectorBytes: number): readonly (readonly [number, number])[] {
  const size = partBytes(blockBytes);
  const ranges: [number, number][] = [];
  for (let part = 0; part * size < length; part++) {
    if (!isMarked(map, part)) continue;
    const start = Math.floor(part * size / sectorBytes) * sectorBytes;
    const end = Math.min(length, Math.ceil((part + 1) * size / sectorBytes) * sectorBytes);
    const last = ranges.at(-1);
    if (last !== undefined && start <= last[1]) last[1] = end;
    else ranges.push([start, end]);
  }
  return ranges;
}
