import { DrError } from '../model/errors.js';
import type { DiskProof, Manifest, SetId, StoredImage } from '../model/image-set.js';
import { imageBase } from '../model/names.js';
import type { ImageSeen } from '../model/rotation.js';
import { lock } from '../system/flock.js';
import { stateDirectory } from '../system/state.js';
import { judge, sight, type Sighting } from './examine.js';
import type { OpenStore } from './open.js';
import { digestOfDigests } from './proven-digests.js';
import type { Verified } from '../model/views.js';
import { readImage } from './reader.js';
import type { CurrentLinks } from './store.js';
import { repoint } from './tidy.js';
import { compareTouched } from './touched.js';

export interface Watching {
  readonly signal: AbortSignal;
  readonly report: (done: number, total: number) => void;
}

/**
 * Reads images again and compares them with their manifests. What equals its proof has it renewed, also where its file was touched or replaced since
 * (a restored backup); what was damaged without anybody having written to it loses its proof. With `adopt`, files under an image's name
 * that are bound to nothing are bound to the set whose digests they match. A server that a run is at work on is left out: its images
 * count as in use. The caller holds none of the servers' locks.
 */
export async function verify(open: OpenStore, current: CurrentLinks, only: string | undefined, adopt: boolean, watching: Watching): Promise<Verified[]> {
  const servers = [...new Set([...(await sight(open)).records.values()].map(({ about }) => about.server))].filter((server) => only === undefined || server === only).sort();
  const results: Verified[] = [];
  for (const [index, server] of servers.entries()) {
    // Progress counts servers as equally large: what the others hold is seen only when their turn comes.
    const report = (done: number, total: number): void => { watching.report(index * 1000 + Math.floor(1000 * done / Math.max(1, total)), servers.length * 1000); };
    try {
      await using _held = await lock(stateDirectory('locks', `server-${server}.lock`), server);
      results.push(...await verifyServer(open, current, server, adopt, { signal: watching.signal, report }));
    } catch (error) {
      if (!(error instanceof DrError) || error.code !== 'locked') throw error;
      results.push(...distinct(judge(await sight(open), server).images).map((image) => ({ ...rowOf(image), outcome: 'in-use' as const, detail: 'a run is at work on its server' })));
    }
  }
  return results;
}

async function verifyServer(open: OpenStore, current: CurrentLinks, server: string, adopt: boolean, watching: Watching): Promise<Verified[]> {
  const adopted = adopt ? await adoptLost(open, await sight(open), server, watching) : [];
  const found = await sight(open);
  const images = distinct(judge(found, server).images);
  const total = images.reduce((sum, { bytes }) => sum + bytes, 0);
  const results: Verified[] = [];
  let before = 0;
  for (const image of images) {
    const offset = before;
    const verdict = await verifyOne(open, found, images, image, { signal: watching.signal, report: (done) => { watching.report(offset + done, total); } });
    const detail = adopted.includes(image.name) && verdict.outcome === 'ok' ? 'adopted: it equals its proof' : verdict.detail;
    results.push({ ...rowOf(image), ...verdict, detail });
    before += image.bytes;
    watching.report(before, total);
  }
  if (adopted.length > 0 || results.some(({ outcome }) => outcome === 'damaged')) await repoint(open, current, server);
  return results;
}

function rowOf(image: ImageSeen): Pick<Verified, 'server' | 'name' | 'disk' | 'set'> {
  return { server: image.server, name: image.name, disk: image.disk, set: image.identity?.set ?? null };
}

type Verdict = Pick<Verified, 'outcome' | 'detail'>;

