import type { Manifest, SetId, SetIntent } from '../../src/model/image-set.js';
import { imageName, type Slot } from '../../src/model/names.js';
import { EMPTY, put, type MemoryImage, type MemoryKind, type World } from './memory-store.js';

/**
 * The images of one server in a line: `i=d 1=C* 2=B 3=A`.
 *
 *     i=  1=  2=       slots; several sets in one slot are several words
 *     A B C …          proven sets, in the order of their captures; a b c … the same without a proof
 *     A.0              only the set's image of disk 0 has a name here (A.01: disks 0 and 1); default: all
 *     A[0]             the set was captured when the server had only disk 0
 *     A!  A~  A*       modified by hand; in use; `current` leads here
 *     2=?  2=?.0       a foreign file under the name
 *     *2A              `current` leads to the names that set A had, or would have, in slot 2
 *     @                the server was booted from its copies
 *
 * One set, disk and letter is one image: `1=A.0 2=A.0` is an image with two names.
 */

export const SERVER = 'Web01';
export const UUID = '6d5a8c3e-0000-4000-8000-000000000001';
export const ANVIL = 'an-a01';
export const DISK_BYTES = 1024;

const WORD = /^(i|\d+)=([A-Za-z?])(\[(\d+)\])?(?:\.(\d+))?([!~*]*)$/;
const LINK = /^\*(i|\d)([A-Za-z])$/;

/** Sets are known by letters; `Z` is the one that a test writes. */
export function setOf(letter: string): SetId {
  return `20260101T0000${String(generationOf(letter)).padStart(2, '0')}Z-${letter.toLowerCase().charCodeAt(0).toString(16).padStart(16, '0')}`;
}

export function generationOf(letter: string): number {
  return letter.toLowerCase().charCodeAt(0) - 96;
}

export function diskNames(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `d${String(index)}`);
}

export function intentOf(set: SetId, generation: number, disks: readonly string[], bytes = DISK_BYTES): SetIntent {
  return {
    version: 1, set, generation, anvil: ANVIL, job: 'web', server: SERVER, uuid: UUID, node: 'n1', capture: 'live', consistency: 'frozen',
    capturedAt: `2026-01-01T00:00:${String(generation % 60).padStart(2, '0')}Z`,
    disks: disks.map((disk) => ({ disk, target: `v${disk}`, bytes })),
  };
}

export function parseWorld(text: string, diskCount: number, kind: MemoryKind): World {
  const images = new Map<string, MemoryImage>();
  const names = new Map<string, string>();
  const intents = new Map<SetId, SetIntent>();
  const manifests = new Map<SetId, Manifest>();
  let link: { readonly letter: string; readonly slot: Slot } | undefined;
  let activated = false;

  for (const word of text.split(/\s+/).filter((one) => one !== '')) {
    const [, linkSlot, linkLetter] = LINK.exec(word) ?? [];
    if (word === '@') {
      activated = true;
    } else if (linkSlot !== undefined && linkLetter !== undefined) {
      link = { letter: linkLetter, slot: toSlot(linkSlot) };
    } else {
      const [, place, letter, , captured, some, marks = ''] = WORD.exec(word) ?? [];
      if (place === undefined || letter === undefined) throw new Error(`not a word of the notation: ${word}`);
      const slot = toSlot(place);
      const all = captured === undefined ? diskNames(diskCount) : [...captured].map((digit) => `d${digit}`);
      const set = setOf(letter);
      if (letter !== '?' && !intents.has(set)) intents.set(set, intentOf(set, generationOf(letter), all));
      for (const disk of some === undefined ? all : [...some].map((digit) => `d${digit}`)) {
        const key = letter === '?' ? `k?${place}${disk}` : `k${letter.toLowerCase()}${disk}`;
        names.set(imageName(SERVER, disk, slot), key);
        images.set(key, letter === '?' ? { bytes: DISK_BYTES, content: 'foreign', mtime: 0 } : {
          identity: { set, disk }, bytes: DISK_BYTES, mtime: 0, content: letter === letter.toUpperCase() ? `${set}/${disk}` : 'torn',
          ...(marks.includes('!') ? { modified: 'booted by hand' } : {}), ...(marks.includes('~') ? { inUse: 'qemu-system-x86 (4711)' } : {}),
        });
      }
      if (letter !== '?' && letter === letter.toUpperCase()) manifests.set(set, manifestOf(intentOf(set, generationOf(letter), all)));
      if (marks.includes('*')) link = { letter, slot };
    }
  }
  const linked = link;
  const current = linked === undefined ? EMPTY.current : put(EMPTY.current, SERVER, {
    set: setOf(linked.letter), slot: linked.slot,
    leads: Object.fromEntries((intents.get(setOf(linked.letter))?.disks ?? diskNames(diskCount).map((disk) => ({ disk }))).map(({ disk }) =>
      [disk, kind === 'files' ? imageName(SERVER, disk, linked.slot) : `k${linked.letter.toLowerCase()}${disk}`])),
  });
  return { names, images, intents, manifests, current, activated: activated ? put(EMPTY.activated, SERVER, 'by dr-activate') : EMPTY.activated, nextKey: 1 };

  function manifestOf(intent: SetIntent): Manifest {
    return {
      ...intent, completedAt: intent.capturedAt, attachments: {},
      disks: intent.disks.map((disk) => ({
        ...disk, digest: 'sha256-1MiB:00', proof: 'device' as const, provenSince: intent.capturedAt,
        touched: { inode: `k${letterOf(intent.set)}${disk.disk}`, bytes: disk.bytes, mtime: '0' },
      })),
    };
  }
}

