import { open } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import type { ImageDigest, SetId, StoredImage } from '../model/image-set.js';
import { hasCode } from '../system/durable.js';
import { DIGEST_BYTES, geometry } from '../transfer/geometry.js';
import { imageDigestOfFile } from '../transfer/image-digest.js';
import type { OpenStore } from './open.js';
import type { Catalog } from './store.js';
import { touchedSince } from './touched.js';

/** One disk of one set. */
interface Captured {
  readonly set: SetId;
  readonly disk: string;
}

/** How old a proof may be, and when that is asked. */
export interface ProofAge {
  readonly reproveAfterSeconds: number;
  readonly now: Date;
}

/** The digests of an image's blocks, as long as its set's proof speaks for what it holds now. */
export interface ProvenDigests {
  /** A file of 32 bytes per block. */
  readonly recycle: string;
  readonly provenSince: string;
}

/** Old blocks count as proven only if everything fits: the old set's proof, the untouched image, the digests, and the proof's age. */
export async function provenDigests(catalog: Catalog, { set, disk }: Captured, image: Pick<StoredImage, 'touched' | 'bytes'>, { reproveAfterSeconds, now }: ProofAge): Promise<ProvenDigests | undefined> {
  const manifest = await catalog.manifest(set).catch((error: unknown) => {
    if (error instanceof DrError && error.code === 'manifest-damaged') return undefined; // then there is no proof
    throw error;
  });
  const proof = manifest?.disks.find((one) => one.disk === disk);
  if (proof === undefined || proof.proof !== 'device' || touchedSince(proof, image).kind !== 'untouched') return undefined;
  const age = now.getTime() - Date.parse(proof.provenSince);
  if (!(age >= 0 && age <= reproveAfterSeconds * 1000)) return undefined; // also when the clock was set back
  const recycle = catalog.digestsPath(set, disk);
  return await digestOfDigests(recycle) === proof.digest ? { recycle, provenSince: proof.provenSince } : undefined;
}

/** The image digest that a file of block digests adds up to; undefined if there is no such file. */
export async function digestOfDigests(path: string): Promise<ImageDigest | undefined> {
  try {
    return await imageDigestOfFile(path);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Blocks whose digests are told in one answer: 512 KiB of them, for 16 GiB of a disk. */
const TOLD_AT_ONCE = 16_384;

/**
 * The digests of an image that a run is going to recycle, from the block `first` on, some at a time: what the image is known to hold without being read. Empty behind the last
 * block, and at the beginning of an image of another size or of which that is not known. Only looks; a target that turns out not to hold this costs a second capture, nothing else.
 */
export async function digestsToRecycle({ store, catalog }: OpenStore, wanted: Captured & { readonly bytes: number; readonly first: number }, age: ProofAge): Promise<Buffer> {
  const none = Buffer.alloc(0);
  if (wanted.first === 0 && !await isKnown()) return none; // looked at once: reading all of the digests for each piece of them would take long
  const left = geometry(wanted.bytes).blocks - wanted.first;
  const digests = Buffer.alloc(Math.max(0, Math.min(left, TOLD_AT_ONCE)) * DIGEST_BYTES);
  const file = await open(catalog.digestsPath(wanted.set, wanted.disk), 'r');
  try {
    const { bytesRead } = await file.read(digests, 0, digests.length, wanted.first * DIGEST_BYTES);
    return bytesRead === digests.length ? digests : none;
  } finally {
    await file.close();
  }

  async function isKnown(): Promise<boolean> {
    const image = (await store.list()).find(({ identity }) => identity?.set === wanted.set && identity.disk === wanted.disk);
    return image?.bytes === wanted.bytes && await provenDigests(catalog, wanted, image, age) !== undefined;
  }
}
