import { all, attributeOf, first, parseXml, unusable, type XmlElement } from './xml.js';

/** What a definition says and needs, as plain values: for checks of the host that is to run it. */
export interface DefinitionFacts {
  readonly name: string;
  /** Lower case; absent when libvirt is to make one up. */
  readonly uuid?: string;
  /** `kvm`, `qemu`, … */
  readonly type: string;
  /** In document order, optical and floppy drives included. */
  readonly disks: readonly DiskFacts[];
  readonly memoryBytes: number;
  /** Virtual CPUs at most. */
  readonly vcpus: number;
  readonly hugepages: boolean;
  readonly arch?: string;
  /** As written: `pc-q35-7.2`, or an alias such as `q35`. */
  readonly machine?: string;
  readonly emulator?: string;
  readonly cpu: { readonly mode?: string; readonly model?: string };
  readonly firmware: 'bios' | 'efi';
  readonly loader?: string;
  readonly nvram?: string;
  readonly nvramTemplate?: string;
  /** Whether a TPM emulator's state belongs to the server. */
  readonly tpm: boolean;
  /** Host bridges the server is plugged into. */
  readonly bridges: readonly string[];
  /** libvirt networks it is plugged into. */
  readonly networks: readonly string[];
  /** Host network devices used directly (macvtap). */
  readonly nics: readonly string[];
  /** Devices of the host handed to the guest, for people: `pci 0000:03:00.0`. */
  readonly hostDevices: readonly string[];
  /** Other paths on the host without which it does not start. */
  readonly paths: readonly PathFacts[];
  /** Security drivers it insists on (`apparmor`, `selinux`); it does not start where one is missing. */
  readonly securityModels: readonly string[];
  /** Arguments handed to QEMU past libvirt. */
  readonly commandLine: readonly string[];
}

export interface DiskFacts {
  readonly target: string;
  readonly device: 'disk' | 'lun' | 'cdrom' | 'floppy';
  readonly bus?: string;
  /** libvirt's disk type: `file`, `block`, `network`, `volume`, … */
  readonly type: string;
  /** Absent for an empty drive and for what is no path. */
  readonly path?: string;
  /** `raw` when nothing is said, as libvirt takes it. */
  readonly format: string;
  readonly slice?: { readonly offset: number; readonly size: number };
}

export interface PathFacts {
  readonly what: string;
  readonly path: string;
  /** `parent`: the file is made, its directory must be there. */
  readonly need: 'exists' | 'parent';
}

/** Reads a definition. `what` names it in messages. Throws `definition-unusable`. */
export function readDefinition(xml: string, what = 'the definition'): DefinitionFacts {
  const { root } = parseXml(xml, what);
  if (root.name !== 'domain') throw unusable(what, `its first element is <${root.name}>, not <domain>`);
  const name = textOf(root, 'name');
  if (name === undefined) throw unusable(what, 'it has no <name>');
  const os = first(root, 'os');
  const loader = first(os, 'loader');
  const nvram = first(os, 'nvram');
  const nvramPath = attributeOf(first(nvram, 'source'), 'file') ?? attributeOf(first(nvram, 'source'), 'dev') ?? nvram?.text.trim();
  const machine = first(os, 'type');
  const cpu = first(root, 'cpu');
  const interfaces = all(root, 'devices', 'interface');
  const sources = (type: string, attribute: string): readonly string[] => unique(interfaces
    .filter((candidate) => attributeOf(candidate, 'type') === type).flatMap((candidate) => attributeOf(first(candidate, 'source'), attribute) ?? []));
  return {
    name,
    ...optional('uuid', textOf(root, 'uuid')?.toLowerCase()),
    type: attributeOf(root, 'type') ?? 'kvm',
    disks: all(root, 'devices', 'disk').map(diskFacts),
    memoryBytes: bytesOf(first(root, 'memory')) ?? 0,
    vcpus: Number(textOf(root, 'vcpu') ?? '1'),
    hugepages: first(root, 'memoryBacking', 'hugepages') !== undefined,
    ...optional('arch', attributeOf(machine, 'arch')),
    ...optional('machine', attributeOf(machine, 'machine')),
    ...optional('emulator', textOf(root, 'devices', 'emulator')),
    cpu: { ...optional('mode', attributeOf(cpu, 'mode') ?? (cpu === undefined ? undefined : 'custom')), ...optional('model', textOf(root, 'cpu', 'model')) },
    firmware: isEfi(os) ? 'efi' : 'bios',
    ...optional('loader', loader?.text.trim()),
    ...optional('nvram', nvramPath),
    ...optional('nvramTemplate', attributeOf(nvram, 'template')),
    tpm: all(root, 'devices', 'tpm', 'backend').some((backend) => attributeOf(backend, 'type') === 'emulator'),
    bridges: sources('bridge', 'bridge'),
    networks: sources('network', 'network'),
    nics: sources('direct', 'dev'),
    hostDevices: all(root, 'devices', 'hostdev').map(hostDevice),
    paths: pathFacts(root),
    securityModels: unique(all(root, 'seclabel').filter((label) => attributeOf(label, 'type') !== 'none').flatMap((label) => attributeOf(label, 'model') ?? []).filter((model) => model !== 'dac')),
    commandLine: all(root, 'qemu:commandline', 'qemu:arg').flatMap((argument) => attributeOf(argument, 'value') ?? []),
  };
}

