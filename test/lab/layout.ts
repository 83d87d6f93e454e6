import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeDurable } from '../../src/system/durable.js';

/** Where things of a lab are. Everything that a lab makes is in one directory. */

/** The checkout: the nearest directory above this file with a package.json. */
export const CHECKOUT: string = (() => {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) directory = dirname(directory);
  return directory;
})();

/** Sources of the lab that are not compiled (scripts, guests). */
export const SOURCES: string = join(CHECKOUT, 'test/lab');

/** Where labs and the cache of built guests are: `.sandbox` in the checkout, or $DR_LAB_DIR. */
export function sandbox(): string {
  return resolve(process.env['DR_LAB_DIR'] ?? join(CHECKOUT, '.sandbox'));
}

export function labDirectory(name: string): string {
  if (!/^[a-z0-9][a-z0-9-]{0,30}$/.test(name)) throw new Error(`"${name}" can't be a lab's name: small letters, digits and - only`);
  return join(sandbox(), `lab-${name}`);
}

/** What is built once and used by all labs. */
export function cacheDirectory(...parts: readonly string[]): string {
  return join(sandbox(), 'cache', ...parts);
}

export type Role = 'node' | 'target' | 'head';

export interface HostRecord {
  readonly name: string;
  readonly role: Role;
  readonly address: string;
  /** A virtual machine with a kernel of its own, not namespaces. */
  readonly virtual?: true;
  /** Sizes in MiB of a virtual machine's disks beyond its system and store: `/dev/disk/by-id/virtio-disk0`, … */
  readonly disks?: readonly number[];
}

/** What `lab.json` says. Processes are not recorded: they are found by their command lines, so a crash can't lose one. */
export interface LabRecord {
  readonly name: string;
  readonly hosts: readonly HostRecord[];
  /** The process whose end is the lab's end; absent for labs started by hand. */
  readonly owner?: { readonly pid: number; readonly startTime: string };
  /** Loop devices that are attached for as long as the lab lives, with the files that they show. */
  readonly drives: readonly DriveRecord[];
}

export interface DriveRecord {
  readonly host: string;
  readonly device: string;
  readonly image: string;
}

export function recordPath(directory: string): string {
  return join(directory, 'lab.json');
}

export async function readRecord(directory: string): Promise<LabRecord | undefined> {
  const text = await readFile(recordPath(directory), 'utf8').catch(() => undefined); // no such lab
  return text === undefined ? undefined : JSON.parse(text) as LabRecord;
}

export async function writeRecord(directory: string, record: LabRecord): Promise<void> {
  await writeDurable(recordPath(directory), `${JSON.stringify(record, null, 2)}\n`);
}

export function hostDirectory(lab: string, host: string): string {
  return join(lab, 'hosts', host);
}

/** The name of the lab that a directory belongs to. */
export function labName(directory: string): string {
  return basename(directory).replace(/^lab-/, '');
}
