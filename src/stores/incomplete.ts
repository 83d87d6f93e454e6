import { DrError } from '../model/errors.js';
import type { SetId, StoredImage } from '../model/image-set.js';
import { imageName } from '../model/names.js';
import type { Start } from '../transfer/ticket.js';
import type { OpenStore } from './open.js';
import { provenDigests, type ProofAge } from './proven-digests.js';
import type { Catalog } from './store.js';
import { usersOf } from './users.js';

/**
 * Where an `incomplete` image is written, and what its old blocks are known to be: that is answered once, since from here on somebody may
 * write into it. Throws `state-changed`, `image-modified` or `image-in-use` if it is not the image of this set, waiting to be written.
 */
export async function incompleteImage({ store, catalog }: OpenStore, wanted: { readonly server: string; readonly disk: string; readonly set: SetId }, reproveAfterSeconds: number, now: Date):
Promise<{ readonly path: string; readonly bytes: number; readonly start: Start }> {
  const { server, disk } = wanted;
  const name = imageName(server, disk, 'incomplete');
  const refuse = (why: string): DrError => new DrError('state-changed', `${name} can't be written: ${why}. It was not touched.`, 'Run the job again; it will look anew.');
  const images = await store.list();
  const image = images.find((one) => one.name === name);
  if (image?.identity === undefined) throw refuse(image === undefined ? 'it is not there' : 'it was not made by dr-engine');
  const { set } = image.identity;
  if (set !== wanted.set) throw refuse(`it belongs to another set by now (${set})`);
  if (image.identity.disk !== disk || (await catalog.intent(set))?.server !== server) throw refuse(`it is not the disk ${disk} of ${server}`);
  if (await catalog.manifest(set) !== undefined) throw refuse('it is proven complete');
  const other = images.find((one) => one.key === image.key && one.name !== name);
  if (other !== undefined) throw refuse(`it is also ${other.name}`);
  if (image.modified !== undefined) throw new DrError('image-modified', `${name} was booted or changed (${image.modified}). It was not touched.`, `Keep what you need from it, then run: dr release ${server}`);
  const user = (await usersOf([image])).get(image.key);
  if (user !== undefined) throw new DrError('image-in-use', `${name} is in use by ${user}. It was not touched.`, 'End what uses it, then run the job again.');

  const start = await startOf(catalog, image, { reproveAfterSeconds, now });
  await store.forgetOrigin(image);
  return { path: image.path, bytes: image.bytes, start };
}

/** What an image holds before it is written: as far as its proof or its making tell, else it must be read. */
async function startOf(catalog: Catalog, image: StoredImage, age: ProofAge): Promise<Start> {
  if (image.origin === undefined) return 'read';
  if (image.origin === 'fresh' || image.origin === 'stale') return image.origin;
  return await provenDigests(catalog, image.origin, image, age) ?? 'read';
}
