import { lstat, rmdir } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { DrError } from '../model/errors.js';
import type { Debt } from '../model/obligation.js';
import { hasCode } from '../system/durable.js';
import { listMounts, mountAt, sameSource, unmount } from '../system/mounts.js';
import { bootId, isRunningWith, startTime } from '../system/processes.js';
import { run } from '../system/run.js';
import { stateDirectory } from '../system/state.js';
import { abortJob, backupSocket, backupXml, domainPausedReason, domainState, frozen, jobActive, resumeDomain, SUSPEND, thaw } from '../system/virsh.js';
import type { DomainRef } from './owing.js';

/** How each kind of debt is paid, except starts. Every payment looks at the host first and may be made twice, late, or after somebody else made it. */

export type Outcome =
  | { readonly kind: 'settled'; readonly how: string }
  /** Nothing is wrong: it is not yet time. The debt may know more than before. */
  | { readonly kind: 'waiting'; readonly why: string; readonly debt?: Debt }
  | { readonly kind: 'stuck'; readonly why: string; readonly debt?: Debt };

type Of<K extends Debt['kind']> = Extract<Debt, { readonly kind: K }>;

const settled = (how: string): Outcome => ({ kind: 'settled', how });
const stuck = (why: string): Outcome => ({ kind: 'stuck', why });
const pause = (ms: number): Promise<void> => new Promise((done) => { setTimeout(done, ms); });

/** Kills a process of ours, and no other that has its number now. */
export async function payKill(debt: Of<'kill'>): Promise<Outcome> {
  if (debt.bootId !== await bootId()) return settled('the host was booted since');
  const there = async (): Promise<boolean> => await startTime(debt.pid) === debt.startTime;
  if (!await there()) return settled('it has ended');
  try {
    process.kill(debt.pid, 'SIGKILL');
  } catch (error) {
    if (!hasCode(error, 'ESRCH')) throw error; // ended between looking and killing
  }
  for (let waited = 0; waited < 3_000; waited += 20) {
    if (!await there()) return settled('killed');
    await pause(20);
  }
  return stuck(`${debt.what} (PID ${String(debt.pid)}) was killed but does not end: it waits for a device that does not answer`);
}

/** Thaws a guest's file systems. A guest that does not run has none. */
export async function payThaw(debt: Of<'thaw'>): Promise<Outcome> {
  if (!await isActive(debt.uri, debt.uuid)) return settled('the server does not run here');
  try {
    await thaw(debt.uri, debt.uuid);
  } catch (error) {
    if (!await isActive(debt.uri, debt.uuid)) return settled('the server has ended');
    if (await frozen(debt.uri, debt.uuid).catch(() => undefined) === false) return settled('nothing is frozen');
    throw error;
  }
  return settled('thawed');
}

/** How long a suspension that a dead agent asked for may still be on its way, in milliseconds. */
const UNDER_WAY_MS = 5_000;

/** Lets a guest run on that we suspended: that very QEMU process, and only if nothing else is a reason for it to stand still. */
export async function payResume(debt: Of<'resume'>): Promise<Outcome> {
  const gone = async (): Promise<boolean> => debt.bootId !== await bootId() || await startTime(debt.pid) !== debt.startTime;
  if (await gone()) return settled('that guest has ended');
  for (let waited = 0; await isRunningWith([SUSPEND, `--domain=${debt.uuid}`]); waited += 100) {
    if (waited >= UNDER_WAY_MS) return stuck(`${debt.server} is just being suspended`);
    await pause(100);
  }
  const reason = await domainPausedReason(debt.uri, debt.uuid);
  if (reason === undefined) return settled('it runs');
  if (reason !== 'user' && reason !== 'unknown') return settled(`it is paused by something else: ${reason}`);
  await resumeDomain(debt.uri, debt.uuid);
  return await gone() ? settled('that guest has ended') : settled('resumed');
}

async function isActive(uri: string, uuid: string): Promise<boolean> {
  const state = (await domainState(uri, uuid))?.state;
  return state !== undefined && state !== 'shut off';
}

/** How long an aborted backup job may take to end, in milliseconds. */
const ABORT_MS = 10_000;

/**
 * Aborts our backup job, known by its socket, waits for its end, and resumes a guest that an I/O error paused meanwhile: that is what a
 * full scratch place does. Any other job, a migration above all, is somebody else's and is left alone.
 */
export async function payBackup(debt: Of<'backup'>): Promise<Outcome> {
  if (!await isActive(debt.uri, debt.uuid)) return settled('the server does not run here');
  const ours = async (): Promise<boolean> => {
    const xml = await backupXml(debt.uri, debt.uuid);
    return xml !== undefined && await backupSocket(xml) === debt.socket;
  };
  let how = 'the job had ended';
  if (await ours()) {
    await abortJob(debt.uri, debt.uuid);
    for (let waited = 0; await ours(); waited += 200) {
      if (waited >= ABORT_MS) return stuck(`the backup job of ${debt.server} was aborted but does not end: its scratch place may hang`);
      await pause(200);
    }
    how = 'aborted';
  }
  return settled(await resumeStarved(debt, how));
}

