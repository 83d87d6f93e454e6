import { readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { start } from '../../src/system/run.js';
import { startTime } from '../../src/system/processes.js';
import { SOURCES } from './layout.js';

/** First processes of hosts: started, found by their command line, and killed together with everything below them. */

export const pause = (ms: number): Promise<void> => new Promise((resolve) => { setTimeout(resolve, ms); });

/** Polls until `look` gives a value; throws with what was waited for after `timeoutMs`. */
export async function until<T>(what: string, look: () => Promise<T | undefined> | T | undefined, timeoutMs = 30_000): Promise<T> {
  const end = Date.now() + timeoutMs;
  for (let wait = 10; ; wait = Math.min(wait * 1.5, 250)) {
    const found = await look();
    if (found !== undefined) return found;
    if (Date.now() > end) throw new Error(`waited ${String(timeoutMs / 1000)} s for ${what}`);
    await pause(wait);
  }
}

/** What a process looks like from outside its namespaces. */
export interface ProcessSeen {
  /** Number on the machine. */
  readonly pid: number;
  /** Number inside its host. */
  readonly inner: number;
  readonly argv: readonly string[];
  /** One letter, as in /proc/PID/stat: R, S, D, T, Z. */
  readonly state: string;
}

async function look(pid: string): Promise<ProcessSeen | undefined> {
  try {
    const [argv, status] = await Promise.all([readFile(`/proc/${pid}/cmdline`, 'utf8'), readFile(`/proc/${pid}/status`, 'utf8')]);
    const inner = /^NSpid:.*?(\d+)$/m.exec(status)?.[1] ?? pid;
    return { pid: Number(pid), inner: Number(inner), argv: argv.split('\0').slice(0, -1), state: /^State:\s+(\S)/m.exec(status)?.[1] ?? '?' };
  } catch {
    return undefined; // it ended while we looked
  }
}

/** All processes whose PID namespace is that of `init`, except zombies. */
export async function processesWith(init: number): Promise<ProcessSeen[]> {
  const namespace = await readlink(`/proc/${String(init)}/ns/pid`).catch(() => undefined); // powered off
  if (namespace === undefined) return [];
  const found: ProcessSeen[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    if (await readlink(`/proc/${pid}/ns/pid`).catch(() => undefined) !== namespace) continue; // ended, or elsewhere
    const seen = await look(pid);
    if (seen !== undefined && seen.state !== 'Z') found.push(seen);
  }
  return found;
}

const SCRIPTS = ['host-init.sh', 'switch-init.sh'] as const;

/**
 * First processes of the hosts (and of the switch) whose directories are `directory` or below it, with the `unshare` processes that wait for them.
 * Found by command line, whatever the lab's record says.
 */
export async function initsBelow(directory: string): Promise<{ readonly inits: readonly ProcessSeen[]; readonly waiters: readonly ProcessSeen[] }> {
  const inits: ProcessSeen[] = [];
  const waiters: ProcessSeen[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    const seen = await look(pid);
    if (seen === undefined || seen.state === 'Z') continue;
    const script = seen.argv.findIndex((word) => SCRIPTS.some((name) => word === join(SOURCES, name)));
    const subject = script === -1 ? undefined : seen.argv[script + 1];
    if (subject === undefined || (subject !== directory && !subject.startsWith(`${directory}/`))) continue;
    if (seen.argv[0]?.endsWith('unshare') === true) waiters.push(seen);
    else if (seen.inner === 1) inits.push(seen);
  }
  return { inits, waiters };
}

/** Starts a first process in namespaces of its own; gives its number on the machine. It survives us. */
export async function startInit(script: (typeof SCRIPTS)[number], directory: string, log: number): Promise<number> {
  const child = start('unshare', ['--fork', '--kill-child', '--pid', '--net', '--mount', '--uts', '--propagation', 'private',
    'env', '-i', 'LC_ALL=C.UTF-8', 'HOME=/root', 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    '/bin/sh', join(SOURCES, script), directory], { stdio: ['ignore', log, log], detached: true });
  let ended = false;
  child.once('exit', () => { ended = true; });
  child.once('error', () => { ended = true; });
  child.unref();
  return until(`the first process of ${directory}`, async () => {
    if (ended) throw new Error(`${script} ended at once; see ${directory}/init.log`);
    return (await initsBelow(directory)).inits.find((init) => init.argv.at(-1) === directory)?.pid;
  });
}

/** Kills first processes, and so all of their namespaces, and waits until nothing of them is left. */
export async function killInits(directory: string): Promise<number> {
  const { inits, waiters } = await initsBelow(directory);
  const all = await Promise.all([...inits, ...waiters].map(async (seen) => ({ pid: seen.pid, started: await startTime(seen.pid) })));
  for (const { pid } of [...inits, ...waiters]) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // it ended while we looked
    }
  }
  for (const { pid, started } of all) {
    if (started === undefined) continue;
    await until(`process ${String(pid)} of ${directory} to end`, async () => (await startTime(pid)) === started ? undefined : true, 20_000);
  }
  return inits.length;
}
