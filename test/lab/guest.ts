import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { lock } from '../../src/system/flock.js';
import { run } from '../../src/system/run.js';
import type { GuestHost } from './host.js';
import { cacheDirectory, SOURCES } from './layout.js';
import { until } from './namespaces.js';

/** Guests with a heartbeat: what they wrote to their second disk before an image was taken is read back from the booted copy. */

/**
 * `sector` boots in a second and ignores shutdown requests; `sector-pair` also writes its heartbeat to its first disk (sector 1) just before
 * the second, so that at any instant the first is equal or one ahead; `linux` takes a few seconds, obeys the power button and has a guest agent.
 */
export type GuestKind = 'sector' | 'sector-pair' | 'linux';

export interface GuestDisk {
  readonly format?: 'raw' | 'qcow2';
  /** The qcow2 disk's content is in a backing file. */
  readonly backing?: boolean;
  /** For the second disk and further ones. Default 64. */
  readonly sizeMiB?: number;
  /** Default `<guest>_<number>` with the format as suffix, in /var/lib/libvirt/images. A device must be there, and keeps its size. */
  readonly path?: string;
}

export interface GuestOptions {
  readonly name: string;
  readonly kind?: GuestKind;
  /** Default: two raw disks. The first is the boot disk. */
  readonly disks?: readonly GuestDisk[];
  readonly uuid?: string;
  /** Default true; a transient domain is created, not defined. */
  readonly persistent?: boolean;
  /** Default true. */
  readonly start?: boolean;
  /** Changes the definition before libvirt sees it. */
  readonly edit?: (xml: string) => string;
}

export interface GuestDiskMade {
  readonly target: string;
  readonly path: string;
  readonly format: 'raw' | 'qcow2';
}

const IMAGES = '/var/lib/libvirt/images';

/** A guest on one host. */
export class Guest {
  constructor(readonly host: GuestHost, readonly name: string, readonly uuid: string, readonly kind: GuestKind,
    readonly disks: readonly GuestDiskMade[], readonly xml: string) {}

  /** The same server on another host, for instance its activated copy on the target. */
  on(host: GuestHost): Guest {
    return new Guest(host, this.name, this.uuid, this.kind, this.disks, this.xml);
  }

  async start(): Promise<void> {
    await this.host.run('virsh', ['start', this.name]);
  }

  /** Pulls the guest's plug. A guest that is off already is fine. */
  async destroy(): Promise<void> {
    if (await this.state() === 'shut off' || await this.state() === 'absent') return;
    await this.host.run('virsh', ['destroy', this.name], { okExit: [0, 1] });
  }

  /** As virsh says it: `running`, `paused`, `shut off`, …; `absent` if libvirt does not know it. */
  async state(): Promise<string> {
    const { stdout, exitCode } = await this.host.run('virsh', ['domstate', this.name], { okExit: [0, 1] });
    return exitCode === 0 ? stdout.trim() : 'absent';
  }

  /** What the guest has printed since it was last started. */
  async console(): Promise<string> {
    return (await this.host.readFile(`/var/log/guests/${this.name}.log`).catch(() => '')).replaceAll('\r', ''); // never started here
  }

  /** The last beat on the console; 0 before the first. */
  async heartbeat(): Promise<number> {
    return Number([...(await this.console()).matchAll(/^HB (\d+)$/gm)].at(-1)?.[1] ?? '0');
  }

  /** What the guest found on its second disk when it booted; waits for it. */
  async last(timeoutMs = 40_000): Promise<number> {
    return until(`${this.name} to boot on ${this.host.name}`, async () => {
      const found = /^LAST (\d+)$/m.exec(await this.console())?.[1];
      return found === undefined ? undefined : Number(found);
    }, timeoutMs);
  }

  /** Waits until the guest has beaten `more` times from now on. */
  async beats(more = 2, timeoutMs = 40_000): Promise<number> {
    const from = await this.heartbeat();
    return until(`${this.name} on ${this.host.name} to beat`, async () => {
      const now = await this.heartbeat();
      return now >= from + more ? now : undefined;
    }, timeoutMs);
  }