export function isEfi(os: XmlElement | undefined): boolean {
  return attributeOf(os, 'firmware') === 'efi' || attributeOf(first(os, 'loader'), 'type') === 'pflash' || first(os, 'nvram') !== undefined;
}

/** A size with libvirt's units in bytes; undefined if it is none. */
export function bytesOf(element: XmlElement | undefined): number | undefined {
  if (element === undefined || !/^\s*\d+\s*$/.test(element.text)) return undefined;
  const unit = (attributeOf(element, 'unit') ?? 'KiB').toLowerCase();
  const scale = /^(?:b|bytes?)$/.test(unit) ? 1 : /^([kmgtpe])(i?b)?$/.exec(unit);
  if (scale === null) return undefined;
  if (scale === 1) return Number(element.text);
  const power = 'kmgtpe'.indexOf(scale[1] ?? 'k') + 1;
  return Number(element.text) * (scale[2] === 'b' ? 1000 : 1024) ** power; // libvirt: KB is 1000, K and KiB are 1024
}

function diskFacts(disk: XmlElement): DiskFacts {
  const device = attributeOf(disk, 'device') ?? 'disk';
  const source = first(disk, 'source');
  const slice = first(source, 'slices', 'slice');
  return {
    target: attributeOf(first(disk, 'target'), 'dev') ?? '',
    device: device === 'lun' || device === 'cdrom' || device === 'floppy' ? device : 'disk',
    ...optional('bus', attributeOf(first(disk, 'target'), 'bus')),
    type: attributeOf(disk, 'type') ?? 'file',
    ...optional('path', attributeOf(source, 'file') ?? attributeOf(source, 'dev') ?? attributeOf(source, 'dir')),
    format: attributeOf(first(disk, 'driver'), 'type') ?? 'raw',
    ...(slice === undefined ? {} : { slice: { offset: Number(attributeOf(slice, 'offset') ?? '0'), size: Number(attributeOf(slice, 'size') ?? '0') } }),
  };
}

function hostDevice(device: XmlElement): string {
  const kind = attributeOf(device, 'type') ?? attributeOf(device, 'mode') ?? 'device';
  const address = first(device, 'source', 'address');
  if (kind === 'pci' && address !== undefined) {
    const part = (name: string, digits: number): string => Number(attributeOf(address, name) ?? '0').toString(16).padStart(digits, '0');
    return `pci ${part('domain', 4)}:${part('bus', 2)}:${part('slot', 2)}.${part('function', 1)}`;
  }
  const ids = ['vendor', 'product'].flatMap((name) => attributeOf(first(device, 'source', name), 'id') ?? []);
  if (ids.length > 0) return `${kind} ${ids.join(':')}`;
  const leaves = (element: XmlElement | undefined): string => element === undefined ? ''
    : [...element.attributes.map(({ value }) => value), element.text.trim(), ...element.children.map(leaves)].filter((part) => part !== '').join(' ');
  return `${kind} ${leaves(first(device, 'source'))}`.trim();
}

function pathFacts(root: XmlElement): readonly PathFacts[] {
  const found: PathFacts[] = [];
  const add = (what: string, path: string | undefined, need: PathFacts['need'] = 'exists'): void => {
    if (path?.startsWith('/') === true) found.push({ what, path, need });
  };
  const os = first(root, 'os');
  add('firmware', textOf(root, 'os', 'loader'));
  add('template of the UEFI variables', attributeOf(first(os, 'nvram'), 'template'));
  for (const name of ['kernel', 'initrd', 'dtb']) add(name, textOf(root, 'os', name));
  for (const filesystem of all(root, 'devices', 'filesystem')) {
    const source = first(filesystem, 'source');
    add('shared directory', attributeOf(source, 'dir') ?? attributeOf(source, 'file') ?? attributeOf(source, 'dev') ?? attributeOf(source, 'socket'));
    add('file system daemon', attributeOf(first(filesystem, 'binary'), 'path'));
  }
  for (const module of all(root, 'devices', 'memory')) add('memory module', textOf(module, 'source', 'path'));
  for (const kind of ['serial', 'console', 'parallel', 'channel']) {
    for (const device of all(root, 'devices', kind)) {
      const type = attributeOf(device, 'type');
      const source = first(device, 'source');
      if (type === 'file') add(`${kind} output`, attributeOf(source, 'path'), 'parent');
      else if (type === 'dev' || type === 'pipe') add(`${kind} device`, attributeOf(source, 'path'));
      else if (type === 'unix' && attributeOf(source, 'mode') === 'connect') add(`${kind} socket`, attributeOf(source, 'path'));
      add(`${kind} log`, attributeOf(first(device, 'log'), 'file'), 'parent');
    }
  }
  return found;
}

function textOf(element: XmlElement, ...path: readonly string[]): string | undefined {
  const text = first(element, ...path)?.text.trim();
  return text === '' ? undefined : text;
}

function optional<K extends string>(key: K, value: string | undefined): Partial<Record<K, string>> {
  return value === undefined || value === '' ? {} : { [key]: value } as Partial<Record<K, string>>;
}

function unique(values: readonly string[]): readonly string[] {
  return [...new Set(values)];
}
