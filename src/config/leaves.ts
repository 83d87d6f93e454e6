import { z } from 'zod';
import type { SnapshotSize } from '../model/config.js';
import { DrError } from '../model/errors.js';
import { checkNamePart } from '../model/names.js';
import { volumeGroupProblem, volumeProblem } from '../model/volume-names.js';
import { nearest } from './nearest.js';
import { scheduleProblem } from './schedule.js';
import { readDuration, readRate, readSize, readTimeOfDay, type Reading } from './units.js';

/** The kinds of values in the configuration. Each says what it expects in the words that the message then has. */

/** How a wrong value is shown: short, on one line, unmistakable. */
export function show(value: unknown): string {
  if (value === undefined || value === null) return 'nothing';
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'a list';
  if (typeof value === 'object') return 'keys and values';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}…"` : text;
}

/** One value: what it is read from is `unknown`, what comes out is checked. `why` replaces the usual message. */
function leaf<T>(expected: string, read: (value: unknown) => Reading<T> | { readonly ok: false; readonly why: string }) {
  return z.unknown().transform((value, context): T => {
    const reading = read(value);
    if (reading.ok) return reading.value;
    const suggestion = 'suggestion' in reading && reading.suggestion !== undefined ? `; did you mean ${JSON.stringify(reading.suggestion)}?` : '';
    const message = value === undefined ? `is missing; expected ${expected}`
      : 'why' in reading ? reading.why
      : `expected ${expected}, found ${show(value)}${suggestion}`;
    context.addIssue({ code: 'custom', message });
    return z.NEVER;
  });
}

function matching(expected: string, pattern: RegExp, suggest?: (text: string) => string | undefined) {
  return leaf<string>(expected, (value) => {
    if (typeof value === 'string' && pattern.test(value)) return { ok: true, value };
    const suggestion = typeof value === 'string' ? suggest?.(value) : undefined;
    return suggestion === undefined ? { ok: false } : { ok: false, suggestion };
  });
}

export function oneOf<const T extends string>(...words: readonly T[]) {
  return leaf<T>(words.map((word) => `"${word}"`).join(' or '), (value) => {
    const word = words.find((candidate) => candidate === value);
    if (word !== undefined) return { ok: true, value: word };
    const suggestion = typeof value === 'string' ? nearest(value, words) : undefined;
    return suggestion === undefined ? { ok: false } : { ok: false, suggestion };
  });
}

export const version = leaf<1>('1, the version of this file\'s format', (value) => value === 1 ? { ok: true, value } : { ok: false });

export const yesOrNo = leaf<boolean>('true or false', (value) => {
  if (typeof value === 'boolean') return { ok: true, value };
  const word = typeof value === 'string' ? value.toLowerCase() : '';
  if (['yes', 'on', 'y', 'true'].includes(word)) return { ok: false, why: `expected true or false, found ${show(value)}; did you mean true?` };
  if (['no', 'off', 'n', 'false'].includes(word)) return { ok: false, why: `expected true or false, found ${show(value)}; did you mean false?` };
  return { ok: false };
});

/** A whole number from `least` to `most`. */
export function wholeNumber(least: number, most: number) {
  return leaf<number>(`a whole number from ${String(least)} to ${String(most)}`, (value) =>
    typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most ? { ok: true, value }
      : typeof value === 'string' && /^\d+$/.test(value) && Number(value) >= least && Number(value) <= most
        ? { ok: false, why: `expected a whole number from ${String(least)} to ${String(most)}, found ${show(value)}; did you mean ${value} without quotes?` }
        : { ok: false });
}

function withMinimum(reading: Reading<number>, least: number, atLeast: string, value: unknown) {
  return reading.ok && reading.value < least ? { ok: false as const, why: `expected at least ${atLeast}, found ${show(value)}` } : reading;
}

export const size = leaf<number>('a size such as 10GiB', readSize);
export const rate = leaf<number>('a rate such as 40MiB/s', (value) => withMinimum(readRate(value), 64 * 1024, '64KiB/s', value));
export const duration = leaf<number>('a duration such as 90s, 5min, 6h or 30d', (value) => withMinimum(readDuration(value), 1, '1s', value));

/** A time of day from `first` to `last`, as minutes after midnight. */
export function timeOfDay(first: string, last: string) {
  const [least, most] = [readTimeOfDay(first), readTimeOfDay(last)];
  return leaf<number>('a time of day such as "08:00"', (value) => {
    const reading = readTimeOfDay(value);
    return reading.ok && least.ok && most.ok && (reading.value < least.value || reading.value > most.value)
      ? { ok: false, why: `expected a time of day from ${first} to ${last}, found ${show(value)}` } : reading;
  });
}

/** A directory on some host, absolute and without `..`; comes out without a trailing slash. */
export const directory = leaf<string>('an absolute directory such as /shared/definitions', (value) => {
  if (typeof value !== 'string' || !value.startsWith('/')) return { ok: false };
  const why = directoryProblem(value);
  return why === undefined ? { ok: true, value: tidy(value) } : { ok: false, why: `${JSON.stringify(value)} can't be used: ${why}` };
});

/** Why these can't be the parts of a store, each `VG` or `VG/POOL`. */
function volumeGroupsProblem(entries: readonly string[]): string | undefined {
  const seen = new Set<string>();
  for (const entry of entries) {
    const [group = '', pool, ...more] = entry.split('/');
    if (entry === '') return 'there is nothing between two commas';
    if (more.length > 0) return `${JSON.stringify(entry)} is neither VG nor VG/POOL`;
    const why = volumeGroupProblem(group) ?? (pool === undefined ? undefined : volumeProblem(group, pool));
    if (why !== undefined) return `${JSON.stringify(entry)}: ${why}`;
    if (seen.has(group)) return `the volume group ${group} is in it twice`;
    seen.add(group);
  }
  return undefined;
}

