import { createTwoFilesPatch } from 'diff';
import { bytesOf } from './read.js';
import { isMedium } from './rewrite-disk.js';
import { attributeOf, first, parseXml, unusable, type XmlElement } from './xml.js';

/** Whether a published definition still fits its source, and how the two differ. Nothing is ever applied: it is the admin's. */

export interface Difference {
  /** Where: `memory`, `devices/disk[vdb]/source/@file`. */
  readonly path: string;
  /** What the source, rewritten for the target, says there; null if it has nothing there. */
  readonly source: string | null;
  /** What the published definition says there; null if it has nothing there. */
  readonly published: string | null;
  /** `tuning`: an admin's choice, or a change of the source that boots either way. `stale`: the server would boot as something it no longer is. */
  readonly kind: 'tuning' | 'stale';
}

export interface Comparison {
  /** True unless a difference is `stale`. */
  readonly fits: boolean;
  readonly differences: readonly Difference[];
}

/**
 * Compares by meaning: white space, comments, the order of attributes and of unlike elements, units, and what libvirt fills in by itself
 * do not count. `expected` is what would be published today. Throws `definition-unusable` if one of them is no definition.
 */
export function compareDefinition(published: string, expected: string): Comparison {
  const source = domainOf(expected, "the source's definition");
  const ours = domainOf(published, 'the published definition');
  const differences: Difference[] = [];
  compareElements('', source, ours, differences);
  return { fits: differences.every(({ kind }) => kind === 'tuning'), differences };
}

