import { mkdir, readdir, rm, rmdir, writeFile } from 'node:fs/promises';
import { closeSync, openSync } from 'node:fs';
import { basename, join } from 'node:path';
import { lock, type Lock } from '../../src/system/flock.js';
import { run, start } from '../../src/system/run.js';
import { startTime } from '../../src/system/processes.js';
import { detachBelow, driveImage, makeDrive, type DriveOptions } from './drives.js';
import { makeGuest, type Guest, type GuestOptions } from './guest.js';
import { Host, type LabHost } from './host.js';
import { cacheDirectory, CHECKOUT, labDirectory, readRecord, sandbox, writeRecord, type DriveRecord, type HostRecord, type LabRecord, type Role } from './layout.js';
import { initsBelow, killInits, startInit, until } from './namespaces.js';
import { cut, restore, slow, switchDirectory } from './network.js';
import { makeKeys, prepareHost, type StoreOptions } from './prepare.js';
import { VmHost } from './vm-host.js';

/** A lab: real hosts with their own sshd and libvirtd, made of namespaces. See README.md. */

export interface LabOptions {
  /** Default `main`. Labs of different names don't know of each other. */
  readonly name?: string;
  /** Names that begin with `dr` are targets, with `head` heads (no libvirt), all others nodes. Default: node01, node02, dr01. */
  readonly hosts?: readonly string[];
  /** Which of them are virtual machines with a kernel of their own; they take some seconds to boot. */
  readonly virtual?: readonly string[];
  /** Empty disks of virtual machines, by host, in MiB; see `VmHost.disk`. */
  readonly disks?: Readonly<Record<string, readonly number[]>>;
  /** The targets' store file system. */
  readonly store?: StoreOptions;
  /** The lab outlives this process; for labs that people use by hand. */
  readonly keep?: boolean;
}

export const DEFAULT_HOSTS = ['node01', 'node02', 'dr01'] as const;

const NEEDED = ['unshare', 'nsenter', 'setpriv', 'ip', 'tc', 'losetup', 'ssh', 'ssh-keygen', 'mkfs.ext4', 'virsh', 'qemu-system-x86_64'] as const;
const NEEDED_SBIN = ['/usr/sbin/sshd', '/usr/sbin/libvirtd', '/usr/sbin/virtlogd'] as const;

export class Lab {
  readonly name: string;
  readonly directory: string;
  #record: LabRecord;
  readonly #hosts: ReadonlyMap<string, Host>;
  readonly #virtual: ReadonlyMap<string, VmHost>;

  private constructor(directory: string, record: LabRecord) {
    this.name = record.name;
    this.directory = directory;
    this.#record = record;
    this.#hosts = new Map(record.hosts.filter(({ virtual }) => virtual !== true).map((host) => [host.name, new Host(directory, host)]));
    this.#virtual = new Map(record.hosts.filter(({ virtual }) => virtual === true).map((host) => [host.name, new VmHost(directory, host)]));
  }

  /** Why there can be no lab here, for tests that skip; undefined if there can. */
  static async impossible(): Promise<string | undefined> {
    if (process.getuid?.() !== 0) return 'a lab needs root';
    for (const program of [...NEEDED, ...NEEDED_SBIN]) {
      const found = await run('sh', ['-c', 'PATH=$PATH:/usr/sbin:/sbin command -v "$1"', 'sh', program], { okExit: [0, 1, 127] });
      if (found.exitCode !== 0) return `a lab needs ${program} (scripts/setup.sh installs what is missing)`;
    }
    return undefined;
  }

  /** Why there can be no virtual machines in a lab here; undefined if there can. */
  static async impossibleVirtual(): Promise<string | undefined> {
    for (const program of ['/usr/lib/qemu/virtiofsd', 'lvs', 'thin_delta', '/lib/systemd/systemd-udevd']) {
      const found = await run('sh', ['-c', 'PATH=$PATH:/usr/sbin:/sbin command -v "$1"', 'sh', program], { okExit: [0, 1, 127] });
      if (found.exitCode !== 0) return `virtual machines with LVM need ${program} (scripts/setup.sh installs what is missing)`;
    }
    return undefined;
  }

