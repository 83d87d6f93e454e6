import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { run, start } from '../../src/system/run.js';
import type { Host, Started } from '../lab/host.js';
import { started } from '../lab/host.js';
import { pause } from '../lab/namespaces.js';

/**
 * Everything that is measured runs in a control group, at either end of the link: its processor time is exact, and its processes are easily
 * found to look at their memory.
 */

const [GROUP, USAGE] = existsSync('/sys/fs/cgroup/cgroup.controllers')
  ? [`/sys/fs/cgroup/dr-bench-${String(process.pid)}`, 'cpu.stat'] as const
  : [`/sys/fs/cgroup/cpuacct/dr-bench-${String(process.pid)}`, 'cpuacct.usage'] as const;

const LOOK_MS = 100;

export class Processes implements AsyncDisposable {
  /** What is started by these hosts' sshd belongs to the group too. */
  static async watch(hosts: readonly Host[]): Promise<Processes> {
    await mkdir(GROUP);
    for (const host of hosts) {
      for (const { pid, argv } of await host.processes()) {
        if (argv[0]?.includes('sshd') === true) await writeFile(`${GROUP}/cgroup.procs`, String(pid));
      }
    }
    return new Processes();
  }

  /** Runs a program on a host, in the group. Throws as system/run does. */
  async run(host: Host, program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
    const [outer, ...words] = await inGroup(host, program, args, env);
    return (await run(outer, words, { timeoutMs: 900_000 })).stdout;
  }

  async spawn(host: Host, program: string, args: readonly string[]): Promise<Started> {
    const [outer, ...words] = await inGroup(host, program, args);
    const child = start(outer, words, { stdio: ['pipe', 'pipe', 'pipe'] });
    return started(child, () => Promise.resolve(child.pid), () => Promise.resolve(void child.kill()));
  }

  /** Processor seconds of the group so far. */
  async cpuSeconds(): Promise<number> {
    const text = await readFile(`${GROUP}/${USAGE}`, 'utf8');
    const micros = /^usage_usec (\d+)/m.exec(text)?.[1];
    return micros === undefined ? Number(text) / 1e9 : Number(micros) / 1e6;
  }

  /** Does something and says how much memory each kind of process had meanwhile, at most, in bytes. `fresh`: only of processes that it started. */
  async peaksDuring<T>(act: () => Promise<T>, fresh: boolean): Promise<{ readonly value: T; readonly peaks: Readonly<Record<string, number>> }> {
    const peaks: Record<string, number> = {};
    const before = new Set(fresh ? await pids() : []);
    let over = false;
    const watching = (async () => {
      while (!over) {
        await look(peaks, before);
        await pause(LOOK_MS);
      }
    })();
    try {
      return { value: await act(), peaks };
    } finally {
      over = true;
      await watching;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rmdir(GROUP).catch(() => undefined); // who is still in it keeps it; the next boot does without
  }
}

async function inGroup(host: Host, program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<readonly [string, ...string[]]> {
  return ['sh', '-c', 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', 'sh', GROUP, ...await host.enter(program, args, env)];
}

async function pids(): Promise<readonly string[]> {
  return (await readFile(`${GROUP}/cgroup.procs`, 'utf8')).split('\n').filter((pid) => pid !== '');
}

async function look(peaks: Record<string, number>, but: ReadonlySet<string>): Promise<void> {
  await Promise.all((await pids()).map(async (pid) => {
    if (but.has(pid)) return;
    try {
      const [argv, status] = await Promise.all([readFile(`/proc/${pid}/cmdline`, 'utf8'), readFile(`/proc/${pid}/status`, 'utf8')]);
      const kind = kindOf(argv.split('\0'));
      if (kind !== '') peaks[kind] = Math.max(peaks[kind] ?? 0, Number(/^VmHWM:\s*(\d+)/m.exec(status)?.[1] ?? '0') * 1024);
    } catch {
      // it ended while we looked
    }
  }));
}

function kindOf(argv: readonly string[]): string {
  if (argv.includes('--send')) return 'sender';
  if (argv.includes('--receive') && argv[0]?.endsWith('node') === true) return 'receiver';
  if (argv.includes('--guard')) return 'guard';
  if (argv.at(-2) === 'agent' && argv[0]?.endsWith('node') === true) return 'agent';
  if (argv.some((word) => word.endsWith('bench/mover.js'))) return 'head';
  return basename((argv[0] ?? '').split(' ')[0] ?? '').replace(/:$/, '');
}
