import type { ChildProcess } from 'node:child_process';
import { openSync, closeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { join } from 'node:path';
import { run, start, type RunOptions, type RunResult } from '../../src/system/run.js';
import { hostDirectory, type HostRecord } from './layout.js';
import { initsBelow, killInits, processesWith, startInit, until, type ProcessSeen } from './namespaces.js';
import { freshBoot, HOST_PATH } from './prepare.js';
import { plugIn } from './network.js';

/** What tests can do with a host of the lab, whether it is made of namespaces or a virtual machine. */
export interface LabHost {
  readonly name: string;
  readonly address: string;
  /** Where the fault tests' step files of this host are, on the machine and in the host. */
  readonly steps: string;
  /** Runs a program to its end, in root's home; its environment is the host's, not the test's. Throws as system/run does. */
  run(program: string, args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** Starts a program and collects what it prints. */
  spawn(program: string, args: readonly string[], options?: SpawnOptions): Promise<Started>;
  /** `path` as the host sees it; parents are made. */
  writeFile(path: string, content: string, mode?: number): Promise<void>;
  readFile(path: string): Promise<string>;
  exists(path: string): Promise<boolean>;
  /** All processes, by their numbers inside the host. */
  processes(): Promise<readonly ProcessSeen[]>;
  /** Sends a signal to a process, by its number inside the host. A process that is gone is fine. */
  kill(inner: number, signal?: NodeJS.Signals): Promise<void>;
  /** Everything of the host ends at once; its disks stay. */
  powerCut(): Promise<void>;
  isUp(): Promise<boolean>;
  /** Program and arguments on the machine that run a program in the host. */
  enter(program: string, args: readonly string[], env?: Readonly<Record<string, string>>): Promise<readonly [string, ...string[]]>;
  /** Boots again after a power cut, or reboots. */
  boot(): Promise<void>;
}

/** What guests and captures need of a host. */
export type GuestHost = Pick<LabHost, 'name' | 'run' | 'spawn' | 'writeFile' | 'readFile'>;

export interface SpawnOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: 'ignore' | 'pipe';
}

/** A program that runs in a host. */
export interface Started {
  /** Its number inside the host. */
  readonly pid: number;
  readonly child: ChildProcess;
  /** What it has printed so far. */
  stdout(): string;
  stderr(): string;
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Its exit status; a signal's number plus 128 if one ended it. */
  readonly exit: Promise<number>;
}

/** A host made of namespaces. */
export class Host implements LabHost {
  readonly name: string;
  readonly address: string;
  readonly directory: string;
  readonly steps: string;
  readonly #lab: string;
  #init: number | undefined;

  constructor(lab: string, readonly record: HostRecord) {
    this.name = record.name;
    this.address = record.address;
    this.#lab = lab;
    this.directory = hostDirectory(lab, record.name);
    this.steps = join(this.directory, 'steps');
  }

  /** Number of the host's first process on the machine. Throws if the host is powered off. */
  async init(): Promise<number> {
    if (this.#init !== undefined) return this.#init;
    const [init] = (await initsBelow(this.directory)).inits;
    if (init === undefined) throw new Error(`host ${this.name} is powered off`);
    this.#init = init.pid;
    return init.pid;
  }

  async isUp(): Promise<boolean> {
    return (await initsBelow(this.directory)).inits.length > 0;
  }

  async boot(): Promise<void> {
    if (await this.isUp()) await this.powerCut();
    await freshBoot(this.#lab, this.name);
    const log = openSync(join(this.directory, 'init.log'), 'a');
    try {
      this.#init = await startInit('host-init.sh', this.directory, log);
    } finally {
      closeSync(log);
    }
    const init = this.#init;
    await plugIn(this.#lab, this.name, this.address, init);
    await until(`host ${this.name} to boot (see ${this.directory}/init.log)`, async () => {
      if (await readFile(join(this.directory, 'ready')).then(() => true, () => false)) return true;
      if (await this.isUp()) return undefined;
      throw new Error(`host ${this.name} died while booting:\n${await readFile(join(this.directory, 'init.log'), 'utf8')}`);
    }, 60_000);
  }

  async powerCut(): Promise<void> {
    this.#init = undefined;
    await killInits(this.directory);
    // The kernel unmounts in the background; until then another boot must not mount the same image.
    const store = join(this.directory, 'store.img');
    await until(`the disks of ${this.name} to be let go`, async () =>
      (await run('losetup', ['--associated', store])).stdout.trim() === '' ? true : undefined);
  }

  /** Program and arguments on the machine that run a program in the host. */
  async enter(program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<readonly [string, ...string[]]> {
    const variables = { PATH: HOST_PATH, HOME: '/root', USER: 'root', LOGNAME: 'root', LC_ALL: 'C.UTF-8', ...env };
    return ['nsenter', `--target=${String(await this.init())}`, '--mount', '--root', '--uts', '--net', '--pid', '--',
      'setpriv', '--pdeathsig', 'KILL', // a test that gives up takes with it what it started
      'env', '--ignore-environment', '--chdir=/root', ...Object.entries(variables).map(([name, value]) => `${name}=${value}`), program, ...args];
  }

  async run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const { env, ...rest } = options;
    const [outer, ...words] = await this.enter(program, args, env);
    return run(outer, words, rest);
  }

  async spawn(program: string, args: readonly string[], options: SpawnOptions = {}): Promise<Started> {
    const [outer, ...words] = await this.enter(program, args, options.env);
    const child = start(outer, words, { stdio: [options.stdin ?? 'ignore', 'pipe', 'pipe'] });
    return started(child, async () => {
      const children = await readFile(`/proc/${String(child.pid)}/task/${String(child.pid)}/children`, 'utf8').catch(() => '');
      const outside = Number(children.trim().split(' ')[0]);
      if (!(outside > 0)) return undefined;
      const all = await processesWith(await this.init());
      return all.find(({ pid }) => pid === outside)?.inner;
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
    return processesWith(await this.init());
  }

  async kill(inner: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const seen = (await this.processes()).find((each) => each.inner === inner);
    if (seen === undefined) return;
    try {
      process.kill(seen.pid, signal);
    } catch {
      // it ended while we looked
    }
  }
}

/** Wraps a child that runs a program in a host; `find` asks for the program's number there. */
export async function started(child: ChildProcess, find: () => Promise<number | undefined>,
  kill: (pid: number, signal?: NodeJS.Signals) => Promise<void>): Promise<Started> {
  const out: string[] = [];
  const err: string[] = [];
  child.stdout?.setEncoding('utf8').on('data', (text: string) => out.push(text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => err.push(text));
  const exit = new Promise<number>((resolve) => {
    child.once('close', (code, signal) => { resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])); });
    child.once('error', () => { resolve(127); });
  });
  const ended = exit.then(() => 0);
  const pid = await until('a program to start', async () => (await Promise.race([find(), ended])));
  return { pid, child, exit, stdout: () => out.join(''), stderr: () => err.join(''), kill: (signal) => kill(pid, signal) };
}
