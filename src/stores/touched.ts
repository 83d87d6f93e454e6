import type { DiskProof, Touched } from '../model/image-set.js';

/** Whether an image was written to since somebody looked at it, from evidence that is cheap to have. Pure. */
export type Comparison =
  | { readonly kind: 'untouched' }
  /** It was written to, or is another file or volume. */
  | { readonly kind: 'touched'; readonly why: string }
  /** The evidence does not reach that far back: a volume's write counter starts anew whenever the volume is activated. */
  | { readonly kind: 'unknown'; readonly why: string };

const touched = (why: string): Comparison => ({ kind: 'touched', why });
const unknown = (why: string): Comparison => ({ kind: 'unknown', why });

/** How an image compares with the state that was seen before. */
export function compareTouched(before: Touched, now: Touched): Comparison {
  if (now.bytes !== before.bytes) return touched(`it is ${String(now.bytes)} bytes long, not ${String(before.bytes)}`);
  if ('inode' in before) {
    if (!('inode' in now) || now.inode !== before.inode) return touched('it is another file (inode)');
    return now.mtime === before.mtime ? { kind: 'untouched' } : touched(`it was written ${new Date(Number(BigInt(now.mtime) / 1_000_000n)).toISOString()}`);
  }
  if (!('volume' in now) || now.volume !== before.volume) return touched('it is another volume (UUID)');
  if (before.counted === undefined || now.counted === undefined) return unknown('it was not active when it was looked at');
  if (now.counted.boot !== before.counted.boot) return unknown('the host was booted since');
  if (now.counted.device !== before.counted.device) return unknown('it was deactivated since');
  return now.counted.writes === before.counted.writes ? { kind: 'untouched' } : touched('it was written to since this host was booted');
}

/** How an image compares with the state in which it was proven. */
export function touchedSince(proof: Pick<DiskProof, 'touched' | 'bytes'>, image: { readonly touched: Touched; readonly bytes: number }): Comparison {
  if (image.bytes !== proof.bytes) return touched(`it is ${String(image.bytes)} bytes long, not ${String(proof.bytes)}`);
  return compareTouched(proof.touched, image.touched);
}
