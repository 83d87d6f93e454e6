import { escapeXml, type TextEdits } from './edit.js';
import { attributeOf, first, unusable, type XmlAttribute, type XmlElement } from './xml.js';

/** What becomes of one `<disk>`. */

export interface WantedDisk {
  /** The device name in the definition, e.g. `vda`. */
  readonly target: string;
  /** Absolute path to boot from, e.g. `/shared/dr/current/Web01/root`. */
  readonly link: string;
  /** What the link leads to; libvirt needs it to match. Default `file`. */
  readonly type?: 'file' | 'block';
  /** Bytes of the device that are the disk, when the device is larger. */
  readonly slice?: { readonly offset: number; readonly size: number };
  /**
   * Whether the image is the encrypted container itself (`keep`) or holds what was inside (`drop`). Default: `keep` for raw sources, whose image is
   * the container byte for byte; for any other format it must be said.
   */
  readonly encryption?: 'keep' | 'drop';
}

/** One change, for people and reports: where, and what was and is there. `null`: not there. */
export interface Change {
  readonly path: string;
  readonly from: string | null;
  readonly to: string | null;
}

export type Recorder = (path: string, from: string | undefined, to: string | undefined) => void;

/** Attributes and children of `<source>` that say where the old disk is and how it is reached; nothing else is taken out of it. */
const PLACE = ['file', 'dev', 'dir', 'protocol', 'name', 'pool', 'volume', 'path', 'type', 'namespace'];
const REACHED_BY = ['mode', 'managed', 'query', 'tls', 'tlsHostname', 'index', 'startupPolicy', 'fdgroup', 'offset', 'size'];
const REACHED_BY_CHILDREN = [
  'host', 'auth', 'reservations', 'slices', 'cookies', 'ssl', 'snapshot', 'config', 'initiator', 'address', 'readahead', 'timeout',
  'identity', 'knownHosts', 'reconnect', 'seclabel', 'privateData', 'dataStore',
];
/** Driver settings that libvirt refuses, or that mean nothing, for anything but qcow2. */
const QCOW2_ATTRIBUTES = ['discard_no_unref'];
const QCOW2_CHILDREN = ['metadata_cache'];

/** Optical and floppy drives: the drive stays, the medium does not. */
export function isMedium(disk: XmlElement): boolean {
  return ['cdrom', 'floppy'].includes(attributeOf(disk, 'device') ?? 'disk');
}

/** Takes the medium out of a drive. A host without the medium's file would refuse to boot the server. */
export function ejectMedium(disk: XmlElement, edits: TextEdits, record: Recorder): void {
  const name = pathOf(disk);
  const type = attributeOf(disk, 'type');
  if (type !== undefined && type !== 'file' && type !== 'block') { // an empty drive of any other type is no valid definition
    record(`${name}/@type`, type, 'file');
    edits.setAttribute(disk, 'type', 'file');
    const driver = first(disk, 'driver');
    const format = attributeOf(driver, 'type');
    if (driver !== undefined && format !== undefined && format !== 'raw') { // `fat` is for a directory only
      record(`${name}/driver/@type`, format, 'raw');
      edits.setAttribute(driver, 'type', 'raw');
    }
  }
  for (const child of disk.children) {
    if (!['source', 'backingStore', 'mirror', 'auth'].includes(child.name)) continue;
    if (child.name === 'backingStore' && isEmpty(child)) continue;
    record(`${name}/${child.name}`, describe(child), undefined);
    edits.removeElement(child);
  }
}

/** Points a disk at its image: a raw file or device without a backing chain. */
export function rewriteDisk(disk: XmlElement, wanted: WantedDisk, edits: TextEdits, record: Recorder, what: string): void {
  if (!wanted.link.startsWith('/') || /[\0\n\r]/.test(wanted.link)) throw unusable(what, `the path ${JSON.stringify(wanted.link)} for its disk ${wanted.target} is not absolute`);
  const name = pathOf(disk);
  const type = wanted.type ?? 'file';
  const set = (element: XmlElement, attribute: string, value: string, path: string, byDefault?: string): void => {
    const before = attributeOf(element, attribute);
    if ((before ?? byDefault) === value) return;
    record(`${path}/@${attribute}`, before, value);
    edits.setAttribute(element, attribute, value);
  };
  const drop = (child: XmlElement, path: string): void => {
    record(`${path}/${child.name}`, describe(child), undefined);
    edits.removeElement(child);
  };

  set(disk, 'type', type, name, 'file');
  if (attributeOf(disk, 'device') === 'lun') { // SCSI pass-through needs a SCSI device beneath; an image is none
    set(disk, 'device', 'disk', name);
    removeAttributes(disk, ['rawio', 'sgio'], name, edits, record);
  }
  const encryption = whatOfEncryption(disk, wanted, what);

  const driver = first(disk, 'driver');
  if (driver !== undefined) {
    set(driver, 'type', 'raw', `${name}/driver`);
    removeAttributes(driver, QCOW2_ATTRIBUTES, `${name}/driver`, edits, record);
    for (const child of driver.children) if (QCOW2_CHILDREN.includes(child.name)) drop(child, `${name}/driver`);
  }
  for (const child of disk.children) {
    const goes = child.name === 'mirror' || child.name === 'auth' || child.name === 'privateData'
      || (child.name === 'backingStore' && !isEmpty(child)) || (child.name === 'encryption' && encryption === 'drop');
    if (goes) drop(child, name);
  }

  const source = first(disk, 'source');
  if (source !== undefined) {
    rewriteSource(source, wanted, type, encryption, name, edits, record);
  } else {
    record(`${name}/source`, undefined, wanted.link);
  }
  const missing = [
    ...(driver === undefined ? ["<driver name='qemu' type='raw'/>"] : []),
    ...(source === undefined ? [newSource(wanted, type)] : []),
  ];
  if (driver === undefined) record(`${name}/driver/@type`, undefined, 'raw');
  // libvirt itself writes the driver first, and the source right after it
  const at = disk.children[0];
  if (driver === undefined && at !== undefined) for (const markup of missing) edits.insertBefore(at, markup);
  else if (driver !== undefined) for (const markup of missing) edits.insertAfter(driver, markup);
}