  /** The heartbeat on one of its disks, as anybody would read it from outside. */
  async heartbeatOn(disk: GuestDiskMade | undefined = this.disks[1], sector = 0): Promise<number> {
    if (disk === undefined) throw new Error(`${this.name} has no such disk`);
    return heartbeatIn(this.host, disk.path, disk.format, sector);
  }
}

/** Reads the heartbeat from an image or a disk. Throws if there is none. */
export async function heartbeatIn(host: GuestHost, path: string, format: 'raw' | 'qcow2' = 'raw', sector = 0): Promise<number> {
  const copy = `/tmp/heartbeat.${randomUUID()}`;
  await host.run('qemu-img', ['dd', '-U', '-f', format, '-O', 'raw', 'bs=512', `skip=${String(sector)}`, `count=${String(sector + 1)}`, `if=${path}`, `of=${copy}`]);
  const { stdout } = await host.run('sh', ['-c', 'head -c 512 "$1" | tr -d "\\000"; rm -f "$1"', 'sh', copy]);
  const digits = /^HEARTBEAT (\d{8})$/m.exec(stdout)?.[1];
  if (digits === undefined) throw new Error(`there is no heartbeat in ${path}`);
  return Number(digits);
}

/** Makes a guest's disks and its definition on a host, and starts it unless told otherwise. */
export async function makeGuest(host: GuestHost, options: GuestOptions): Promise<Guest> {
  const kind = options.kind ?? 'sector';
  const boot = await bootImage(kind);
  const uuid = options.uuid ?? randomUUID();
  const disks = (options.disks ?? [{}, {}]).map((disk, index) => describeDisk(options.name, disk, index));
  for (const [index, disk] of disks.entries()) await makeDisk(host, disk, index === 0 ? boot : undefined, kind);
  await host.run('sh', ['-c', `[ -e ${IMAGES}/tools.iso ] || head -c 65536 /dev/zero > ${IMAGES}/tools.iso`]);

  const diskXml = await readFile(join(SOURCES, 'guest/disk.xml'), 'utf8');
  const template = await readFile(join(SOURCES, 'guest/domain.xml'), 'utf8');
  const fill = (text: string, values: Readonly<Record<string, string>>): string => text.replace(/@([A-Z]+)@/g, (_all, key: string) => values[key] ?? '');
  const plain = fill(template, {
    NAME: options.name, UUID: uuid, KIND: kind, MEMORY: kind === 'linux' ? '160' : '16',
    // The BIOS shows only disks with a place in the boot order to a boot sector.
    DISKS: disks.map((disk, index) => onDevice(disk, fill(diskXml, { ORDER: String(index + 1), FORMAT: disk.format, PATH: disk.path, TARGET: disk.target }))).join('').trimEnd(),
  });
  const xml = options.edit === undefined ? plain : options.edit(plain);
  const file = `/root/${options.name}.xml`;
  await host.writeFile(file, xml);
  const persistent = options.persistent ?? true;
  if (persistent) await host.run('virsh', ['define', file]);
  if (options.start ?? true) await host.run('virsh', persistent ? ['start', options.name] : ['create', file]);
  return new Guest(host, options.name, uuid, kind, disks.map(({ target, path, format }) => ({ target, path, format })), xml);
}

interface DiskPlan extends GuestDiskMade {
  readonly sizeMiB: number;
  readonly backing: boolean;
}

function describeDisk(guest: string, disk: GuestDisk, index: number): DiskPlan {
  const format = disk.format ?? 'raw';
  return {
    target: `vd${String.fromCharCode('a'.charCodeAt(0) + index)}`, format, sizeMiB: disk.sizeMiB ?? 64, backing: disk.backing ?? false,
    path: disk.path ?? `${IMAGES}/${guest}_${String(index)}.${format === 'raw' ? 'raw' : 'qcow2'}`,
  };
}

