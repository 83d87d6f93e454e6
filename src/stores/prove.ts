import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { copyFile, open, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DrError } from '../model/errors.js';
import type { DiskProof, Manifest, SetId, SetIntent, StoredImage } from '../model/image-set.js';
import { syncDirectory, writeDurable } from '../system/durable.js';
import { DIGEST_BYTES, geometry } from '../transfer/geometry.js';
import { resultOf, ticketDigests } from '../transfer/ticket.js';
import type { OpenStore } from './open.js';
import { digestOfDigests } from './proven-digests.js';
import { usersOf } from './users.js';

/** What is asked to be proven: per disk, the ticket it was received on and the digest that its sender computed from the source. */
export interface ProofRequest {
  readonly set: SetId;
  readonly disks: Readonly<Record<string, { readonly ticket: string; readonly digest: string }>>;
  readonly definition: string;
  /** base64 */
  readonly nvram?: string;
  /** base64 */
  readonly tpm?: string;
}

/**
 * Makes a set complete: every disk of the intent was received whole, with the digest that its sender saw, and is in the image bound to
 * this set. The manifest is written last. Doing it again for a set that is complete answers with its manifest.
 *
 * Throws `state-changed`, `digest-mismatch`, `image-modified`, `image-in-use`; nothing is complete then.
 */
export async function prove({ store, catalog }: OpenStore, request: ProofRequest): Promise<Manifest> {
  const done = await catalog.manifest(request.set);
  if (done !== undefined) return done;
  const intent = await catalog.intent(request.set);
  if (intent === undefined) throw new DrError('state-changed', `the set ${request.set} was never begun in ${store.ref}`, 'Run the job again.');
  const asked = Object.keys(request.disks).sort().join(' ');
  const wanted = intent.disks.map(({ disk }) => disk).sort().join(' ');
  if (asked !== wanted) throw incomplete(intent, `its disks are ${wanted}; received were ${asked}`);

  const images = await unusedImages({ store }, intent);
  const proofs: DiskProof[] = [];
  for (const { disk, target, bytes } of intent.disks) {
    const { ticket, digest } = request.disks[disk] ?? { ticket: '', digest: '' };
    const image = images.get(disk);
    if (image === undefined) throw incomplete(intent, `no image of ${disk} is bound to it`);
    const received = await resultOf(ticket);
    if (received.digest !== digest) {
      throw new DrError('digest-mismatch', `${intent.server} disk ${disk}: what was received is not what was captured. The set was not completed; older copies are untouched.`, 'Run the job again. If it happens again, check memory and network of both hosts.');
    }
    const settled = await store.settle(image);
    if (settled.bytes !== bytes) throw incomplete(intent, `the image of ${disk} is ${String(settled.bytes)} bytes long, not ${String(bytes)}`);
    await keepDigests(intent, disk, ticket, catalog.digestsPath(intent.set, disk), { bytes, digest });
    proofs.push({ disk, target, bytes, digest, proof: received.proof, provenSince: received.provenSince, touched: settled.touched });
  }
  const attachments = await attach(catalog.directory(intent.set), request);

  const { disks: _, ...about } = intent;
  const manifest: Manifest = { ...about, completedAt: new Date().toISOString(), disks: proofs, attachments };
  await unusedImages({ store }, intent); // a boot by hand in the meantime has marked it
  await catalog.complete(manifest);
  return manifest;
}

/** The images bound to the set, unless somebody uses or has used one. */
async function unusedImages({ store }: Pick<OpenStore, 'store'>, intent: SetIntent): Promise<ReadonlyMap<string, StoredImage>> {
  const images = (await store.list()).filter(({ identity }) => identity?.set === intent.set);
  const modified = images.find((image) => image.modified !== undefined);
  if (modified !== undefined) throw new DrError('image-modified', `${modified.name} was booted or changed while it was written (${modified.modified ?? ''}). The set was not completed.`, `Run: dr release ${intent.server}`);
  for (let waited = 0; ; waited += 100) { // the process that received may need a moment to end
    const users = await usersOf(images);
    const [user] = users.values();
    if (user === undefined) break;
    if (waited >= 3_000) throw new DrError('image-in-use', `an image of the set ${intent.set} of ${intent.server} is open in ${user}, so it can't be taken as proven. Older copies are untouched.`, 'End what uses it, then run the job again.');
    await new Promise((resolve) => { setTimeout(resolve, 100); });
  }
  return new Map(images.map((image) => [image.identity?.disk ?? '', image]));
}

/** Keeps the block digests with the set, after checking that they are what the image's digest was built from. */
async function keepDigests(intent: SetIntent, disk: string, ticket: string, path: string, { bytes, digest }: { readonly bytes: number; readonly digest: string }): Promise<void> {
  const temporary = join(dirname(path), `.digests.${randomBytes(6).toString('hex')}.tmp`);
  await copyFile(ticketDigests(ticket), temporary, constants.COPYFILE_EXCL);
  const handle = await open(temporary, 'r+');
  try {
    await handle.chmod(0o600);
    await handle.sync();
  } finally {
    await handle.close();
  }
  const blocks = geometry(bytes).blocks;
  if ((await stat(temporary)).size !== blocks * DIGEST_BYTES || await digestOfDigests(temporary) !== digest) {
    throw incomplete(intent, `the block digests of ${disk} do not add up to its digest`);
  }
  await rename(temporary, path);
  await syncDirectory(dirname(path));
}

async function attach(directory: string, request: ProofRequest): Promise<Record<string, string>> {
  const files: Record<string, Uint8Array> = {
    'definition.xml': Buffer.from(request.definition, 'utf8'),
    ...(request.nvram === undefined ? {} : { nvram: Buffer.from(request.nvram, 'base64') }),
    ...(request.tpm === undefined ? {} : { 'tpm.tar': Buffer.from(request.tpm, 'base64') }),
  };
  const digests: Record<string, string> = {};
  for (const [name, content] of Object.entries(files)) {
    await writeDurable(join(directory, name), content);
    digests[name] = createHash('sha256').update(content).digest('hex');
  }
  return digests;
}

function incomplete(intent: SetIntent, why: string): DrError {
  return new DrError('state-changed', `the set ${intent.set} of ${intent.server} can't be completed: ${why}. Older copies are untouched.`, 'Run the job again.');
}