function rewriteSource(source: XmlElement, wanted: WantedDisk, type: 'file' | 'block', encryption: 'keep' | 'drop', name: string, edits: TextEdits, record: Recorder): void {
  const attribute = type === 'file' ? 'file' : 'dev';
  const places = source.attributes.filter((candidate) => PLACE.includes(candidate.name));
  const place = places.find((candidate) => candidate.name === attribute) ?? places[0];
  const before = describe(source);
  let changed = place?.name !== attribute || place.value !== wanted.link;
  if (place === undefined) edits.setAttribute(source, attribute, wanted.link);
  else edits.replaceAttribute(place, attribute, wanted.link);

  const gone: XmlAttribute[] = source.attributes.filter((candidate) => candidate !== place && [...PLACE, ...REACHED_BY].includes(candidate.name));
  for (const candidate of gone) edits.removeAttribute(candidate);
  changed ||= gone.length > 0;

  const slicesFit = wanted.slice !== undefined && isSlice(first(source, 'slices'), wanted.slice);
  for (const child of source.children) {
    if (child.name === 'slices' && slicesFit) continue;
    if (!REACHED_BY_CHILDREN.includes(child.name) && !(child.name === 'encryption' && encryption === 'drop')) continue;
    changed = true;
    edits.removeElement(child);
  }
  if (wanted.slice !== undefined && !slicesFit) {
    changed = true;
    edits.append(source, [
      { depth: 1, markup: '<slices>' },
      { depth: 2, markup: `<slice type='storage' offset='${String(wanted.slice.offset)}' size='${String(wanted.slice.size)}'/>` },
      { depth: 1, markup: '</slices>' },
    ]);
  }
  if (changed) record(`${name}/source`, before, [wanted.link, ...(wanted.slice === undefined ? [] : [`bytes ${String(wanted.slice.offset)}+${String(wanted.slice.size)}`])].join(' '));
}

function newSource(wanted: WantedDisk, type: 'file' | 'block'): string {
  const open = `<source ${type === 'file' ? 'file' : 'dev'}='${escapeXml(wanted.link, "'")}'`;
  if (wanted.slice === undefined) return `${open}/>`;
  return `${open}><slices><slice type='storage' offset='${String(wanted.slice.offset)}' size='${String(wanted.slice.size)}'/></slices></source>`;
}

function isSlice(slices: XmlElement | undefined, wanted: { readonly offset: number; readonly size: number }): boolean {
  const slice = slices?.children.length === 1 ? first(slices, 'slice') : undefined;
  return attributeOf(slice, 'type') === 'storage' && attributeOf(slice, 'offset') === String(wanted.offset) && attributeOf(slice, 'size') === String(wanted.size);
}

function whatOfEncryption(disk: XmlElement, wanted: WantedDisk, what: string): 'keep' | 'drop' {
  if (wanted.encryption !== undefined) return wanted.encryption;
  const encrypted = first(disk, 'encryption') ?? first(disk, 'source', 'encryption');
  const format = attributeOf(first(disk, 'driver'), 'type') ?? 'raw';
  if (encrypted === undefined || format === 'raw') return 'keep';
  throw unusable(what, `its disk ${wanted.target} is encrypted inside a ${format} file, and it is not said whether the image holds the encrypted data`,
    'Leave the server out of the job, or decrypt the disk.');
}

function removeAttributes(element: XmlElement, names: readonly string[], path: string, edits: TextEdits, record: Recorder): void {
  for (const attribute of element.attributes) {
    if (!names.includes(attribute.name)) continue;
    record(`${path}/@${attribute.name}`, attribute.value, undefined);
    edits.removeAttribute(attribute);
  }
}

function isEmpty(element: XmlElement): boolean {
  return element.children.length === 0 && element.attributes.length === 0;
}

function pathOf(disk: XmlElement): string {
  return `devices/disk[${attributeOf(first(disk, 'target'), 'dev') ?? '?'}]`;
}

/** What an element says, in short: its attributes' values, and those of what is in it. */
function describe(element: XmlElement): string {
  return [...element.attributes.map(({ value }) => value), ...element.children.map((child) => `${child.name}(${describe(child)})`)].join(' ');
}
