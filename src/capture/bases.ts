import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DataSource } from '../model/host.js';
import { writeDurable } from '../system/durable.js';
import { log } from '../system/log.js';
import { lvmState, removeVolume, tagVolume, thinDelta, type Volume } from '../system/lvm.js';
import { stateDirectory } from '../system/state.js';
import { step } from '../system/steps.js';
import { digestRecord, forgetDigests } from '../transfer/kept-digests.js';
import { attempt } from './attempt.js';
import { asTag, ownerTag, SNAPSHOT_TAG } from './pay-snapshot.js';
import { baseTag, basesOf, fullOf, KEEP_BELOW_PERCENT } from './snapshot-plan.js';

/**
 * Bases: the thin snapshot of a disk that a completed capture has left on purpose, so that the pool can say what has changed since. A base is
 * known by its tags, and is of use with the digests of its blocks, which are kept by its UUID. Everything here is a convenience: what goes wrong
 * costs the next capture time, and is logged.
 */

function digestsOf({ uuid }: Pick<Volume, 'uuid'>): string {
  return stateDirectory('bases', uuid);
}

/**
 * Removes what need not, or should not, be kept: all bases of a server whose job does not want them or whose pool fills up, one that a death has left
 * beside a newer one, and digests of volumes that are gone. Whether a volume was removed.
 */
export async function tidyBases(server: string, wanted: boolean, volumes: readonly Volume[]): Promise<boolean> {
  return await attempt(`the bases of ${server} can't be tidied up`, async () => {
    let removed = false;
    for (const [tag, bases] of basesOf(server, volumes)) {
      const newest = wanted ? await newestOf(bases.filter((base) => !poolFillsUp(base, volumes))) : undefined;
      for (const base of bases.filter((each) => each !== newest)) removed = await drop(base, tag) || removed;
    }
    const there = new Set(volumes.map(({ uuid }) => uuid));
    const names = new Set((await readdir(stateDirectory('bases')).catch(() => [])).map((name) => name.replace(/\..*/, ''))); // none was ever kept here
    for (const uuid of names) if (!there.has(uuid)) await forgetDigests(digestsOf({ uuid }));
    return removed;
  }) ?? false;
}

/** Removes all bases of a server that is captured in another way. Costs nothing on hosts that never kept any. */
export async function dropBases(server: string): Promise<void> {
  if ((await readdir(stateDirectory('bases')).catch(() => [])).length === 0) return;
  await attempt(`the bases of ${server} can't be removed`, async () => tidyBases(server, false, (await lvmState()).volumes));
}

/** What spares reading all of a thin snapshot: the digests of the base and what the pool knows has changed since. `directory` is the capture's own. */
export async function hintFrom(server: string, target: string, snapshot: Volume, volumes: readonly Volume[], directory: string): Promise<Pick<DataSource, 'hint' | 'keepDigests'>> {
  const { vg, pool } = snapshot;
  if (snapshot.kind !== 'thin' || pool === undefined) return {};
  const keepDigests = digestsOf(snapshot);
  const [base] = (basesOf(server, volumes).get(baseTag(server, target)) ?? []).filter((each) => each.vg === vg && each.pool === pool);
  if (base === undefined || await digestRecord(digestsOf(base)) === undefined) return { keepDigests };
  const changed = join(directory, `changed-${asTag(target).replaceAll('/', '_')}.json`);
  const known = await attempt(`what has changed in disk ${target} of ${server} can't be told`, async () => {
    const ranges = await thinDelta({ vg, pool, from: base.name, to: snapshot.name });
    await writeDurable(changed, JSON.stringify(ranges.map(({ begin, length }) => [begin, length])));
    return true;
  });
  return known === undefined ? { keepDigests } : { keepDigests, hint: { digests: digestsOf(base), changed } };
}

/**
 * Makes a snapshot of a valid capture the base of its disk, if it was sent whole and its pool has room, and removes the one before. The tags change in
 * one step: from then on it is the base, and no longer the session's to remove. What does not become a base leaves no digests.
 */
export async function keepAsBase(server: string, target: string, snapshot: Volume, owner: string): Promise<void> {
  const kept = await attempt(`the snapshot of disk ${target} of ${server} can't be kept as a base`, async () => {
    if (await digestRecord(digestsOf(snapshot)) === undefined) return false;
    const { volumes } = await lvmState();
    if (poolFillsUp(snapshot, volumes)) {
      log.warn(`the pool ${snapshot.vg}/${String(snapshot.pool)} is more than ${String(KEEP_BELOW_PERCENT)} % full, so no snapshot of ${server} is kept; the next capture reads the whole disk`);
      return false;
    }
    const tag = baseTag(server, target);
    await tagVolume(snapshot, { add: [tag], remove: [ownerTag(owner)] });
    step('base-after-tag');
    for (const base of basesOf(server, volumes).get(tag) ?? []) await drop(base, tag);
    return true;
  });
  if (kept !== true) await forgetCapture(snapshot);
}

/** Forgets what was kept of a snapshot that is not going to be a base. */
export async function forgetCapture(snapshot: Volume): Promise<void> {
  await attempt('the digests of a capture can\'t be removed', () => forgetDigests(digestsOf(snapshot)));
}

function poolFillsUp({ vg, pool }: Volume, volumes: readonly Volume[]): boolean {
  const found = volumes.find((volume) => volume.vg === vg && volume.name === pool);
  return found === undefined || fullOf(found) > KEEP_BELOW_PERCENT;
}

/** Of several the one whose digests were kept last; a death between keeping one and removing the one before leaves two. */
async function newestOf(bases: readonly Volume[]): Promise<Volume | undefined> {
  const dated = await Promise.all(bases.map(async (base) => ({ base, at: (await stat(`${digestsOf(base)}.json`).catch(() => undefined))?.mtimeMs })));
  return dated.filter(({ at }) => at !== undefined).sort((a, b) => (b.at ?? 0) - (a.at ?? 0))[0]?.base;
}

/** Removes a base; the digests first, so that it is of no use to anybody if we die in between. */
async function drop(base: Volume, tag: string): Promise<boolean> {
  if (!base.tags.includes(SNAPSHOT_TAG) || !base.tags.includes(tag)) return false;
  await forgetDigests(digestsOf(base));
  await removeVolume(base);
  return true;
}
