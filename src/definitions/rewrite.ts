import { TextEdits } from './edit.js';
import { clearLiveState } from './live-state.js';
import { ejectMedium, isMedium, rewriteDisk, type Change, type Recorder, type WantedDisk } from './rewrite-disk.js';
import { all, attributeOf, first, parseXml, unusable, type XmlElement } from './xml.js';

export type { Change, WantedDisk } from './rewrite-disk.js';

/** What the definition on the target must say; everything not named here stays as the source says it. */
export interface Wanted {
  readonly server: string;
  /** Every disk of the server, optical and floppy drives excepted. */
  readonly disks: readonly WantedDisk[];
  /** New path of the UEFI variables; absent: left alone. */
  readonly nvram?: string;
  /** New path of the firmware; absent: left alone. */
  readonly loader?: string;
}

export interface Rewritten {
  readonly xml: string;
  /** What was changed, in document order; empty if the definition was as wanted already. */
  readonly changes: readonly Change[];
}

/**
 * The definition that boots a server from its images: the source's, with disks' sources, removable media, NVRAM and loader paths
 * changed by editing the text in place. All other bytes (comments, order, white space, quotes, unknown elements) stay. Rewriting the
 * result again changes nothing.
 *
 * Throws `definition-unusable`: no well-formed XML, a document type or entities, no `<domain>` of that name, a disk
 * that is asked for and not there, or one that is there and not asked for.
 */
export function rewriteDefinition(xml: string, wanted: Wanted): Rewritten {
  const what = `the definition of ${wanted.server}`;
  const { root } = parseXml(xml, what);
  checkDomain(root, wanted.server, what);
  const disks = pairDisks(root, wanted.disks, what);
  const edits = new TextEdits(xml);
  const changes: Change[] = [];
  const record: Recorder = (path, from, to) => { changes.push({ path, from: from ?? null, to: to ?? null }); };

  clearLiveState(root, edits, record);
  rewriteFirmware(root, wanted, edits, record, what);
  for (const [element, disk] of disks) {
    if (disk === undefined) ejectMedium(element, edits, record);
    else rewriteDisk(element, disk, edits, record, what);
  }
  const rewritten = edits.apply();
  parseXml(rewritten, `${what} as rewritten`); // a defect of ours must not reach a file that nobody overwrites later
  return { xml: rewritten, changes };
}

/** Throws `definition-unusable` unless the document is the definition of that server. */
export function checkDomain(root: XmlElement, server: string, what: string): void {
  if (root.name !== 'domain') throw unusable(what, `its first element is <${root.name}>, not <domain>`);
  const names = all(root, 'name').map((name) => name.text.trim());
  if (names.length !== 1 || names[0] !== server) {
    const said = names.length === 0 ? 'it has no <name>' : `it names ${names.map((name) => JSON.stringify(name)).join(' and ')}, not ${JSON.stringify(server)}`;
    throw unusable(what, said, 'A definition is for the server whose name it bears; look for a file under the wrong name.');
  }
}

/** Every disk element with what is wanted of it; undefined for removable media. */
function pairDisks(root: XmlElement, wanted: readonly WantedDisk[], what: string): readonly (readonly [XmlElement, WantedDisk | undefined])[] {
  const elements = all(root, 'devices', 'disk');
  const targets = elements.map((disk) => attributeOf(first(disk, 'target'), 'dev') ?? '');
  const twice = targets.find((target, index) => targets.indexOf(target) !== index);
  if (twice !== undefined) throw unusable(what, `two of its disks are ${twice === '' ? 'without a target' : `called ${twice}`}`);
  const asked = wanted.map(({ target }) => target);
  const askedTwice = asked.find((target, index) => asked.indexOf(target) !== index);
  if (askedTwice !== undefined) throw unusable(what, `two images are meant for its disk ${askedTwice}`);

  const missing = asked.filter((target) => !targets.includes(target));
  if (missing.length > 0) throw unusable(what, `it has no disk ${missing.join(', ')}; it has ${targets.join(', ') || 'none'}`);
  const media = elements.filter(isMedium).map((disk) => attributeOf(first(disk, 'target'), 'dev') ?? '');
  const askedMedia = asked.filter((target) => media.includes(target));
  if (askedMedia.length > 0) throw unusable(what, `${askedMedia.join(', ')} is an optical or floppy drive, which has no image`);

  const pairs = elements.map((element, index) => [element, wanted.find(({ target }) => target === targets[index])] as const);
  const uncovered = pairs.filter(([element, disk]) => disk === undefined && !isMedium(element)).map(([element]) => describeDisk(element));
  if (uncovered.length > 0) {
    throw unusable(what, `it has disks of which there is no image: ${uncovered.join('; ')}`,
      'Image every disk of the server, or remove the disk from it; a server that boots without one of its disks is no copy.');
  }
  return pairs;
}