/** A world in the notation; `letters` names the sets, by default as they were parsed. */
export function printWorld(world: World, diskCount: number, letters: (set: SetId) => string = letterOf): string {
  const words: string[] = [];
  const link = world.current.get(SERVER);
  let linkShown = link === undefined;
  const named = [...world.names].flatMap(([name, key]) => {
    const [, disk, place] = /_(d\d+)_(incomplete|\d+)$/.exec(name) ?? [];
    const image = world.images.get(key);
    return disk === undefined || place === undefined || image === undefined ? [] : [{ disk, slot: toSlot(place), image }];
  });
  const slots = [...new Set(named.map(({ slot }) => slot))].sort((a, b) => rank(a) - rank(b));
  for (const slot of slots) {
    const here = named.filter((one) => one.slot === slot).sort((a, b) => a.disk < b.disk ? -1 : 1);
    const sorts = [...new Set(here.map(({ image }) => `${image.identity?.set ?? '?'} ${marksOf(image)}`))].sort();
    for (const sort of sorts) {
      const [set = '', marks = ''] = sort.split(' ');
      const disks = here.filter(({ image }) => `${image.identity?.set ?? '?'} ${marksOf(image)}` === sort).map(({ disk }) => disk);
      const captured = set === '?' ? diskNames(diskCount) : world.intents.get(set)?.disks.map(({ disk }) => disk) ?? [];
      const whole = digits(disks) === digits(captured);
      const letter = set === '?' ? '?' : world.manifests.has(set) ? letters(set).toUpperCase() : letters(set).toLowerCase();
      const star = link?.set === set && link.slot === slot && whole;
      linkShown ||= star;
      words.push(`${show(slot)}=${letter}${digits(captured) === digits(diskNames(diskCount)) ? '' : `[${digits(captured)}]`}${whole ? '' : `.${digits(disks)}`}${marks}${star ? '*' : ''}`);
    }
  }
  if (!linkShown && link !== undefined) words.push(`*${show(link.slot)}${letters(link.set).toUpperCase()}`);
  if (world.activated.has(SERVER)) words.push('@');
  return words.join(' ');
}

/** The notation, with sets named by their age among those that are there: `A` is the oldest. */
export function describeWorld(world: World, diskCount: number): string {
  const ages = agesOf(world);
  return printWorld(world, diskCount, (set) => String.fromCharCode(65 + (ages.get(set) ?? 23)));
}

/** Equal for worlds that no rule can tell apart: sets are told by their relative age, and what is forgotten or unseen does not count. */
export function canonical(world: World): string {
  const ages = agesOf(world);
  const images = [...world.names].map(([name, key]) => {
    const { identity, modified, inUse } = world.images.get(key) ?? {};
    if (identity === undefined) return `${name}?`;
    return `${name}=${String(ages.get(identity.set))}${world.manifests.has(identity.set) ? '+' : '-'}${modified === undefined ? '' : '!'}${inUse === undefined ? '' : '~'}`;
  }).sort().join();
  const link = world.current.get(SERVER);
  const leads = link === undefined ? '' : Object.entries(link.leads).map(([disk, lead]) => {
    const identity = world.images.get(world.names.get(lead) ?? lead)?.identity;
    return identity?.set === link.set && identity.disk === disk ? 'y' : 'n'; // a path may lead to another set than it was made for
  }).join('');
  return `${images} ${link === undefined ? '' : `${String(ages.get(link.set))}@${String(link.slot)}${leads}`} ${world.activated.has(SERVER) ? '@' : ''}`;
}

function agesOf(world: World): ReadonlyMap<SetId, number> {
  const present = new Set<SetId>();
  for (const { identity } of world.images.values()) if (identity !== undefined) present.add(identity.set);
  const sets = [...present].sort((a, b) => (world.intents.get(a)?.generation ?? 0) - (world.intents.get(b)?.generation ?? 0));
  return new Map(sets.map((set, index) => [set, index]));
}

function letterOf(set: SetId): string {
  return String.fromCharCode(Number.parseInt(set.slice(-16), 16));
}

function toSlot(text: string): Slot {
  return text === 'i' || text === 'incomplete' ? 'incomplete' : Number(text);
}

function show(slot: Slot): string {
  return slot === 'incomplete' ? 'i' : String(slot);
}

function rank(slot: Slot): number {
  return slot === 'incomplete' ? 0 : slot;
}

function digits(disks: readonly string[]): string {
  return disks.map((disk) => disk.slice(1)).sort().join('');
}

function marksOf(image: MemoryImage): string {
  return `${image.modified === undefined ? '' : '!'}${image.inUse === undefined ? '' : '~'}`;
}