async function verifyOne(open: OpenStore, found: Sighting, images: readonly ImageSeen[], image: ImageSeen, watching: { readonly signal: AbortSignal; readonly report: (done: number) => void }): Promise<Verdict> {
  const set = image.identity?.set ?? '';
  const manifest = found.records.get(set)?.manifest;
  const proof = manifest?.disks.find(({ disk }) => disk === image.disk);
  if (image.inUse !== undefined) return { outcome: 'in-use', detail: `open in ${image.inUse}` };
  if (manifest === undefined || proof === undefined) return { outcome: 'unproven', detail: image.because ?? 'its set was never completed' };

  const digests = open.catalog.digestsPath(set, image.disk);
  const haveDigests = await digestOfDigests(digests) === proof.digest;
  const began = new Date().toISOString();
  const outcome = await readImage(image.path, Math.min(image.bytes, proof.bytes), haveDigests ? digests : undefined, watching.signal, watching.report);
  const now = (await open.store.list()).find((one) => one.key === image.key && one.identity?.set === set);
  if (now === undefined || compareTouched(image.touched, now.touched).kind !== 'untouched') {
    return { outcome: 'modified', detail: 'it changed while it was read; run dr verify again' };
  }
  if (outcome.kind === 'unreadable') {
    // A copy that can't be read is no copy: kept as proven it would be recycled last, and booted first.
    if (outcome.error.code === 'source-failed' || outcome.error.code === 'io') await open.catalog.retract(set, `damaged: ${image.name}: ${outcome.error.message}`);
    return { outcome: 'damaged', detail: outcome.error.message };
  }

  const equal = outcome.digest === proof.digest && image.bytes === proof.bytes;
  if (now.modified !== undefined) return { outcome: 'modified', detail: `${now.modified}; its content ${equal ? 'still equals' : 'no longer equals'} its proof` };
  if (equal) {
    if (images.some((other) => other.key !== image.key && other.disk === image.disk && other.identity?.set === set)) {
      return { outcome: 'modified', detail: 'it equals its proof, but there is another file bound to the same disk of the same set; remove one' };
    }
    const whole = image.state === 'proven' || image.state === 'modified';
    if (whole) await renew(open, set, image.disk, { touched: now.touched, ...(outcome.direct ? { proof: 'device' as const, provenSince: began } : {}) });
    return !whole ? { outcome: 'unproven', detail: `it equals its proof, but ${image.because ?? 'its set is not whole'}` }
      : { outcome: 'ok', detail: image.state === 'modified' ? `${image.because ?? ''}; its content equals its proof, which was renewed` : '' };
  }
  if (image.state === 'modified') return { outcome: 'modified', detail: `${image.because ?? ''}; its content no longer equals its proof` };
  const where = haveDigests ? `${String(outcome.differ)} blocks of 1 MiB differ, at ${outcome.differing.join(', ')}${outcome.differ > outcome.differing.length ? ', …' : ''}` : 'its digest differs';
  await open.catalog.retract(set, `damaged: ${image.name}: ${where}`);
  return { outcome: 'damaged', detail: `${where}, and nobody has written to it: the disk or file system under ${open.store.ref} has lost data` };
}

/** Puts what was just seen into the manifest as it is now. */
async function renew({ catalog }: OpenStore, set: SetId, disk: string, seen: Partial<DiskProof>): Promise<void> {
  const manifest = await catalog.manifest(set);
  if (manifest === undefined) return; // retracted for another of its disks
  const renewed: Manifest = { ...manifest, disks: manifest.disks.map((proof) => proof.disk === disk ? { ...proof, ...seen } : proof) };
  await catalog.amend(renewed);
}

/** Finds files that lost their identity (copied without extended attributes), and binds those whose content a manifest proves. */
async function adoptLost(open: OpenStore, found: Sighting, server: string, { signal }: Watching): Promise<string[]> {
  const bound = new Set(found.images.map(({ identity }) => `${identity?.set ?? ''}/${identity?.disk ?? ''}`));
  const adopted: string[] = [];
  for (const image of found.images.filter(({ identity, modified }) => identity === undefined && modified === undefined)) {
    const candidates = [...found.records].flatMap(([set, { manifest }]) => (manifest?.disks ?? [])
      .filter(({ disk, bytes }) => !bound.has(`${set}/${disk}`) && bytes === image.bytes && manifest !== undefined
        && imageBase(manifest.server, disk) === image.base && manifest.server === server)
      .map((proof) => ({ set, proof })));
    if (candidates.length === 0 || found.users.has(image.key)) continue;
    const outcome = await readImage(image.path, image.bytes, undefined, signal, () => undefined).catch((error: unknown) => {
      if (error instanceof DrError && error.code === 'io') return undefined; // a link, a directory: not adopted
      throw error;
    });
    const match = outcome?.kind === 'read' ? candidates.find(({ proof }) => proof.digest === outcome.digest) : undefined;
    if (match === undefined || bound.has(`${match.set}/${match.proof.disk}`)) continue;
    const now = (await open.store.list()).find((one) => one.key === image.key && one.name === image.name);
    if (now === undefined || compareTouched(image.touched, now.touched).kind !== 'untouched') continue; // it changed while it was read
    try {
      await open.store.adopt(now, { set: match.set, disk: match.proof.disk });
    } catch (error) {
      if (error instanceof DrError && error.code === 'state-changed') continue; // a symbolic link, or gone: it stays what it was
      throw error;
    }
    await renew(open, match.set, match.proof.disk, { touched: now.touched });
    bound.add(`${match.set}/${match.proof.disk}`);
    adopted.push(image.name);
  }
  return adopted;
}

/** One entry per image: after an interrupted rename an image has two names. */
function distinct<T extends Pick<StoredImage, 'key'>>(images: readonly T[]): T[] {
  return [...new Map(images.map((image) => [image.key, image])).values()];
}
