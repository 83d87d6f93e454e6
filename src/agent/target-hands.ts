import { lstat, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { publishDefinition } from '../definitions/publish.js';
import { DrError } from '../model/errors.js';
import type { SetId } from '../model/image-set.js';
import { checkNamePart } from '../model/names.js';
import type { RotationStep } from '../model/rotation.js';
import { FileCurrentLinks } from '../rotation/current.js';
import { rotate } from '../rotation/rotate.js';
import { readActivated } from '../stores/activated.js';
import { examine, judge, sight } from '../stores/examine.js';
import { incompleteImage } from '../stores/incomplete.js';
import { openStore, type OpenStore } from '../stores/open.js';
import { prove } from '../stores/prove.js';
import { digestsToRecycle } from '../stores/proven-digests.js';
import { rememberedStores, rememberStore } from '../stores/remembered.js';
import type { CurrentLinks } from '../stores/store.js';
import { release, tidy } from '../stores/tidy.js';
import { verify } from '../stores/verify.js';
import { hasCode } from '../system/durable.js';
import type { DefinitionSeen, Handlers, StoreRef } from './protocol.js';

/** What a target does for the head: looks, rotates, proves, publishes. The head holds the server's lock while it asks for changes. */

type TargetMethod =
  | 'store.space' | 'store.check' | 'store.observe' | 'store.execute' | 'store.incomplete' | 'store.digests' | 'store.prove' | 'store.tidy' | 'store.verify'
  | 'definition.publish' | 'definition.list' | 'activated.release';

export function targetHands(_session: unknown): Pick<Handlers, TargetMethod> {
  return {
    'store.space': async ({ store }) => ({ space: await openStore(store).store.space() }),
    'store.check': async ({ store }) => {
      await openStore(store).store.check();
      return {};
    },
    'store.observe': async ({ store, servers }) => {
      const open = openStore(store);
      const sighting = await sight(open);
      // Looking at what is there works also while a part of the store is missing; a run is told.
      const space = await open.store.space().catch((error: unknown) => {
        if (servers === 'all' && error instanceof DrError && error.code === 'store-unusable') return { sizeBytes: 0, freeBytes: 0 };
        throw error;
      });
      return { servers: await examine(sighting, currentOf(store, open), await readActivated(), servers), space };
    },
    'store.execute': async ({ store, server, steps }) => {
      const open = openStore(store);
      checkNamePart('server', server);
      if (steps.some(({ kind }) => kind === 'begin')) await open.store.check();
      await insistFree(open, server, steps);
      await rotate({ ...open, current: currentOf(store, open) }, server, steps);
      return {};
    },
    'store.incomplete': async ({ store, reproveAfterSeconds, ...image }) => await incompleteImage(openStore(store), image, reproveAfterSeconds, new Date()),
    'store.digests': async ({ store, reproveAfterSeconds, ...image }) => ({ digests: (await digestsToRecycle(openStore(store), image, { reproveAfterSeconds, now: new Date() })).toString('base64') }),
    'store.prove': async ({ store, ...request }) => ({ manifest: await prove(openStore(store), request) }),
    'store.tidy': async ({ store, server }) => {
      const open = openStore(store);
      await rememberStore(store);
      await tidy(open, currentOf(store, open), server);
      return {};
    },
    'store.verify': async ({ store, server, adopt }, { signal, progress }) => {
      const open = openStore(store);
      return { results: await verify(open, currentOf(store, open), server, adopt, { signal, report: (done, total) => { progress({ done, total, sent: 0 }); } }) };
    },
    'definition.publish': async ({ store, server, xml }) => await publishDefinition(store.definitions, server, xml),
    'definition.list': async ({ store }) => ({ definitions: await listDefinitions(store.definitions) }),
    'activated.release': async ({ store, server }) => {
      const open = openStore(store);
      return { released: await release(open, currentOf(store, open), server) };
    },
  };
}

/** At boot: what a target can put right by itself, above all the `current` links, which may lie on a file system that forgets. */
export async function tidyRemembered(): Promise<void> {
  const failures: unknown[] = [];
  for (const store of await rememberedStores()) {
    const open = openStore(store);
    await tidy(open, currentOf(store, open), undefined).catch((error: unknown) => failures.push(error)); // one that is not mounted keeps no other waiting
  }
  if (failures.length > 0) throw failures[0];
}

/** The `current` links of a store: to the images, and to the set's UEFI variables if it has any. */
export function currentOf(ref: Pick<StoreRef, 'current'>, { catalog }: Pick<OpenStore, 'catalog'>): CurrentLinks {
  return new FileCurrentLinks(ref.current, async (set: SetId) => {
    const nvram = join(catalog.directory(set), 'nvram');
    return await lstat(nvram).then(() => ({ nvram }), (error: unknown) => {
      if (hasCode(error, 'ENOENT')) return {};
      throw error;
    });
  });
}

/** Between the plan and now somebody may have booted or marked what the steps are about. */
async function insistFree(open: OpenStore, server: string, steps: readonly RotationStep[]): Promise<void> {
  const mark = (await readActivated()).get(server);
  if (mark !== undefined) throw new DrError('image-in-use', `${server} was booted from its copies on this host ${mark.at} ${mark.by}. None of them was touched.`, `When they may be overwritten again, run: dr release ${server}`);
  const sets = new Set(steps.flatMap((step) => step.kind === 'move' || step.kind === 'remove' ? [step.set] : step.kind === 'begin' ? [step.intent.set, ...step.recycle.map(({ set }) => set)] : []));
  for (const image of judge(await sight(open), server).images) {
    if (image.identity === undefined || !sets.has(image.identity.set)) continue;
    if (image.state === 'modified') throw new DrError('image-modified', `${image.name} was booted or changed since the run looked (${image.because ?? ''}). It was not touched.`, `Keep what you need from it, then run: dr release ${server}`);
    if (image.inUse !== undefined) throw new DrError('image-in-use', `${image.name} is in use by ${image.inUse} since the run looked. It was not touched.`, 'End what uses it, then run the job again.');
  }
}

/** Every `<server>.xml` in the definitions directory; none if it is not there. */
async function listDefinitions(directory: string): Promise<DefinitionSeen[]> {
  const names = await readdir(directory).catch((error: unknown) => { if (hasCode(error, 'ENOENT')) return []; throw error; });
  const definitions: DefinitionSeen[] = [];
  for (const name of names.filter((entry) => entry.endsWith('.xml') && !entry.startsWith('.')).sort()) {
    const path = join(directory, name);
    const xml = await readFile(path, 'utf8').catch((error: unknown) => { if (hasCode(error, 'ENOENT', 'EISDIR')) return undefined; throw error; });
    if (xml !== undefined) definitions.push({ server: name.slice(0, -'.xml'.length), path, xml });
  }
  return definitions;
}