/** A disk for people: `vdb (network, rbd pool/db)`. */
export function describeDisk(disk: XmlElement): string {
  const source = first(disk, 'source');
  const facts = [attributeOf(disk, 'type') ?? 'file', ...['protocol', 'file', 'dev', 'name', 'pool', 'volume', 'path']
    .flatMap((name) => attributeOf(source, name) ?? [])];
  return `${attributeOf(first(disk, 'target'), 'dev') ?? 'a disk without a target'} (${facts[0] ?? ''}${facts.length > 1 ? `, ${facts.slice(1).join(' ')}` : ''})`;
}

function rewriteFirmware(root: XmlElement, wanted: Wanted, edits: TextEdits, record: Recorder, what: string): void {
  const os = first(root, 'os');
  if (wanted.loader !== undefined) {
    const loader = first(os, 'loader');
    if (loader === undefined) throw unusable(what, 'it has no <loader> whose path could be set');
    if (loader.text.trim() !== wanted.loader) {
      record('os/loader', loader.text.trim(), wanted.loader);
      edits.setText(loader, wanted.loader);
    }
  }
  if (wanted.nvram === undefined) return;
  const nvram = first(os, 'nvram');
  if (nvram !== undefined) {
    rewriteNvram(nvram, wanted.nvram, edits, record);
    return;
  }
  const loader = first(os, 'loader');
  const efi = attributeOf(os, 'firmware') === 'efi' || attributeOf(loader, 'type') === 'pflash';
  if (os === undefined || !efi) throw unusable(what, 'it has no UEFI firmware, yet there are UEFI variables to boot with');
  const markup = `<nvram>${wanted.nvram.replaceAll('&', '&amp;').replaceAll('<', '&lt;')}</nvram>`;
  const place = loader ?? os.children.at(-1);
  record('os/nvram', undefined, wanted.nvram);
  if (place === undefined) edits.append(os, [{ depth: 1, markup }]);
  else edits.insertAfter(place, markup);
}

/** `<nvram>path</nvram>`, or since libvirt 8.5 `<nvram type='…'><source …/></nvram>`; the template stays either way. */
function rewriteNvram(nvram: XmlElement, path: string, edits: TextEdits, record: Recorder): void {
  const source = first(nvram, 'source');
  if (source === undefined) {
    if (nvram.text.trim() !== path) record('os/nvram', nvram.text.trim() || undefined, path);
    edits.setText(nvram, path);
    return;
  }
  const type = nvram.attributes.find(({ name }) => name === 'type');
  if (type !== undefined && type.value !== 'file') edits.replaceAttribute(type, 'type', 'file');
  const known = source.attributes.filter(({ name }) => ['file', 'dev', 'protocol', 'name', 'pool', 'volume', 'dir', 'index', 'startupPolicy', 'query', 'tls'].includes(name));
  const [place, ...rest] = known;
  const before = known.map(({ value }) => value).join(' ');
  if (place === undefined) edits.setAttribute(source, 'file', path);
  else edits.replaceAttribute(place, 'file', path);
  for (const attribute of rest) edits.removeAttribute(attribute);
  for (const child of source.children) if (['host', 'auth', 'slices', 'reservations', 'encryption', 'seclabel', 'privateData'].includes(child.name)) edits.removeElement(child);
  if (before !== path) record('os/nvram/source', before, path);
}
