import type { ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DrError } from '../model/errors.js';
import { mountAt } from './mounts.js';
import { startTime } from './processes.js';
import { run, runLean, start } from './run.js';

/**
 * qemu-img and qemu-storage-daemon. Nothing here ever writes to an image, and nothing here probes a format: a guest can write
 * any header it likes into its raw disk, so formats come from the definition and from qcow2's own header.
 */

/** One file or device of a backing chain, top first. */
export interface ChainLink {
  readonly path: string;
  readonly format: string;
  /** Virtual size in bytes. */
  readonly bytes: number;
  readonly encrypted: boolean;
  /** Whether it is a block device. */
  readonly device: boolean;
  /** Whether it is a raw file whose length is no multiple of 512: QEMU shows zeros up to the next one. */
  readonly odd: boolean;
  /** A qcow2 image may keep its data in another file. */
  readonly dataFile?: string;
}

interface InfoJson {
  readonly 'virtual-size': number;
  readonly 'full-backing-filename'?: string;
  readonly 'backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
  readonly encrypted?: boolean;
  readonly snapshots?: readonly unknown[];
  readonly 'format-specific'?: { readonly data?: { readonly 'data-file'?: string } };
}

/** What `qemu-img info` says of one image; `image` may be an NBD URI. Never takes a lock. Throws `io`. */
async function info(image: string, format: string): Promise<InfoJson> {
  try {
    const { stdout } = await run('qemu-img', ['info', '--force-share', '--output=json', '-f', format, image], { timeoutMs: 20_000 });
    return JSON.parse(stdout) as InfoJson;
  } catch (error) {
    const known = DrError.from(error);
    if (known.code !== 'program-failed') throw known;
    const said = /qemu-img: (?:Could not open '.*?': )?(.*)$/s.exec(known.message)?.[1] ?? known.message;
    throw new DrError('io', `${image} can't be read as ${format}: ${said}`, '', { cause: error });
  }
}

/** Virtual size in bytes of an image or an NBD export. */
export async function virtualSize(image: string, format: string): Promise<number> {
  return (await info(image, format))['virtual-size'];
}

/** How many snapshots an image has inside. */
export async function internalSnapshots(image: string, format: string): Promise<number> {
  return (await info(image, format)).snapshots?.length ?? 0;
}

const LONGEST_CHAIN = 200;

/** The backing chain of an image, top first. Throws `disk-unsupported` where a format is not recorded, `io` if something can't be read. */
export async function backingChain(path: string, format: string): Promise<ChainLink[]> {
  const chain: ChainLink[] = [];
  let next: { readonly path: string; readonly format: string } | undefined = { path, format };
  while (next !== undefined) {
    if (chain.length >= LONGEST_CHAIN) throw new DrError('disk-unsupported', `the backing chain of ${path} is longer than ${String(LONGEST_CHAIN)} images`);
    const wanted: string = next.path;
    if (chain.some((link) => link.path === wanted)) throw new DrError('disk-unsupported', `the backing chain of ${path} is a circle through ${wanted}`);
    const found: InfoJson = await info(next.path, next.format);
    const dataFile = found['format-specific']?.data?.['data-file'];
    const status = await stat(next.path);
    chain.push({
      ...next, bytes: found['virtual-size'], encrypted: found.encrypted === true || next.format === 'luks',
      device: status.isBlockDevice(), odd: next.format === 'raw' && status.isFile() && status.size % 512 !== 0,
      ...(dataFile === undefined ? {} : { dataFile }),
    });
    const backing: string | undefined = found['full-backing-filename'] ?? found['backing-filename'];
    if (backing === undefined) break;
    const backingFormat = found['backing-filename-format'];
    if (backingFormat === undefined) {
      throw new DrError('disk-unsupported', `${next.path} does not record the format of its backing file ${backing}`,
        `Record it while the server is off: qemu-img rebase -u -F FORMAT -b ${backing} ${next.path}`);
    }
    if (!backing.startsWith('/')) throw new DrError('disk-unsupported', `the backing file of ${next.path} is not a local file: ${backing}`);
    next = { path: backing, format: backingFormat };
  }
  return chain;
}

export interface Extent {
  readonly start: number;
  readonly length: number;
}

/**
 * The parts of an image that are known to read as zeros, in order, neighbours joined. `image` is a path or an NBD URI. What is
 * not listed may be zero too. Can take long on large images; throws `io` if it fails.
 */
export async function zeroExtents(image: string, format: string, signal?: AbortSignal): Promise<Extent[]> {
  const { stdout } = await runLean('qemu-img', ['map', '--force-share', '--output=json', '-f', format, image],
    { timeoutMs: 600_000, ...(signal === undefined ? {} : { signal }) }).catch((error: unknown) => {
    const known = DrError.from(error);
    throw known.code === 'program-failed' ? new DrError('io', `${image} can't be mapped: ${known.message}`, '', { cause: error }) : known;
  });
  const extents: { start: number; length: number }[] = [];
  for (const each of JSON.parse(stdout) as readonly { readonly start: number; readonly length: number; readonly zero: boolean }[]) {
    if (!each.zero) continue;
    const last = extents.at(-1);
    if (last !== undefined && last.start + last.length === each.start) last.length += each.length;
    else extents.push({ start: each.start, length: each.length });
  }
  return extents;
}

