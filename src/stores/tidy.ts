import { DrError } from '../model/errors.js';
import type { SetId } from '../model/image-set.js';
import { lock } from '../system/flock.js';
import { log } from '../system/log.js';
import { stateDirectory } from '../system/state.js';
import { readActivated, releaseActivated, type Activated } from './activated.js';
import { judge, newestWhole, sight, type Sighting, type WholeSet } from './examine.js';
import type { OpenStore } from './open.js';
import type { CurrentLinks, Store } from './store.js';

/**
 * Removes what dead runs left (unfinished allocations, records of sets without images) and has every server's `current` lead to its
 * newest whole set. `holding` names a server whose lock the caller has: only that server is tidied. Without it all are, except those that a run is at
 * work on.
 */
export async function tidy(open: OpenStore, current: CurrentLinks, holding?: string): Promise<void> {
  await open.store.tidy();
  const found = await sight(open);
  const bound = await boundIn(open.store);
  const servers = [...new Set([...found.records.values()].map(({ about }) => about.server))];
  for (const server of servers) {
    if (holding !== undefined && server !== holding) continue;
    if (!await untidy(found, bound, current, server)) continue;
    if (holding === server) {
      await tidyServer(open, current, server);
      continue;
    }
    try {
      await using _held = await lock(stateDirectory('locks', `server-${server}.lock`), server);
      await tidyServer(open, current, server);
    } catch (error) {
      if (!(error instanceof DrError) || (error.code !== 'locked' && error.code !== 'not-ours')) throw error;
      log.info('a server was left untidied', { server, why: error.message }); // it is tidied by the run that holds it, or is not ours to tidy
    }
  }
}

async function untidy(found: Sighting, bound: ReadonlySet<SetId> | undefined, current: CurrentLinks, server: string): Promise<boolean> {
  if (forgettable(found, bound, server).length > 0) return true;
  const wanted = wantedLink(found, server, (await readActivated()).get(server));
  if (wanted === undefined) return false;
  const link = await current.read(server).catch((error: unknown) => {
    if (error instanceof DrError && error.code === 'not-ours') return undefined;
    throw error;
  });
  return link?.set !== wanted.set || link.slot !== wanted.slot;
}

async function tidyServer(open: OpenStore, current: CurrentLinks, server: string): Promise<void> {
  for (const set of forgettable(await sight(open), await boundIn(open.store), server)) await open.catalog.forget(set);
  await repoint(open, current, server);
}

/** Has `current` lead to the server's newest whole set; it is left as it is if there is none. */
export async function repoint(open: OpenStore, current: CurrentLinks, server: string): Promise<void> {
  const wanted = wantedLink(await sight(open), server, (await readActivated()).get(server));
  if (wanted !== undefined) await current.point(server, wanted);
}

/**
 * The newest whole set, booted or not: whoever booted it by hand wants to find the same disks after a reboot. A server that was activated keeps the
 * set it was activated from.
 */
function wantedLink(found: Sighting, server: string, activated: Activated | undefined): WholeSet | undefined {
  const { images } = judge(found, server);
  if (activated === undefined) return newestWhole(found, images, true);
  return newestWhole(found, images.filter((image) => image.identity?.set === activated.set), true);
}

/** Sets without an image whose digests nobody can need any more. The newest record stays: it is where generations go on counting. */
function forgettable({ records }: Sighting, bound: ReadonlySet<SetId> | undefined, server: string): SetId[] {
  if (bound === undefined) return [];
  const mine = [...records].filter(([, { about }]) => about.server === server);
  const newest = Math.max(...mine.map(([, { about }]) => about.generation));
  return mine.filter(([set, { about }]) => !bound.has(set) && about.generation < newest).map(([set]) => set);
}

/** Undefined while a part of the store is missing: nothing is forgotten then. */
async function boundIn(store: Store): Promise<ReadonlySet<SetId> | undefined> {
  return await store.bound().catch((error: unknown) => {
    if (error instanceof DrError && error.code === 'store-unusable') return undefined;
    throw error;
  });
}

/**
 * Gives a server's booted or changed images back to its jobs: their sets no longer count as proven, and are the first to be recycled. False if
 * there was nothing to release. Throws `image-in-use` while one of its images is open. The caller holds the server's lock.
 */
export async function release(open: OpenStore, current: CurrentLinks, server: string): Promise<boolean> {
  const { images } = judge(await sight(open), server);
  const used = images.find((image) => image.inUse !== undefined);
  if (used !== undefined) {
    throw new DrError('image-in-use', `${used.name} is in use by ${used.inUse ?? ''}, so ${server} can't be released. Nothing was touched.`, `Shut the server down on this host first: virsh shutdown ${server}`);
  }
  const modified = images.filter((image) => image.state === 'modified');
  for (const set of new Set(modified.flatMap((image) => image.identity?.set ?? []))) {
    await open.catalog.retract(set, `released after it was booted or changed: ${modified.find((image) => image.identity?.set === set)?.because ?? ''}`);
  }
  for (const image of modified.filter((one) => one.modified !== undefined)) await open.store.markModified(image, undefined);
  const marked = await releaseActivated(server);
  await repoint(open, current, server);
  return marked || modified.length > 0;
}