/** Resumes a guest that an I/O error paused: that is what a full scratch place or pool does. Says what was done, after `how`. */
export async function resumeStarved(domain: DomainRef, how: string): Promise<string> {
  const reason = await domainPausedReason(domain.uri, domain.uuid);
  if (reason === undefined || !/i\/o error/i.test(reason)) return how;
  const job = await jobActive(domain.uri, domain.uuid);
  if (job !== undefined) return `${how}; the server is paused, but ${job} of somebody else runs`;
  await resumeDomain(domain.uri, domain.uuid);
  return `${how}; resumed`;
}

/** Unmounts what we mounted: only if exactly that is what is mounted there, on top. */
export async function payUnmount(debt: Of<'unmount'>): Promise<Outcome> {
  let how = 'it is not mounted';
  for (let attempt = 0; ; attempt += 1) {
    const top = await mountAt(debt.mountPoint);
    if (top === undefined || !await sameSource(top.source, debt.source)) {
      const below = (await listMounts()).filter((each) => each.mountPoint === debt.mountPoint);
      for (const mount of below) {
        if (await sameSource(mount.source, debt.source)) return stuck(`${top?.source ?? 'something'} is mounted over ${debt.mountPoint}, which is ours to unmount`);
      }
      await removeMountPoint(debt.mountPoint);
      return settled(how);
    }
    // Busy: a process that was just killed may need a moment. After that it is taken out of sight, and its last user lets go of it.
    const lazy = attempt >= 10;
    try {
      await unmount(debt.mountPoint, { lazy });
      how = lazy ? 'unmounted lazily' : 'unmounted';
    } catch (error) {
      if (lazy) throw error;
      await pause(200);
    }
  }
}

/** A mount point below our state directory was made for the mount; one elsewhere belongs to somebody. */
async function removeMountPoint(path: string): Promise<void> {
  if (!path.startsWith(stateDirectory() + sep)) return;
  await rmdir(path).catch(() => undefined); // gone, a file (removed on its own account), or not empty: harmless
}

/** Directories of the state directory that are never somebody's debt. */
const KEPT = ['owed', 'locks', 'tickets', 'activated'];

/**
 * Why a path can't be ours to remove; undefined if it can. Ours is what lies below the state directory (but not its records), below a
 * directory named `dr-engine`, or is or lies below something named `dr-engine-…`, `.dr-…` or `dr-` and a capture's 16 hexadecimal digits.
 * So no damaged record removes `/`.
 */
export function notRemovable(path: string): string | undefined {
  if (resolve(path) !== path) return 'it is not a plain absolute path';
  const inState = relative(stateDirectory(), path).split(sep);
  if (inState[0] === '' || (inState[0] !== '..' && KEPT.includes(inState[0] ?? ''))) return 'it belongs to the records of dr-engine';
  if (inState[0] !== '..') return undefined;
  return ownedFrom(path) === undefined ? 'nothing in its name says that dr-engine made it' : undefined;
}

/** The uppermost part of a path that is ours by its name. */
function ownedFrom(path: string): string | undefined {
  const parts = path.split(sep).slice(1);
  const at = parts.findIndex((part, index) => /^(dr-engine-.|\.dr-.|dr-[0-9a-f]{16}$)/.test(part) || (part === 'dr-engine' && index < parts.length - 1));
  return at === -1 ? undefined : sep + parts.slice(0, at + 1).join(sep);
}

/** Removes a file or a tree that we made. Never crosses into another file system, never follows a link that took the place of a directory of ours. */
export async function payRemove(debt: Of<'remove'>): Promise<Outcome> {
  const why = notRemovable(debt.path);
  if (why !== undefined) throw new DrError('not-ours', `${debt.path} is not removed: ${why}`, 'Look at it and remove it by hand.');
  const below = debt.path.startsWith(stateDirectory() + sep) ? stateDirectory() : dirname(ownedFrom(debt.path) ?? debt.path);
  for (let part = dirname(debt.path); isBelow(part, below); part = dirname(part)) {
    const status = await lstat(part).catch((error: unknown) => {
      if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw error;
    });
    if (status === undefined) return settled('it is gone');
    if (!status.isDirectory()) throw new DrError('not-ours', `${debt.path} is not removed: ${part} is no directory any more`, 'Look at it and remove it by hand.');
  }
  // rm(1), not fs.rm: a file system that hangs must not take one of our few threads.
  await run('rm', ['--recursive', '--force', '--one-file-system', '--', debt.path], { timeoutMs: 600_000 });
  return settled('removed');
}

/** Whether a path lies below another. */
export function isBelow(path: string, directory: string): boolean {
  return path.startsWith(directory === sep ? sep : join(directory, sep));
}
