import { createHash } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { mkdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { lock } from '../../src/system/flock.js';
import { run, start, type RunOptions, type RunResult } from '../../src/system/run.js';
import { buildLinux, linuxDirectory } from './guest.js';
import { started, type LabHost, type SpawnOptions, type Started } from './host.js';
import { cacheDirectory, hostDirectory, SOURCES, type HostRecord } from './layout.js';
import { processesWith, until, type ProcessSeen } from './namespaces.js';
import { hardwareAddress, plugInTap, switchInit } from './network.js';
import { HOST_PATH, makeImage } from './prepare.js';

/**
 * A host that is a virtual machine (TCG): a kernel of its own, disks that lose at a power cut what was not synced, block devices that nobody else sees. Its programs
 * are the machine's, read-only over virtiofs. Reached by ssh like everybody else reaches it.
 */
export class VmHost implements LabHost {
  readonly name: string;
  readonly address: string;
  readonly directory: string;
  /** On the virtual machine only. */
  readonly steps = '/run/dr-steps';
  readonly #lab: string;

  constructor(lab: string, readonly record: HostRecord) {
    this.name = record.name;
    this.address = record.address;
    this.#lab = lab;
    this.directory = hostDirectory(lab, record.name);
  }

  async #processes(): Promise<readonly ProcessSeen[]> {
    return (await processesWith(await switchInit(this.#lab))).filter(({ argv }) => argv.includes(`lab-${this.name}`) || argv.includes(`--socket-path=${this.#socket}`));
  }

  /** Relative, since a socket's path must be short; of this lab alone, since virtiofsd takes a lock on the machine by this name. */
  get #socket(): string {
    return `${createHash('sha256').update(this.directory).digest('hex').slice(0, 12)}.sock`;
  }

  #disks(): readonly string[] {
    return (this.record.disks ?? []).map((_, index) => join(this.directory, `disk${String(index)}.img`));
  }

  /** One of the empty disks that the lab was brought up with, by a name that stays. */
  disk(index: number): string {
    return `/dev/disk/by-id/virtio-disk${String(index)}`;
  }

  async isUp(): Promise<boolean> {
    return (await this.#processes()).length > 0;
  }

  async boot(): Promise<void> {
    if (await this.isUp()) await this.powerCut();
    const images = await vmImages();
    const state = join(this.directory, 'state.img');
    if (await stat(state).catch(() => undefined) === undefined) { // the first boot
      const content = join(this.directory, 'state');
      await run('sh', ['-ec', 'cd "$1"; mkdir state; cp -a host.env bin etc etc-libvirt etc-dr var-lib-libvirt dr-engine log tmp home shared state/', 'sh', this.directory]);
      await makeImage(`${state}.new`, 2048, 'ext4', content);
      for (const [index, disk] of this.#disks().entries()) await run('truncate', [`--size=${String(this.record.disks?.[index])}M`, disk]);
      await rename(`${state}.new`, state);
      await rm(content, { recursive: true });
    }
    await plugInTap(this.#lab, this.name);
    const inside = ['nsenter', `--target=${String(await switchInit(this.#lab))}`, '--net', '--pid', '--'] as const;
    const [outer, ...words] = inside;
    const log = openSync(join(this.directory, 'init.log'), 'a');
    const console = join(this.directory, 'console.log');
    await rm(console, { force: true });
    try {
      const socket = this.#socket;
      await rm(join(this.directory, socket), { force: true });
      const share = start(outer, [...words, '/usr/lib/qemu/virtiofsd', `--socket-path=${socket}`, '-o', 'source=/', '-o', 'cache=always', '-o', 'sandbox=chroot'],
        { stdio: ['ignore', log, log], detached: true, cwd: this.directory });
      share.unref();
      await until('virtiofsd', async () => {
        if (share.exitCode !== null || share.signalCode !== null) throw new Error('virtiofsd ended at once');
        return stat(join(this.directory, socket)).catch(() => undefined); // not yet
      }, 90_000).catch(async (error: unknown) => { throw new Error(`${String(error)}\n${await this.#lastWords()}`); });
      const drive = (file: string): readonly string[] => ['-drive', `file=${file},format=raw,if=none,id=${basename(file, '.img')},cache=writeback,discard=unmap`,
        '-device', `virtio-blk-pci,drive=${basename(file, '.img')},serial=${basename(file, '.img')}`];
      const store = join(this.directory, 'store.img');
      const machine = start(outer, [...words, 'nice', '-n', '-5', 'qemu-system-x86_64', '-name', `lab-${this.name}`, '-machine', 'q35,accel=tcg,memory-backend=mem', '-cpu', 'qemu64', '-smp', '1', '-m', '1536M',
        '-object', 'memory-backend-memfd,id=mem,size=1536M,share=on', '-nodefaults', '-no-user-config', '-display', 'none', '-serial', `file:${console}`,
        '-kernel', images.kernel, '-initrd', images.initrd, '-append', `console=ttyS0 quiet mitigations=off panic=-1 net.ifnames=0 lab.boot=${join(SOURCES, 'vm/boot.sh')}`,
        '-chardev', `socket,id=fs,path=${socket}`, '-device', 'vhost-user-fs-pci,chardev=fs,tag=machine',
        ...drive(state), ...(await stat(store).then(() => drive(store), () => [])), ...this.#disks().flatMap(drive),
        '-netdev', `tap,id=net,ifname=${this.name},script=no,downscript=no`, '-device', `virtio-net-pci,netdev=net,romfile=,mac=${hardwareAddress(this.address)}`,
        '-device', 'virtio-rng-pci', '-no-reboot'], { stdio: ['ignore', log, log], detached: true, cwd: this.directory });
      machine.unref();
    } finally {
      closeSync(log);
    }
    await until(`virtual machine ${this.name} to boot (see ${console})`, async () => {
      if ((await readFile(console, 'utf8').catch(() => '')).includes('LAB HOST IS UP')) return true;
      return undefined;
    }, 120_000);
    await until(`sshd of ${this.name}`, async () => (await this.run('true', [], { okExit: [0, 255], timeoutMs: 30_000 })).exitCode === 0 ? true : undefined);
  }

  /** What virtiofsd and QEMU have said last. */
  async #lastWords(): Promise<string> {
    return (await readFile(join(this.directory, 'init.log'), 'utf8').catch(() => '')).trim().split('\n').slice(-10).join('\n');
  }

  /** QEMU is killed: what the host had not synced is lost. */
  async powerCut(): Promise<void> {
    for (const { pid } of await this.#processes()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // virtiofsd ends by itself when QEMU does
      }
    }
    await until(`${this.name} to be off`, async () => await this.isUp() ? undefined : true);
    await rm(join(this.directory, 'ssh'), { force: true });
  }

  /** Program and arguments on the machine that run a program in the virtual machine. */
  async enter(program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<readonly [string, ...string[]]> {
    const variables = { PATH: HOST_PATH, HOME: '/root', USER: 'root', LOGNAME: 'root', LC_ALL: 'C.UTF-8', ...env };
    const words = ['env', '-i', ...Object.entries(variables).map(([name, value]) => `${name}=${value}`), program, ...args];
    return ['nsenter', `--target=${String(await switchInit(this.#lab))}`, '--net', '--pid', '--', 'env', `--chdir=${this.directory}`, 'ssh', '-F', 'none',
      '-i', join(this.#lab, 'keys/root'), '-o', `UserKnownHostsFile=${join(this.directory, 'home/.ssh/known_hosts')}`, '-o', 'BatchMode=yes', '-o', 'LogLevel=ERROR',
      '-o', 'ControlMaster=auto', '-o', 'ControlPath=ssh', '-o', 'ControlPersist=yes', '-o', 'ConnectTimeout=20', `root@${this.address}`, words.map(quote).join(' ')];
  }

  async run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const { env, ...rest } = options;
    const [outer, ...words] = await this.enter(program, args, env);
    return run(outer, words, rest);
  }

  async spawn(program: string, args: readonly string[], options: SpawnOptions = {}): Promise<Started> {
    const mark = `/run/started.${process.hrtime.bigint().toString(36)}`;
    const [outer, ...words] = await this.enter('sh', ['-c', 'echo $$ > "$0"; exec "$@"', mark, program, ...args], options.env);
    const child = start(outer, words, { stdio: [options.stdin ?? 'ignore', 'pipe', 'pipe'] });
    return started(child, async () => {
      const pid = Number((await this.run('cat', [mark], { okExit: [0, 1] })).stdout.trim());
      return pid > 0 ? pid : undefined;
    }, (pid, signal) => this.kill(pid, signal));
  }

  async writeFile(path: string, content: string, mode = 0o644): Promise<void> {
    await this.run('sh', ['-c', 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"', 'sh', path, mode.toString(8)], { input: content });
  }

  async readFile(path: string): Promise<string> {
    return (await this.run('cat', ['--', path])).stdout;
  }

  async exists(path: string): Promise<boolean> {
    return (await this.run('test', ['-e', path], { okExit: [0, 1] })).exitCode === 0;
  }

  async processes(): Promise<readonly ProcessSeen[]> {
    // Two programs for all processes: each one takes its time under emulation.
    const { stdout } = await this.run('sh', ['-c', 'cd /proc; grep -Haz "" [0-9]*/cmdline 2>/dev/null; grep -Hz "^.*) [A-Z] " [0-9]*/stat 2>/dev/null'], { okExit: [0, 1, 2] });
    const argv = new Map<number, string[]>();
    const states = new Map<number, string>();
    for (const item of stdout.split('\0')) {
      const match = /^\n?(\d+)\/(cmdline|stat):([\s\S]*)$/.exec(item);
      if (match === null) continue;
      const pid = Number(match[1]);
      if (match[2] === 'cmdline') argv.set(pid, [...argv.get(pid) ?? [], match[3] ?? '']);
    }
    for (const [, pid, state] of stdout.matchAll(/^\0?(\d+)\/stat:.*\) ([A-Z]) /gm)) states.set(Number(pid), state ?? '?');
    return [...argv].filter(([pid]) => states.get(pid) !== 'Z').map(([pid, words]) => ({ pid, inner: pid, argv: words, state: states.get(pid) ?? '?' }));
  }

  async kill(inner: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.run('sh', ['-c', 'kill -s "$1" "$2"', 'sh', signal.replace(/^SIG/, ''), String(inner)], { okExit: [0, 1] });
  }
}

function quote(word: string): string {
  return /^[A-Za-z0-9_./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Kernel and initrd of virtual machines, built if they are not there or older than their sources. */
async function vmImages(): Promise<{ readonly kernel: string; readonly initrd: string }> {
  await mkdir(cacheDirectory(), { recursive: true });
  await using _only = await lock(cacheDirectory('build.lock'), 'the build of guests', 300);
  await buildLinux();
  const initrd = join(linuxDirectory(), 'vm-initrd');
  const made = await stat(initrd).catch(() => undefined); // not built yet
  const sources = await Promise.all([...['build-initrd.sh', 'init'].map((name) => join(SOURCES, 'vm', name)), join(linuxDirectory(), 'vmlinuz')].map((path) => stat(path)));
  if (made === undefined || sources.some(({ mtimeMs }) => mtimeMs >= made.mtimeMs)) await run(join(SOURCES, 'vm/build-initrd.sh'), [linuxDirectory()], { timeoutMs: 120_000 });
  return { kernel: join(linuxDirectory(), 'vmlinuz'), initrd };
}
