import { randomBytes } from 'node:crypto';
import { readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Debt, Obligation } from '../model/obligation.js';
import { createDurable, hasCode, readIfThere, removeDurable, writeDurable } from '../system/durable.js';
import { log } from '../system/log.js';
import { bootId, startTime } from '../system/processes.js';
import { stateDirectory } from '../system/state.js';

/** How debts lie on the disk: `owed/<session>/<id>.json`, one file each, beside `owner.json` and `guard.json`. */

const server = { uri: z.string(), server: z.string(), uuid: z.string() };
const words = z.array(z.string()).readonly();

const DEBT = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('start'), ...server, persistent: z.boolean(), xml: z.string(), peers: words, agentCommand: words,
    startCommand: words.exactOptional(), watchUntil: z.iso.datetime(), wentDown: z.boolean() }),
  z.object({ kind: z.literal('thaw'), ...server, dueAt: z.iso.datetime() }),
  z.object({ kind: z.literal('resume'), ...server, pid: z.int().min(2), startTime: z.string(), bootId: z.string(), dueAt: z.iso.datetime() }),
  z.object({ kind: z.literal('snapshot'), ...server, vg: z.string().min(1), name: z.string().min(1), owner: z.string().min(1), thin: z.boolean(), dueAt: z.iso.datetime() }),
  z.object({ kind: z.literal('backup'), ...server, socket: z.string(), dueAt: z.iso.datetime() }),
  z.object({ kind: z.literal('kill'), pid: z.int().min(2), startTime: z.string(), bootId: z.string(), what: z.string() }),
  z.object({ kind: z.literal('unmount'), mountPoint: z.string().startsWith('/'), source: z.string() }),
  z.object({ kind: z.literal('remove'), path: z.string().startsWith('/') }),
]);

const OBLIGATION = z.object({ id: z.string(), createdAt: z.iso.datetime(), stuck: z.string().exactOptional(), debt: DEBT });

/** Tells one process from all others of all boots. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly startTime: string;
  readonly bootId: string;
}

const IDENTITY = z.object({ pid: z.int().min(2), startTime: z.string(), bootId: z.string() });

export function owedDirectory(...parts: readonly string[]): string {
  return stateDirectory('owed', ...parts);
}

const ID = /^\d{6}-[a-z]+-[0-9a-f]{8}$/;
const SESSION = /^[0-9a-f]{16}$/;

export function newSession(): string {
  return randomBytes(8).toString('hex');
}

/** IDs sort in the order of their making. */
export function newId(count: number, kind: Debt['kind']): string {
  return `${String(count).padStart(6, '0')}-${kind}-${randomBytes(4).toString('hex')}`;
}

export function recordPath(directory: string, id: string): string {
  return join(directory, `${id}.json`);
}

export function lockPath(directory: string, id: string): string {
  return join(directory, `${id}.lock`);
}

export async function createRecord(directory: string, obligation: Obligation): Promise<void> {
  await createDurable(recordPath(directory, obligation.id), JSON.stringify(obligation));
}

export async function replaceRecord(directory: string, obligation: Obligation): Promise<void> {
  await writeDurable(recordPath(directory, obligation.id), JSON.stringify(obligation));
}

/** Forgets a debt, and its lock: whoever waits for that finds no record when it gets it. */
export async function removeRecord(directory: string, id: string): Promise<void> {
  await removeDurable(recordPath(directory, id));
  await rm(lockPath(directory, id), { force: true });
}

/** One debt; undefined if it is settled. A record that can't be understood is left where it is, for a person. */
export async function readRecord(directory: string, id: string): Promise<Obligation | undefined> {
  const text = await readIfThere(recordPath(directory, id));
  if (text === undefined) return undefined;
  const parsed = OBLIGATION.safeParse(parseJson(text));
  if (parsed.success && parsed.data.id === id) return parsed.data;
  log.error('a record of what is owed is damaged and is left alone', { path: recordPath(directory, id) });
  return undefined;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined; // refused by the schema, which names the file
  }
}

/** What one session owes, oldest first. */
export async function listRecords(directory: string): Promise<Obligation[]> {
  const found: Obligation[] = [];
  for (const name of (await names(directory)).sort()) {
    const id = name.replace(/\.json$/, '');
    if (id === name || !ID.test(id)) continue;
    const record = await readRecord(directory, id);
    if (record !== undefined) found.push(record);
  }
  return found;
}

/** The directories of all sessions that left anything on this host. */
export async function sessions(): Promise<string[]> {
  return (await names(owedDirectory())).filter((name) => SESSION.test(name)).sort().map((name) => owedDirectory(name));
}

/** Everything that is owed on this host, by whomever. */
export async function allOwed(): Promise<Obligation[]> {
  return (await Promise.all((await sessions()).map((directory) => listRecords(directory)))).flat();
}

async function names(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return []; // nothing was ever owed, or the session has just been closed
    throw error;
  }
}

/** Removes a session that owes nothing; one with records, damaged ones included, stays. */
export async function removeSession(directory: string): Promise<void> {
  const inside = await names(directory);
  if (inside.some((name) => ID.test(name.replace(/\.json$/, '')) && name.endsWith('.json'))) return;
  for (const name of inside) await rm(join(directory, name), { force: true });
  await rmdir(directory).catch((error: unknown) => {
    if (!hasCode(error, 'ENOENT', 'ENOTEMPTY')) throw error; // gone already, or a lock was just taken: the next one to look removes it
  });
}

export async function identityOf(pid: number): Promise<ProcessIdentity | undefined> {
  const started = await startTime(pid);
  return started === undefined ? undefined : { pid, startTime: started, bootId: await bootId() };
}

/** Whether exactly this process is still there. */
export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  return identity.bootId === await bootId() && await startTime(identity.pid) === identity.startTime;
}

/** Writes down who answers for a session. */
export async function writeIdentity(directory: string, role: 'owner' | 'guard', identity: ProcessIdentity): Promise<void> {
  await writeDurable(join(directory, `${role}.json`), JSON.stringify(identity));
}

export async function readIdentity(directory: string, role: 'owner' | 'guard'): Promise<ProcessIdentity | undefined> {
  const text = await readIfThere(join(directory, `${role}.json`));
  const parsed = IDENTITY.safeParse(text === undefined ? undefined : parseJson(text));
  return parsed.success ? parsed.data : undefined;
}