function directoryProblem(path: string): string | undefined {
  if (/[\0-\x1f\x7f]/.test(path)) return 'it has a control character in it';
  if (path.split('/').some((part) => part === '..' || part === '.')) return 'it has a "." or ".." in it';
  return tidy(path) === '/' ? 'it is the root directory' : undefined;
}

function tidy(path: string): string {
  return path.replace(/\/+/g, '/').replace(/(.)\/$/, '$1');
}

export const destination = matching('an ssh destination such as an-a01n01 or root@10.20.10.1, or local', /^[A-Za-z0-9_[][A-Za-z0-9_.@:%[\]+/-]*$/);

export const libvirtUri = matching('a libvirt URI such as qemu:///system', /^[a-z]+(\+[a-z0-9]+)?:\/\/\S*$/,
  (text) => nearest(text, ['qemu:///system', 'qemu:///session']));

/** A program and its arguments; `{server}` must be in it where `needsServer` says so. */
export function command(needsServer: boolean) {
  const expected = needsServer ? 'a list of words with {server} in it, such as [pcs, resource, enable, "{server}"]' : 'a list of words such as [sudo, dr]';
  return leaf<readonly string[]>(expected, (value) => {
    if (!Array.isArray(value) || value.length === 0) return { ok: false };
    const words = value.filter((word): word is string => typeof word === 'string' && word !== '' && !word.includes('\0'));
    if (words.length !== value.length) return { ok: false, why: `expected ${expected}, found a list with something else than words in it` };
    if (needsServer && !words.some((word) => word.includes('{server}'))) return { ok: false, why: `expected ${expected}, found no {server}` };
    return { ok: true, value: words };
  });
}

/** `fs:/directory`, or volume groups: `vg:VG[,VG…]`, where `VG/POOL` has thin volumes. */
export const store = leaf<string>('fs:/directory or vg:VG[,VG…]', (value) => {
  if (typeof value !== 'string') return { ok: false };
  const path = /^fs:(\/.*)$/.exec(value)?.[1];
  if (path !== undefined) {
    const why = directoryProblem(path);
    return why === undefined ? { ok: true, value: `fs:${tidy(path)}` } : { ok: false, why: `${JSON.stringify(value)} can't be used: ${why}` };
  }
  if (/^vg:./.test(value)) {
    const why = volumeGroupsProblem(value.slice('vg:'.length).split(','));
    const simpler = `vg:${value.slice('vg:'.length).replace(/\s/g, '').replace(/\/dev\//g, '')}`;
    if (why === undefined) return { ok: true, value };
    return simpler !== value && volumeGroupsProblem(simpler.slice('vg:'.length).split(',')) === undefined ? { ok: false, suggestion: simpler }
      : { ok: false, why: `${JSON.stringify(value)} can't be used: ${why}` };
  }
  if (value.startsWith('/')) return { ok: false, suggestion: `fs:${value}` };
  if (/^fs:[^/]/.test(value)) return { ok: false, suggestion: `fs:/${value.slice(3)}` };
  const volumeGroups = /^(lvm|lv|vgs):(.+)$/.exec(value)?.[2];
  return volumeGroups === undefined ? { ok: false } : { ok: false, suggestion: `vg:${volumeGroups}` };
});

/** The name of an Anvil, a target or a job, where something else refers to it. */
export const reference = matching('a name', /^\S(.*\S)?$/);

/** A server's or a disk's name, which becomes part of image names. */
export function namePart(kind: 'server' | 'disk') {
  return leaf<string>(`a ${kind}'s name`, (value) => {
    if (typeof value === 'number') return { ok: false, why: `expected a ${kind}'s name, found the number ${String(value)}; did you mean "${String(value)}" in quotes?` };
    if (typeof value !== 'string') return { ok: false };
    try {
      checkNamePart(kind, value);
      return { ok: true, value };
    } catch (error) {
      return { ok: false, why: DrError.from(error).message.replace(' Nothing was touched.', '').replace(/\.$/, '') };
    }
  });
}

export const schedule = leaf<string>('a cron schedule such as "0 2 * * *"', (value) => {
  if (typeof value !== 'string') return { ok: false };
  const why = scheduleProblem(value, new Date());
  return why === undefined ? { ok: true, value } : { ok: false, why };
});

export const fileName = leaf<string>('a file name such as .dr_cache', (value) =>
  typeof value === 'string' && /^[A-Za-z0-9_.+-]{1,100}$/.test(value) && value !== '.' && value !== '..' ? { ok: true, value } : { ok: false });

/** What an LVM snapshot sets aside: a part of its disk, or a size. */
export const snapshotSize = leaf<SnapshotSize>('a part of the disk such as 20%, or a size such as 10GiB', (value) => {
  const percent = typeof value === 'string' ? /^(\d{1,3}(?:\.\d+)?)\s*%$/.exec(value.trim())?.[1] : undefined;
  if (percent === undefined) {
    const size = readSize(value);
    return size.ok ? { ok: true, value: { bytes: size.value } } : size;
  }
  return Number(percent) >= 1 && Number(percent) <= 100 ? { ok: true, value: { percent: Number(percent) } } : { ok: false, why: `expected 1% to 100% of the disk, found ${show(value)}` };
});