  /**
   * Brings up a lab. What is left of an earlier one of that name is taken down first; one that is in use is an error.
   * Unless `keep` is set the lab is taken down when this process ends, however it ends.
   */
  static async up(options: LabOptions = {}): Promise<Lab> {
    const name = options.name ?? 'main';
    const directory = labDirectory(name);
    await using _only = await lockLab(name);
    const old = await readRecord(directory);
    if (old !== undefined && (await initsBelow(directory)).inits.length > 0 && (old.owner === undefined || await isAlive(old.owner))) {
      throw new Error(`the lab ${name} is up already, ${old.owner === undefined ? `started by hand (npm run lab -- down --name ${name})` : `used by process ${String(old.owner.pid)}`}`);
    }
    await takeDown(directory);

    const hosts = (options.hosts ?? DEFAULT_HOSTS).map((host, index): HostRecord => ({ name: host, role: roleOf(host), address: `10.77.0.${String(11 + index)}`,
      ...(options.virtual?.includes(host) === true ? { virtual: true, disks: options.disks?.[host] ?? [] } : {}) }));
    const record: LabRecord = { name, hosts, drives: [], ...(options.keep === true ? {} : { owner: await myself() }) };
    await mkdir(switchDirectory(directory), { recursive: true, mode: 0o700 });
    await writeRecord(directory, record);
    const lab = new Lab(directory, record);
    if (options.keep !== true) lab.#takeDownAfterUs();
    try {
      await makeKeys(directory);
      await Promise.all([lab.#startSwitch(), ...hosts.map((host) => prepareHost(directory, host, hosts, options.store ?? {}))]);
      await Promise.all([...lab.#hosts.values(), ...lab.#virtual.values()].map((host) => host.boot()));
    } catch (error) {
      await killInits(directory);
      throw error;
    }
    return lab;
  }

  /** A lab that is up already. */
  static async attach(name = 'main'): Promise<Lab> {
    const directory = labDirectory(name);
    const record = await readRecord(directory);
    if (record === undefined || (await initsBelow(switchDirectory(directory))).inits.length === 0) {
      throw new Error(`there is no lab ${name}; start it with: npm run lab -- up --name ${name}`);
    }
    return new Lab(directory, record);
  }

  /** Takes down the lab of that name, in whatever state it is. Safe twice. */
  static async down(name = 'main'): Promise<void> {
    await using _only = await lockLab(name);
    await takeDown(labDirectory(name));
  }

  /** Names of labs of which anything is there. */
  static async all(): Promise<readonly string[]> {
    const entries = await readdir(sandbox(), { withFileTypes: true }).catch(() => []); // nothing was ever started
    return entries.filter((entry) => entry.isDirectory() && entry.name.startsWith('lab-')).map((entry) => entry.name.slice(4)).sort();
  }

  get hosts(): readonly Host[] {
    return [...this.#hosts.values()];
  }

  host(name: string): Host {
    const host = this.#hosts.get(name);
    if (host === undefined) throw new Error(`the lab ${this.name} has no host ${name}, only ${[...this.#hosts.keys()].join(', ')}`);
    return host;
  }

  /** A host that is a virtual machine. */
  vm(name: string): VmHost {
    const host = this.#virtual.get(name);
    if (host === undefined) throw new Error(`the lab ${this.name} has no virtual machine ${name}`);
    return host;
  }

  /** A host of either kind, for what both can do. */
  any(name: string): LabHost {
    return this.#virtual.get(name) ?? this.host(name);
  }

  async down(): Promise<void> {
    await Lab.down(this.name);
  }

  /** Makes a guest on a host, and starts it unless told otherwise. */
  async addGuest(host: string, options: GuestOptions): Promise<Guest> {
    return makeGuest(this.any(host), options);
  }

  /** Pulls a host's network cable. */
  async cut(host: string): Promise<void> {
    await cut(this.directory, this.any(host).name);
  }

  /** Puts the cable back, at full speed. */
  async restore(host: string): Promise<void> {
    await restore(this.directory, host, await this.#init(host));
  }

  /** Limits a host's link both ways: `10mbit`. */
  async slow(host: string, rate: string): Promise<void> {
    await slow(this.directory, host, await this.#init(host), rate);
  }

  /** Gives a host a drive of its own, formatted, not mounted, and names it in the host's /etc/dr/devices; gives the device. */
  async addDrive(host: string, options: DriveOptions = {}): Promise<string> {
    const image = driveImage(this.host(host).directory, this.#record.drives.length);
    const device = await makeDrive(image, options);
    await this.#recordDrives([...this.#record.drives, { host, device, image }]);
    return device;
  }

  /**
   * `readonly`: its file system turns read-only under whoever uses it; `detach`: every access to the device fails, and its content is gone for good.
   */
  async breakDrive(host: string, device: string, how: 'readonly' | 'detach'): Promise<void> {
    const drive = this.#record.drives.find((each) => each.host === host && each.device === device);
    if (drive === undefined) throw new Error(`${host} has no drive ${device}`);
    switch (how) {
      case 'readonly': {
        const { stdout } = await this.host(host).run('findmnt', ['--noheadings', '--output', 'FSTYPE,TARGET', '--source', device], { okExit: [0, 1] });
        const mounts = stdout.split('\n').filter((line) => line !== '').map((line) => line.split(/\s+/));
        if (mounts.length === 0) throw new Error(`${device} is not mounted on ${host}`);
        for (const [fs = '', place = ''] of mounts) {
          // What ext4 itself does when a drive fails, open files or not; other file systems are asked to.
          if (fs === 'ext4') await writeFile(`/sys/fs/ext4/${basename(device)}/trigger_fs_error`, 'the lab broke this drive\n');
          else await this.host(host).run('mount', ['-o', 'remount,ro', place]);
        }
        return;
      }
      case 'detach':
        // A loop device in use is only detached lazily; shrinking its file to nothing makes every access fail now.
        await run('truncate', ['--size=0', drive.image]);
        await run('losetup', ['--set-capacity', device]);
        return;
    }
  }

  async #init(host: string): Promise<number | undefined> {
    return this.#virtual.has(host) ? undefined : this.host(host).init();
  }

  async #recordDrives(drives: readonly DriveRecord[]): Promise<void> {
    this.#record = { ...this.#record, drives };
    await writeRecord(this.directory, this.#record);
    for (const host of this.#hosts.values()) {
      const own = drives.filter((drive) => drive.host === host.name).map((drive) => `${drive.device}\n`).join('');
      await host.writeFile('/etc/dr/devices', own);
    }
  }

  async #startSwitch(): Promise<void> {
    const directory = switchDirectory(this.directory);
    const log = openSync(join(directory, 'init.log'), 'a');
    try {
      await startInit('switch-init.sh', directory, log);
    } finally {
      closeSync(log);
    }
    await until('the switch', async () => (await readdir(directory)).includes('ready') ? true : undefined);
  }

  /** A child that outlives us takes the lab down when its standard input ends, which it does however we end. */
  #takeDownAfterUs(): void {
    const program = join(CHECKOUT, 'build/test/lab/main.js');
    const child = start('sh', ['-c', 'cat > /dev/null; exec "$0" "$1" down --name "$2" --owner "$3"', process.execPath, program, this.name, String(process.pid)],
      { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
    child.unref();
    const pipe = child.stdin;
    if (pipe !== null && 'unref' in pipe && typeof pipe.unref === 'function') pipe.unref();
  }
}

/** Held while a lab comes up or goes down. */
async function lockLab(name: string): Promise<Lock> {
  return lock(cacheDirectory('locks', `${name}.lock`), `the lab ${name}`, 60);
}

/** Removes what was built for labs, and the sandbox if nothing else is in it. Does nothing while there is any lab. */
export async function forgetBuilt(): Promise<void> {
  if ((await Lab.all()).length > 0) return;
  await rm(cacheDirectory(), { recursive: true, force: true });
  await rmdir(sandbox()).catch(() => undefined); // it is gone, or somebody keeps something there
}

/** Kills what runs, detaches what is attached, removes the directory. Safe twice and after any crash. */
async function takeDown(directory: string): Promise<void> {
  await killInits(directory);
  await detachBelow(directory);
  await rm(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}

function roleOf(host: string): Role {
  if (host.startsWith('dr')) return 'target';
  return host.startsWith('head') ? 'head' : 'node';
}

async function myself(): Promise<NonNullable<LabRecord['owner']>> {
  return { pid: process.pid, startTime: await startTime(process.pid) ?? '' };
}

async function isAlive(owner: NonNullable<LabRecord['owner']>): Promise<boolean> {
  return await startTime(owner.pid) === owner.startTime;
}
