import { randomBytes } from 'node:crypto';
import { appendFile, lstat, open, readdir, rmdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import type { CacheDrive } from '../model/host.js';
import type { Debts } from '../model/obligation.js';
import { within } from '../system/deadline.js';
import { hasCode, makeDirectory, syncDirectory } from '../system/durable.js';
import { lock, type Lock } from '../system/flock.js';
import { log } from '../system/log.js';
import { lookAt, mountAt, mountDevice } from '../system/mounts.js';
import { run as runProgram } from '../system/run.js';
import { step } from '../system/steps.js';
import { findCacheDrives, ownMounts, type Where } from './drives.js';
import { canHaveHoles } from './place.js';

/**
 * Using cache drives. Everything of ours on a drive lies in `<root>/dr-engine/<run>/`, beside the marker that makes the directory ours and
 * carries the lock of the process that uses it. Images there are plain files `<name>.raw`; where blocks were left out of one because its destination has them, their digests
 * are in `<name>.raw.without`.
 */

const MARKER = '.dr-engine-run';
const NAME = /^[A-Za-z0-9_+][A-Za-z0-9_.+-]*$/;
/** What stays free of a drive, so that a file system does not choke on its own metadata. */
const SPARE_BYTES = 2 ** 20;
const FAT_FILE_BYTES = 2 ** 32 - 1;
const IO_MS = 60_000;

interface Run {
  readonly directory: string;
  readonly lock: Lock;
  readonly obligation: string;
  readonly files: Map<string, number>;
}

interface Drive {
  readonly device: string;
  readonly fsType: string;
  readonly root: string;
  /** What is owed for the mount; undefined if somebody else mounted it. */
  readonly mounted: string | undefined;
  readonly runs: Map<string, Run>;
}

/** Bytes of a file, and how many of them are expected to be written. */
interface FileSize {
  readonly bytes: number;
  readonly expectedBytes?: number | undefined;
}

const withoutOf = (path: string): string => `${path}.without`;

/** The cache drives that one agent has open. */
export class OpenDrives {
  readonly #debts: Debts;
  readonly #where: Where;
  readonly #drives = new Map<string, Promise<Drive>>();
  /** Allocations look at free space and take some of it: one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(debts: Debts, where: Where = {}) {
    this.#debts = debts;
    this.#where = where;
  }

  /**
   * Makes a drive ready for use: mounted if it was not, freed of what dead runs left there. Throws `cache-lost` if it is no cache drive (any
   * more) or can't be mounted for writing.
   */
  async open(device: string, signature: string, uri?: string): Promise<{ readonly root: string; readonly freeBytes: number }> {
    let opening = this.#drives.get(device);
    if (opening === undefined) {
      opening = this.#openNow(device, signature, uri);
      this.#drives.set(device, opening);
      opening.catch(() => { this.#drives.delete(device); });
    }
    const { root } = await opening;
    return { root, freeBytes: await freeBytes(root) };
  }

  async #openNow(device: string, signature: string, uri: string | undefined): Promise<Drive> {
    const seen = (await findCacheDrives(signature, { ...this.#where, ...(uri === undefined ? {} : { uri }) })).find((each) => each.device === device);
    if (seen === undefined) throw lost(device, `it is not there, is in use, or has no ${signature} in its root`);
    const drive: Drive = seen.mountPoint === undefined
      ? await this.#mount(seen, signature)
      : { device, fsType: seen.fsType, root: seen.mountPoint, mounted: undefined, runs: new Map() };
    await sweep(drive.root).catch((error: unknown) => { log.warn('what dead runs left on a cache drive could not be removed', { device, error: DrError.from(error).message }); });
    return drive;
  }

  async #mount(seen: CacheDrive, signature: string): Promise<Drive> {
    const { device, fsType } = seen;
    const root = join(ownMounts(), randomBytes(8).toString('hex'));
    const { id } = await this.#debts.owe({ kind: 'unmount', mountPoint: root, source: device });
    try {
      await makeDirectory(root);
      step('mount-before');
      const fat = ['vfat', 'exfat', 'ntfs'].includes(fsType) ? ['umask=0077'] : [];
      await within(IO_MS, `mounting ${device}`, mountDevice(device, fsType, root, ['rw', 'nosuid', 'nodev', 'noexec', ...fat]));
      step('mount-after');
      const mount = await mountAt(root);
      if (mount === undefined || mount.readOnly) throw lost(device, 'it can only be mounted read-only');
      if ((await within(IO_MS, device, lookAt(root, signature)))?.found !== true) throw lost(device, `there is no ${signature} in its root any more`);
      return { device, fsType, root, mounted: id, runs: new Map() };
    } catch (error) {
      await this.#debts.pay(id).catch(() => undefined); // stays owed; the guard tries on
      throw error instanceof DrError && error.code === 'cache-lost' ? error : lost(device, DrError.from(error).message);
    }
  }

  /**
   * A new file of `bytes`, reading as zeros, on an open drive; its removal is owed before it is made. Room is kept for all of it, or for as much as is expected to be written.
   * Throws `no-space`, and `cache-lost` if the drive does not take it.
   */
  async allocate(device: string, run: string, name: string, size: FileSize): Promise<string> {
    for (const part of [run, name]) {
      if (!NAME.test(part) || part.length > 230) throw new DrError('name-invalid', `${JSON.stringify(part)} can't be a name on a cache drive`);
    }
    const drive = await this.#drives.get(device);
    if (drive === undefined) throw new DrError('internal', `${device} was not opened`);
    const mine = this.#turn.then(() => within(IO_MS, `making a file on ${device}`, this.#allocateNow(drive, run, name, size)));
    this.#turn = mine.catch(() => undefined); // whoever asked hears of it
    try {
      return await mine;
    } catch (error) {
      if (error instanceof DrError && ['no-space', 'exists'].includes(error.code)) throw error;
      if (hasCode(error, 'ENOSPC', 'EFBIG', 'EDQUOT')) throw full(device, size.bytes, 0);
      throw lost(device, error instanceof Error ? error.message : String(error));
    }
  }

  async #allocateNow(drive: Drive, run: string, name: string, { bytes, expectedBytes }: FileSize): Promise<string> {
    const needed = canHaveHoles(drive) ? Math.min(bytes, expectedBytes ?? bytes) : bytes;
    const outstanding = await Promise.all([...drive.runs.values()].flatMap(({ files }) => [...files]).map(async ([path, size]) => {
      const status = await stat(path);
      return Math.max(0, size - status.blocks * 512);
    }));
    const left = await freeBytes(drive.root) - outstanding.reduce((sum, each) => sum + each, 0) - SPARE_BYTES;
    if (needed > left || (drive.fsType === 'vfat' && bytes > FAT_FILE_BYTES)) throw full(drive.device, needed, left);

    const { directory, files } = drive.runs.get(run) ?? await this.#beginRun(drive, run);
    const path = join(directory, `${name}.raw`);
    const handle = await open(path, 'wx', 0o600).catch((error: unknown) => {
      throw hasCode(error, 'EEXIST') ? new DrError('exists', `${path} exists already`) : error;
    });
    files.set(path, needed);
    try {
      await handle.truncate(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await syncDirectory(directory);
    return path;
  }

  async #beginRun(drive: Drive, run: string): Promise<Run> {
    const directory = join(drive.root, 'dr-engine', run);
    const { id } = await this.#debts.owe({ kind: 'remove', path: directory });
    let held: Lock | undefined;
    try {
      await makeDirectory(directory);
      held = await lock(join(directory, MARKER), `the cache directory ${directory}`);
    } catch (error) {
      // Locked: it is another process's, which owes it itself. Anything else: what we made of it is removed.
      if (error instanceof DrError && error.code === 'locked') await this.#debts.settled(id);
      else await this.#debts.pay(id).catch(() => undefined); // stays owed
      throw error;
    }
    const begun: Run = { directory, lock: held, obligation: id, files: new Map() };
    drive.runs.set(run, begun);
    return begun;
  }

  /** Adds digests of blocks that are to be left out of a file that `allocate` made; gives the path of the file they are in. Throws `not-ours`, `cache-lost`. */
  async addWithout(path: string, digests: Buffer): Promise<string> {
    const { drive } = await this.#made(path);
    const without = withoutOf(path);
    await within(IO_MS, `writing ${without}`, appendFile(without, digests, { mode: 0o600 })).catch((error: unknown) => { throw lost(drive.device, DrError.from(error).message); });
    return without;
  }

  /** Removes a file that `allocate` made; one that is gone is fine. Throws `not-ours` for any other path. */
  async remove(path: string): Promise<void> {
    const { drive, name, run } = await this.#made(path);
    step('cache-image-before-remove');
    await within(IO_MS, `removing ${path}`, runProgram('rm', ['--force', '--', path, withoutOf(path)], { timeoutMs: IO_MS }));
    step('cache-image-after-remove');
    run.files.delete(path);
    if (run.files.size === 0) await this.#endRun(drive, name, run);
  }

  /** The drive and the run of a file that `allocate` made. */
  async #made(path: string): Promise<{ readonly drive: Drive; readonly name: string; readonly run: Run }> {
    for (const opening of this.#drives.values()) {
      const drive = await opening;
      for (const [name, run] of drive.runs) if (run.files.has(path)) return { drive, name, run };
    }
    throw new DrError('not-ours', `${path} is no file that this agent made on a cache drive`);
  }

  async #endRun(drive: Drive, name: string, run: Run): Promise<void> {
    drive.runs.delete(name);
    await run.lock.release();
    await this.#debts.pay(run.obligation);
    await rmdir(join(drive.root, 'dr-engine')).catch(() => undefined); // other runs use it, or it is the admin's
  }

  /** Removes what is still there and unmounts the drive if we mounted it. What can't be done now stays owed. */
  async close(device: string): Promise<void> {
    const opening = this.#drives.get(device);
    if (opening === undefined) return;
    this.#drives.delete(device);
    const drive = await opening.catch(() => undefined); // it was never open: what that left is paid by whoever opened it
    if (drive === undefined) return;
    for (const [name, run] of drive.runs) {
      await this.#endRun(drive, name, run).catch((error: unknown) => { log.warn('files stay on a cache drive for now', { device, error: DrError.from(error).message }); });
    }
    if (drive.mounted !== undefined) await this.#debts.pay(drive.mounted);
  }

  async closeAll(): Promise<void> {
    const ends = await Promise.allSettled([...this.#drives.keys()].map((device) => this.close(device)));
    for (const end of ends) if (end.status === 'rejected') throw DrError.from(end.reason);
  }
}

async function freeBytes(root: string): Promise<number> {
  const space = await within(IO_MS, root, statfs(root));
  return space.bavail * space.bsize;
}

/** Removes what runs that are dead left: directories with our marker whose lock nobody holds, and our empty ones. */
async function sweep(root: string): Promise<void> {
  const ours = join(root, 'dr-engine');
  const names = await readdir(ours).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  });
  for (const name of names.filter((each) => NAME.test(each))) {
    const directory = join(ours, name);
    if (!(await lstat(directory)).isDirectory()) continue;
    const marker = await lstat(join(directory, MARKER)).catch(() => undefined); // none: not ours, or a run died between its first two steps
    if (marker === undefined) {
      await rmdir(directory).catch(() => undefined); // not empty: not ours
      continue;
    }
    if (!marker.isFile()) continue;
    try {
      const held = await lock(join(directory, MARKER), directory);
      try {
        await runProgram('rm', ['--recursive', '--force', '--one-file-system', '--', directory], { timeoutMs: 600_000 });
      } finally {
        await held.release();
      }
    } catch (error) {
      if (!(error instanceof DrError) || error.code !== 'locked') throw error; // locked: a run that lives
    }
  }
}

function lost(device: string, why: string): DrError {
  return new DrError('cache-lost', `the cache drive ${device} can't be used: ${why}. The servers go on without it.`, 'Look at the drive; the next run tries it again.');
}

function full(device: string, bytes: number, left: number): DrError {
  return new DrError('no-space', `the cache drive ${device} has ${String(Math.max(0, left))} bytes left, ${String(bytes)} are needed. The servers go on without it.`, 'Free space there, or use a larger drive.');
}

