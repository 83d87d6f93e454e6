import type { Volume } from '../system/lvm.js';
import { FULL_PERCENT, fullOf } from './snapshot-plan.js';

/** Judging the snapshots of a capture, and seeing in time that they will run full. Pure. */

/** How full something was. */
export interface Fill {
  /** Milliseconds on any clock that only goes forward. */
  readonly at: number;
  readonly percent: number;
}

/** Growth is rarely even: it is taken for so many times what was seen. */
const MARGIN = 1.5;

/** Why something is as good as full, for people; undefined while it is not. `nextMs` is how long it will be until the next look has been answered. */
export function fillsUp(before: Fill | undefined, now: Fill, nextMs: number): string | undefined {
  if (now.percent >= FULL_PERCENT) return `is ${now.percent.toFixed(0)} % full`;
  if (before === undefined || now.at <= before.at) return undefined;
  const rate = (now.percent - before.percent) / (now.at - before.at);
  return now.percent + rate * nextMs * MARGIN < 100 ? undefined : `is ${now.percent.toFixed(0)} % full and fills by ${(rate * 1000).toFixed(0)} % a second`;
}

/** A snapshot that a capture reads from. */
export interface OpenSnapshot {
  readonly volume: Volume;
  readonly covers: boolean;
}

/** Why the content of a snapshot is not what it was taken of, for people; undefined if it is. */
export function ruined({ volume }: OpenSnapshot, now: readonly Volume[]): string | undefined {
  const found = now.find(({ uuid }) => uuid === volume.uuid);
  const name = `the snapshot ${volume.vg}/${volume.name}`;
  if (found === undefined) return `${name} is gone`;
  if (found.overrun) return `${name} ran full: the server wrote more than it holds`;
  if (found.partial || !found.active) return `${name} can't be read any more`;
  return undefined;
}

/** What fills up while a snapshot is open, by a name for people: itself, or the pool that it shares with the guest's disks. */
export function fillOf({ volume, covers }: OpenSnapshot, now: readonly Volume[]): { readonly what: string; readonly percent: number } | undefined {
  const name = volume.pool ?? volume.name;
  const found = now.find((other) => other.vg === volume.vg && other.name === name);
  if (found === undefined || (volume.pool === undefined && covers)) return undefined;
  return { what: `${volume.pool === undefined ? 'the snapshot' : 'the thin pool'} ${volume.vg}/${name}`, percent: fullOf(found) };
}
