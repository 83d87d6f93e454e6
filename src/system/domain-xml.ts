import { attribute, child, children, parseXml, type XmlElement } from './virsh.js';

/** What matters of a domain's XML for imaging its disks. */

export interface DomainDisk {
  /** `vda` */
  readonly target: string;
  readonly format: string;
  /** Where its data is; undefined if that is no local file or device. */
  readonly path?: string;
  /** Its path is a container of encrypted bytes. */
  readonly encrypted?: boolean;
  /** What in the definition keeps it from being imaged. */
  readonly problem?: string;
}

export interface DomainXml {
  readonly name: string;
  readonly uuid: string;
  /** Disks in the definition's order; optical and floppy drives are none. */
  readonly disks: readonly DomainDisk[];
  readonly nvram?: string;
  /** Whether a TPM emulator's state belongs to it. */
  readonly tpm: boolean;
}

/** Formats whose images can be captured. */
const FORMATS: readonly string[] = ['raw', 'qcow2'];

/** Reads the XML that `virsh dumpxml` printed. */
export async function readDomainXml(xml: string): Promise<DomainXml> {
  const root = await parseXml(xml);
  const devices = child(root, 'devices');
  const nvram = readNvram(child(root, 'os', 'nvram'));
  return {
    name: child(root, 'name')?._ ?? '',
    uuid: child(root, 'uuid')?._ ?? '',
    disks: children(devices, 'disk').filter((disk) => ['disk', 'lun'].includes(attribute(disk, 'device') ?? 'disk')).map(readDisk),
    ...(nvram === undefined ? {} : { nvram }),
    tpm: children(devices, 'tpm').some((tpm) => attribute(child(tpm, 'backend'), 'type') === 'emulator'),
  };
}

/** `<nvram>PATH</nvram>`, or since libvirt 8.5 `<nvram type='file'><source file='PATH'/></nvram>`. */
function readNvram(element: XmlElement | undefined): string | undefined {
  const path = element?._?.trim() ?? attribute(child(element, 'source'), 'file');
  return path === undefined || path === '' ? undefined : path;
}

function readDisk(disk: XmlElement): DomainDisk {
  const type = attribute(disk, 'type') ?? 'file';
  const source = child(disk, 'source');
  const path = type === 'file' ? attribute(source, 'file') : type === 'block' ? attribute(source, 'dev') : undefined;
  const format = attribute(child(disk, 'driver'), 'type') ?? 'raw';
  const problem = problemOf(disk, type, source, path, format);
  return {
    target: attribute(child(disk, 'target'), 'dev') ?? '', format,
    ...(path === undefined ? {} : { path }), ...(problem === undefined ? {} : { problem }),
    ...(isEncrypted(disk, format) ? { encrypted: true } : {}),
  };
}

function isEncrypted(disk: XmlElement, format: string): boolean {
  return child(disk, 'encryption') !== undefined || child(child(disk, 'source'), 'encryption') !== undefined || format === 'luks';
}

function problemOf(disk: XmlElement, type: string, source: XmlElement | undefined, path: string | undefined, format: string): string | undefined {
  if (type === 'network') return `it is a network disk (${attribute(source, 'protocol') ?? 'unknown protocol'})`;
  if (type !== 'file' && type !== 'block') return `disks of type '${type}' can't be imaged`;
  if (path === undefined || path === '') return 'it has no source';
  if (!path.startsWith('/')) return `its source ${path} is no absolute path`;
  if (child(disk, 'transient') !== undefined) return 'it is <transient/>: what is written to it is thrown away at shutdown';
  if (child(disk, 'shareable') !== undefined) return 'it is <shareable/>: another server may write to it at the same time';
  if (isEncrypted(disk, format) && format !== 'raw' && format !== 'luks') return `it is encrypted inside a ${format} file`;
  if (child(source, 'slices') !== undefined) return 'only a slice of its source is the disk';
  if (!FORMATS.includes(format) && format !== 'luks') return `its format ${format} is not supported (only ${FORMATS.join(' and ')})`;
  return undefined;
}