/** What a bitmap that is shown beside an NBD export marks, in order. Throws `program-failed` if there is none. */
export async function dirtyExtents(socket: string, exportName: string, bitmap: string, signal: AbortSignal): Promise<Extent[]> {
  const quoted = (value: string): string => value.replaceAll(',', ',,');
  const { stdout } = await run('qemu-img', ['map', '--output=json', '--image-opts',
    `driver=nbd,server.type=unix,server.path=${quoted(socket)},export=${quoted(exportName)},x-dirty-bitmap=qemu:dirty-bitmap:${quoted(bitmap)}`], { timeoutMs: 600_000, signal });
  // Shown as if the clean ranges were data (nbd's x-dirty-bitmap): whatever is not plainly that counts as marked.
  return (JSON.parse(stdout) as readonly (Extent & { readonly data: boolean; readonly zero: boolean })[]).filter(({ data, zero }) => !data || zero).map(({ start, length }) => ({ start, length }));
}

/** What a storage daemon opens, read-only and without locks, so that it never keeps a server from starting. */
export type BlockSource =
  | { readonly kind: 'chain'; readonly chain: readonly ChainLink[] }
  | { readonly kind: 'nbd'; readonly socket: string; readonly exportName: string };

function blockdev(source: BlockSource): Record<string, unknown> {
  if (source.kind === 'nbd') {
    return { driver: 'nbd', 'read-only': true, server: { type: 'unix', path: source.socket }, export: source.exportName };
  }
  return source.chain.reduceRight<Record<string, unknown> | null>((backing, link) => ({
    driver: link.format, 'read-only': true, 'force-share': true, file: protocolNode(link.path, link.device),
    ...(link.dataFile === undefined ? {} : { 'data-file': protocolNode(link.dataFile, false) }),
    ...(link.format === 'raw' ? {} : { backing }), // spelt out, so that no header is believed but those already read
  }), null) ?? {};
}

function protocolNode(path: string, device: boolean): Record<string, unknown> {
  return { driver: device ? 'host_device' : 'file', filename: path, 'read-only': true, 'force-share': true };
}

/** What appears in the mount table for an export of the storage daemon. */
export const FUSE_SOURCE = '/dev/fuse';

/**
 * A storage daemon that is about to show a block source as a plain file. It is a process already, so that what must be undone can be
 * recorded, but does nothing until `go`; if we die before that, it ends by itself.
 */
export interface StorageDaemon {
  readonly pid: number;
  readonly startTime: string;
  /** Lets it export; resolves when the file can be read. Throws `capture-failed` with what the daemon said. */
  go(): Promise<void>;
  /** Resolves when the process has ended, however. */
  readonly ended: Promise<void>;
  /** Whether it still runs. */
  alive(): boolean;
}

const READY_MS = 15_000;

/**
 * Prepares a storage daemon that will export `source` read-only over the existing file `mountPoint`. Its messages go to `logPath`.
 * Nobody may touch `mountPoint` before it is ready, and a process that must not hang never at all: a stopped daemon hangs its readers.
 */
export async function prepareStorageDaemon(source: BlockSource, mountPoint: string, logPath: string): Promise<StorageDaemon> {
  const node = { 'node-name': 'disk', ...blockdev(source) };
  const fuse = { type: 'fuse', id: 'export', 'node-name': 'disk', mountpoint: mountPoint, writable: false, 'allow-other': 'off' };
  const descriptor = openSync(logPath, 'a', 0o600);
  let child: ChildProcess;
  try {
    child = start('sh', ['-c', 'read -r go && exec "$@"', 'sh', 'qemu-storage-daemon', '--blockdev', JSON.stringify(node), '--export', JSON.stringify(fuse)],
      { stdio: ['pipe', 'ignore', descriptor], detached: true });
  } finally {
    closeSync(descriptor);
  }
  let alive = true;
  const ended = new Promise<void>((resolve) => {
    const end = (): void => { alive = false; resolve(); };
    child.once('exit', end);
    child.once('error', end);
  });
  child.stdin?.on('error', () => undefined); // it ended before it was let go: `go` finds out
  const began = child.pid === undefined ? undefined : await startTime(child.pid);
  if (child.pid === undefined || began === undefined) throw new DrError('capture-failed', 'the process for a storage daemon could not be started');
  child.unref();
  const failure = async (why: string): Promise<DrError> => {
    const said = (await readFile(logPath, 'utf8').catch(() => '')).trim().split('\n').slice(-3).join('; ');
    return new DrError(/exec: .*not found/.test(said) ? 'program-missing' : 'capture-failed', `qemu-storage-daemon ${why}${said === '' ? '' : `: ${said}`}`,
      'dr check shows what a node needs (qemu-utils with qemu-storage-daemon, FUSE).');
  };
  return {
    pid: child.pid, startTime: began, ended, alive: () => alive,
    go: async () => {
      child.stdin?.end('go\n');
      const deadline = Date.now() + READY_MS;
      while (await mountAt(mountPoint) === undefined) {
        if (!alive) throw await failure('ended at once');
        if (Date.now() > deadline) throw await failure(`did not export in ${String(READY_MS / 1000)} s`);
        await sleep(20);
      }
    },
  };
}