async function makeDisk(host: GuestHost, disk: DiskPlan, boot: string | undefined, kind: GuestKind): Promise<void> {
  if (isDevice(disk)) {
    await fillDevice(host, disk, boot, kind);
    return;
  }
  const raw = disk.format === 'raw' ? disk.path : `${disk.path}.tmp`;
  await host.run('sh', ['-c', 'mkdir -p "$(dirname "$1")"', 'sh', disk.path]);
  if (boot !== undefined) await host.run('cp', ['--sparse=always', boot, raw]);
  else {
    await host.run('truncate', [`--size=${String(disk.sizeMiB)}M`, raw]);
    if (kind === 'linux' && disk.target === 'vdb') await host.run('mkfs.ext4', ['-q', '-F', raw]);
  }
  if (disk.format === 'raw') return;
  if (disk.backing) {
    await host.run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, `${disk.path}.base`]);
    await host.run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', `${disk.path}.base`, '-F', 'qcow2', disk.path]);
  } else {
    await host.run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, disk.path]);
  }
  await host.run('rm', [raw]);
}

function onDevice(disk: DiskPlan, xml: string): string {
  return isDevice(disk) ? xml.replace("disk type='file'", "disk type='block'").replace('source file=', 'source dev=') : xml;
}

function isDevice({ path }: { readonly path: string }): boolean {
  return path.startsWith('/dev/');
}

async function fillDevice(host: GuestHost, { path, format, target, sizeMiB }: DiskPlan, boot: string | undefined, kind: GuestKind): Promise<void> {
  if (format === 'qcow2') await host.run('qemu-img', ['create', '-q', '-f', 'qcow2', path, `${String(boot === undefined ? sizeMiB : 8)}M`]);
  if (boot !== undefined) await host.run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', format, boot, path]);
  else if (format === 'raw' && kind === 'linux' && target === 'vdb') await host.run('mkfs.ext4', ['-q', '-F', path]);
}

/** Path of a boot disk for guests of that kind, built if it is not there or older than its sources. It must be visible in every host. */
async function bootImage(kind: GuestKind): Promise<string> {
  await mkdir(cacheDirectory(), { recursive: true });
  await using _only = await lock(cacheDirectory('build.lock'), 'the build of guests', 300);
  return kind === 'linux' ? await buildLinux() : await buildSector(kind);
}

async function buildSector(kind: 'sector' | 'sector-pair'): Promise<string> {
  const source = join(SOURCES, 'guest/sector.asm');
  const image = cacheDirectory(`${kind}.img`);
  if (await isNewer(image, source)) return image;
  await run('nasm', ['-f', 'bin', ...(kind === 'sector-pair' ? ['-D', 'PAIR'] : []), '-o', `${image}.new`, source]);
  await run('truncate', ['--size=8M', `${image}.new`]);
  await rename(`${image}.new`, image);
  return image;
}

/** Directory with `vmlinuz`, `initrd`, `linux.img` and the unpacked `packages`. */
export function linuxDirectory(): string {
  return cacheDirectory('linux');
}

/** Builds the Linux guest and unpacks its kernel; callers hold the build lock. Gives the boot disk. */
export async function buildLinux(): Promise<string> {
  const image = join(linuxDirectory(), 'linux.img');
  const sources = ['build-linux.sh', 'linux-init', 'linux-shutdown'].map((name) => join(SOURCES, 'guest', name));
  for (const source of sources) {
    if (await isNewer(image, source)) continue;
    await mkdir(linuxDirectory(), { recursive: true });
    await run(join(SOURCES, 'guest/build-linux.sh'), [linuxDirectory()], { timeoutMs: 300_000 });
    break;
  }
  return image;
}

async function isNewer(product: string, source: string): Promise<boolean> {
  const made = await stat(product).catch(() => undefined); // not built yet
  return made !== undefined && made.mtimeMs > (await stat(source)).mtimeMs;
}
