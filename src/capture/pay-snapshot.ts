import { setTimeout as sleep } from 'node:timers/promises';
import { DrError } from '../model/errors.js';
import type { Debt } from '../model/obligation.js';
import { lvmState, removeVolume, type Volume } from '../system/lvm.js';
import { isRunningWith, openersOf } from '../system/processes.js';
import { listRecords } from './owed-records.js';
import { payKill, resumeStarved, type Outcome } from './payments.js';

/** Removing a snapshot volume that we made, and no other volume whatever its name. */

type SnapshotDebt = Extract<Debt, { readonly kind: 'snapshot' }>;

export const SNAPSHOT_TAG = 'dr-engine-snapshot';

/** Text as LVM takes it in a tag. Others may come out the same: what decides must be a tag of our own making. */
export function asTag(text: string): string {
  return text.replace(/[^A-Za-z0-9_+.=/:-]/g, '_');
}

/** The tag by which a snapshot is known as one session's. */
export function ownerTag(owner: string): string {
  return `dr.owner=${owner}`;
}

/** How long a volume that is still being made, or was open just now, is waited for in one payment, in milliseconds. */
const PATIENCE_MS = 5_000;

/** `directory` is the session's: its own processes that still read the snapshot are killed, nobody else's. */
export async function paySnapshot(debt: SnapshotDebt, directory: string): Promise<Outcome> {
  // The agent may have died with the program that makes it under way: only when that has ended is it known what is there.
  for (let waited = 0; await isRunningWith([debt.vg, debt.name]); waited += 100) {
    if (waited >= PATIENCE_MS) return { kind: 'waiting', why: `a program is at work on ${debt.vg}/${debt.name}` };
    await sleep(100);
  }
  const found = await findSnapshot(debt);
  if (typeof found === 'string') return { kind: 'stuck', why: found };
  if (found === undefined) return settle(debt, 'it is gone');
  if (!isOurs(found, debt.owner)) return settle(debt, `${debt.vg}/${debt.name} is not the snapshot that this session made, and is left alone`);
  await endReaders(found, directory);
  return remove(debt, found);
}

/** The volume of that name, whatever it is; undefined if there is none, a text if that can't be known now. */
async function findSnapshot({ vg, name }: SnapshotDebt): Promise<Volume | string | undefined> {
  const { groups, volumes, allowed } = await lvmState();
  if (!allowed.includes(vg)) return `the volume group ${vg} with our snapshot ${name} is not in /etc/dr/vgs any more. Write it back there, or remove the snapshot by hand`;
  if (!groups.some((group) => group.name === vg)) return `the volume group ${vg} with our snapshot ${name} is not there`;
  return volumes.find((volume) => volume.vg === vg && volume.name === name);
}

export function isOurs({ tags }: Volume, owner: string): boolean {
  return tags.includes(SNAPSHOT_TAG) && tags.includes(ownerTag(owner));
}

async function endReaders(volume: Volume, directory: string): Promise<void> {
  if (!volume.open) return;
  const readers = new Set((await openersOf([volume.path])).map(({ pid }) => pid));
  const owed = (await listRecords(directory)).flatMap(({ debt }) => debt.kind === 'kill' && readers.has(debt.pid) ? [debt] : []);
  await Promise.all(owed.map((debt) => payKill(debt)));
}

async function remove(debt: SnapshotDebt, volume: Volume): Promise<Outcome> {
  for (const deadline = Date.now() + PATIENCE_MS; ;) {
    try {
      await removeVolume(volume);
      return await settle(debt, 'removed');
    } catch (error) {
      if (Date.now() > deadline) {
        return { kind: 'stuck', why: `the snapshot ${debt.vg}/${debt.name} of ${debt.server} can't be removed: ${DrError.from(error).message}. It slows the server down as long as it is there` };
      }
    }
    await sleep(300); // udev looks into every device that changes
  }
}

async function settle(debt: SnapshotDebt, how: string): Promise<Outcome> {
  return { kind: 'settled', how: debt.thin ? await resumeStarved(debt, how) : how };
}