/** The difference for people, as a unified diff from what would be published to what is; empty if they are the same text. Passwords are not shown. */
export function diffDefinition(published: string, expected: string, path: string): string {
  if (published === expected) return '';
  const hidden = (xml: string): string => xml.replace(/(\spasswd\s*=\s*)(["']).*?\2/g, '$1$2***$2');
  return createTwoFilesPatch('from the source', path, hidden(expected), hidden(published), undefined, undefined, { context: 3 }).replace(/^=+\n/, '');
}

function domainOf(xml: string, what: string): XmlElement {
  const { root } = parseXml(xml, what);
  if (root.name !== 'domain') throw unusable(what, `its first element is <${root.name}>, not <domain>`);
  return root;
}

function compareElements(path: string, source: XmlElement, published: XmlElement, out: Difference[], inDrive = false): void {
  const add = (where: string, from: string | null, to: string | null): void => {
    const shown = (value: string | null): string | null => value !== null && where.endsWith('/@passwd') ? '***' : value;
    if (from !== to) out.push({ path: where, source: shown(from), published: shown(to), kind: inDrive ? 'tuning' : gravity(where, from, to) });
  };
  const under = (name: string): string => path === '' ? name : `${path}/${name}`;
  const sized = bytesOf(source) !== undefined && SIZES.test(path);
  for (const name of unique([...source.attributes, ...published.attributes].map((attribute) => attribute.name))) {
    if (name.startsWith('xmlns') || (path === '' && name === 'id') || (sized && name === 'unit')) continue;
    add(under(`@${name}`), attributeOf(source, name) ?? null, attributeOf(published, name) ?? null);
  }
  if (sized) {
    if (bytesOf(source) !== bytesOf(published)) add(path, sizeText(source), sizeText(published));
  } else {
    add(path, textOf(path, source), textOf(path, published));
  }
  const [left, right] = [keyed(source), keyed(published)];
  for (const key of unique([...left.keys(), ...right.keys()])) {
    const [a, b] = [left.get(key), right.get(key)];
    if (a !== undefined && b !== undefined) compareElements(under(key), a, b, out, inDrive || (key.startsWith('disk') && isMedium(a) && isMedium(b)));
    else if (!isFilledIn(a ?? b)) add(under(key), a === undefined ? null : inOneLine(a), b === undefined ? null : inOneLine(b));
  }
}

const SIZES = /(^|\/)(memory|currentMemory|maxMemory|size|cell)(\[\d+\])?$/;

function textOf(path: string, element: XmlElement): string {
  const text = element.text.trim().replace(/\s+/g, ' ');
  return path === 'uuid' ? text.toLowerCase() : text;
}

function sizeText(element: XmlElement): string {
  return `${element.text.trim()} ${attributeOf(element, 'unit') ?? 'KiB'}`;
}

/** What libvirt adds by itself when it is not said: saying it or not is no difference. */
function isFilledIn(element: XmlElement | undefined): boolean {
  return element?.name === 'address' || (element?.name === 'alias' && !(attributeOf(element, 'name') ?? '').startsWith('ua-'))
    || (element?.name === 'backingStore' && element.children.length === 0 && element.attributes.length === 0);
}

/** Children under names that find the same thing on the other side. */
function keyed(parent: XmlElement): ReadonlyMap<string, XmlElement> {
  const result = new Map<string, XmlElement>();
  const counts = new Map<string, number>();
  for (const child of parent.children) {
    const own = identity(child);
    let key = own === undefined ? child.name : `${child.name}[${own}]`;
    const seen = (counts.get(key) ?? 0) + 1;
    counts.set(key, seen);
    if (seen > 1) key = `${key}[${String(seen)}]`;
    result.set(key, child);
  }
  return result;
}

function identity(element: XmlElement): string | undefined {
  switch (element.name) {
    case 'disk': return attributeOf(first(element, 'target'), 'dev');
    case 'interface': return attributeOf(first(element, 'mac'), 'address')?.toLowerCase();
    case 'controller': return [attributeOf(element, 'type'), attributeOf(element, 'index') ?? '0'].join(' ');
    case 'feature': return attributeOf(element, 'name');
    case 'channel': return attributeOf(first(element, 'target'), 'name');
    case 'filesystem': return attributeOf(first(element, 'target'), 'dir');
    case 'timer': return attributeOf(element, 'name');
    default: return undefined;
  }
}

/** Whether a difference makes the definition boot something that is not the server any more. */
function gravity(path: string, source: string | null, published: string | null): Difference['kind'] {
  if (/^(name|uuid)$/.test(path) || /^os\/(@firmware|loader\/@(type|secure)|nvram(\/.*)?|type\/@arch)$/.test(path)) {
    return path.startsWith('os/nvram/@template') ? 'tuning' : 'stale';
  }
  if (path === 'os/loader') return source === null || published === null ? 'stale' : 'tuning';
  if (path === 'os/type/@machine') return sameMachine(source, published) ? 'tuning' : 'stale';
  if (/^devices\/tpm(\[\d+\])?(\/@model|\/backend\/@(type|version))?$/.test(path)) return 'stale';
  const disk = /^devices\/disk(\[[^\]]*\])?(\[\d+\])?(\/.*)?$/.exec(path);
  if (disk === null) return 'tuning';
  const inside = disk[3] ?? '';
  if (inside === '/source/slices' && published === null) return 'tuning'; // the disk ends in zeros that it did not have, and boots
  if (inside === '') return /device=["']?(cdrom|floppy)/.test(source ?? published ?? '') ? 'tuning' : 'stale';
  return /^\/(@type|@device|source(\/.*)?|driver\/@type|target\/@(dev|bus)|backingStore.*|encryption.*|mirror.*)$/.test(inside) ? 'stale' : 'tuning';
}

/** `q35` stands for the newest `pc-q35-…`, `pc` for the newest `pc-i440fx-…`. */
function sameMachine(a: string | null, b: string | null): boolean {
  const family = (name: string | null): string | null => name === 'q35' || name?.startsWith('pc-q35-') === true ? 'q35'
    : name === 'pc' || name?.startsWith('pc-i440fx-') === true ? 'pc' : null;
  const [one, other] = [family(a), family(b)];
  return one !== null && one === other && (a === one || b === other);
}

function inOneLine(element: XmlElement): string {
  const attributes = element.attributes.map(({ name, value }) => ` ${name}='${name === 'passwd' ? '***' : value}'`).join('');
  const inside = element.children.map(inOneLine).join('') + element.text.trim();
  return inside === '' ? `<${element.name}${attributes}/>` : `<${element.name}${attributes}>${inside}</${element.name}>`;
}

function unique(values: readonly string[]): readonly string[] {
  return [...new Set(values)];
}
