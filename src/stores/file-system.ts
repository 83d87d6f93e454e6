import { randomBytes } from 'node:crypto';
import { constants, type BigIntStats } from 'node:fs';
import { chmod, link, lstat, open, readdir, statfs, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import type { Space } from '../model/host.js';
import { boundSets, type SetId, type StoredImage } from '../model/image-set.js';
import { parseImageName } from '../model/names.js';
import { hasCode, makeDirectory, removeDurable, syncDirectory } from '../system/durable.js';
import { bootId, startTime } from '../system/processes.js';
import { clone, reserve } from '../system/reserve.js';
import { step } from '../system/steps.js';
import { readAttributes, removeAttribute, setAttribute } from '../system/xattr.js';
import { parseIdentity } from './identity.js';
import { IN_MEMORY, probe } from './probe.js';
import type { Identity, Store } from './store.js';

/** A store that is a directory of raw files. The layout is in docs/architecture.md, "On a target". */

const SUFFIX = '.raw';
/** Other names are never asked for (`checkNamePart`). */
const POSSIBLE_NAME = /^[A-Za-z0-9_+][A-Za-z0-9_.+-]*$/;

/** The attributes on an image. `hooks/libvirt-qemu` knows the first two by the same names. */
const SET = 'user.dr.set';
const MODIFIED = 'user.dr.modified';
const WAS = 'user.dr.was';
/** Some of its blocks are or were shared with another image, so that overwriting them may take new space. */
const SHARES = 'user.dr.shares';

export class FileSystemStore implements Store {
  readonly ref: string;
  private checked = false;

  /** `directory` is absolute and exists already: it is never made by us, so that a file system that is not mounted is noticed. */
  constructor(readonly directory: string, private readonly allocation: 'sparse' | 'full') {
    this.ref = `fs:${directory}`;
  }

  async check(): Promise<void> {
    if (this.checked) return;
    await probe(this.directory, await this.workshop());
    this.checked = true;
  }

  async space(): Promise<Space> {
    const status = await statfs(this.directory, { bigint: true }).catch((error: unknown) => { throw this.unusable(error); });
    const memory = IN_MEMORY.get(Number(status.type));
    if (memory !== undefined) throw this.unusable(new Error(`it is a ${memory}, whose content is gone after a power cut`));
    return { sizeBytes: Number(status.blocks * status.bsize), freeBytes: Number(status.bavail * status.bsize) };
  }

  pathOf(name: string): string {
    if (!POSSIBLE_NAME.test(name)) throw new DrError('internal', `${name} is not an image's name`);
    return join(this.directory, `${name}${SUFFIX}`);
  }

  async list(): Promise<StoredImage[]> {
    const entries = await readdir(this.directory).catch((error: unknown) => { throw this.unusable(error); });
    const names = entries.filter((entry) => entry.endsWith(SUFFIX)).map((entry) => entry.slice(0, -SUFFIX.length))
      .filter((name) => POSSIBLE_NAME.test(name) && parseImageName(name) !== undefined).sort();
    return await this.look(names);
  }

  async allocate(name: string, bytes: number, identity: Identity, like?: StoredImage): Promise<StoredImage> {
    const path = this.pathOf(name);
    if (await statusOf(path) !== undefined) throw taken(path);
    const workshop = await this.workshop();
    step('allocate-before');
    const temporary = join(workshop, `${await signature()}-${randomBytes(6).toString('hex')}${SUFFIX}`);
    try {
      const handle = await open(temporary, 'wx', 0o600);
      try {
        const cloned = like !== undefined && this.allocation === 'sparse' && await this.clone(like, temporary);
        await handle.truncate(bytes).catch((error: unknown) => { throw tooBig(path, bytes, error); });
        if (this.allocation === 'full') await reserve(temporary, bytes);
        if (cloned) await setAttribute(temporary, SHARES, 'yes');
        else await setAttribute(temporary, WAS, 'fresh');
        await setAttribute(temporary, SET, `${identity.set}/${identity.disk}`);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await link(temporary, path).catch((error: unknown) => { throw hasCode(error, 'EEXIST') ? taken(path) : error; });
    } finally {
      await unlink(temporary).catch((error: unknown) => { if (!hasCode(error, 'ENOENT')) throw error; }); // it was never made
    }
    await syncDirectory(this.directory);
    step('allocate-after');
    return await this.again(name);
  }

  async resize(image: StoredImage, bytes: number): Promise<StoredImage> {
    await this.held(image, async (handle, now) => {
      this.insistOurs(now);
      if (now.bytes === bytes) return;
      await handle.truncate(bytes).catch((error: unknown) => { throw tooBig(now.path, bytes, error); });
      if (this.allocation === 'full') await reserve(now.path, bytes);
      await handle.sync();
    });
    step('resize-after');
    return await this.again(image.name);
  }

  async bind(image: StoredImage, identity: Identity): Promise<void> {
    await this.held(image, async (handle, now) => {
      const before = this.insistOurs(now);
      this.insistUnmodified(now);
      if (before.set === identity.set && before.disk === identity.disk) return;
      step('bind-before');
      // An origin that is still there has outlived a run that wrote nothing: it is still what the image holds.
      if (now.origin === undefined) await setAttribute(now.path, WAS, `${before.set}/${before.disk}`);
      await handle.sync(); // never a new identity without the note of the old one
      await setAttribute(now.path, SET, `${identity.set}/${identity.disk}`);
      await handle.sync();
      step('bind-after');
    });
  }

  async adopt(image: StoredImage, identity: Identity): Promise<void> {
    await this.held(image, async (handle, now) => {
      await removeAttribute(now.path, WAS);
      await setAttribute(now.path, SET, `${identity.set}/${identity.disk}`);
      await handle.sync();
    });
  }

  async forgetOrigin(image: StoredImage): Promise<void> {
    await this.held(image, async (handle, now) => {
      await removeAttribute(now.path, WAS);
      await handle.sync();
    });
  }

  async markModified(image: StoredImage, why: string | undefined): Promise<void> {
    await this.held(image, async (handle, now) => {
      this.insistOurs(now);
      await (why === undefined ? removeAttribute(now.path, MODIFIED) : setAttribute(now.path, MODIFIED, why));
      await handle.sync();
    });
  }

  async settle(image: StoredImage): Promise<StoredImage> {
    await this.held(image, async (handle) => { await handle.sync(); });
    return await this.again(image.name);
  }

  async giveName(image: StoredImage, name: string): Promise<void> {
    const [from, to] = [this.pathOf(image.name), this.pathOf(name)];
    const there = await statusOf(to);
    if (there !== undefined) {
      if (keyOf(there) !== image.key) throw taken(to);
      await syncDirectory(this.directory); // given before; perhaps not durably
      return;
    }
    this.insistOurs(await this.again(image.name, image.key));
    step('name-before-give');
    await link(from, to).catch((error: unknown) => { throw hasCode(error, 'EEXIST') ? taken(to) : error; });
    const given = await statusOf(to);
    if (given === undefined || keyOf(given) !== image.key) { // `from` was replaced between the look and the link
      await unlink(to);
      throw changed(from, 'another file took its place');
    }
    await syncDirectory(this.directory);
    step('name-after-give');
  }

  async takeName(image: StoredImage, name: string): Promise<void> {
    const path = this.pathOf(name);
    const there = await statusOf(path);
    if (there === undefined) return;
    if (keyOf(there) !== image.key) throw changed(path, 'another file has this name now');
    const [seen] = await this.look([name]);
    if (seen !== undefined) this.insistOurs(seen);
    if (!(await this.hasOtherName(image.key, name))) throw changed(path, 'it is the only name the image has');
    step('name-before-take');
    await removeDurable(path);
    step('name-after-take');
  }

  async remove(image: StoredImage, identity: Identity): Promise<void> {
    const [now] = await this.look([image.name]);
    if (now === undefined) return;
    if (now.key !== image.key) throw changed(now.path, 'another file has this name now');
    const bound = this.insistOurs(now);
    if (bound.set !== identity.set || bound.disk !== identity.disk) throw changed(now.path, `it belongs to the set ${bound.set} now`);
    this.insistUnmodified(now);
    await removeDurable(now.path);
  }

  /** Removes allocations that died. Another process of ours may be in the middle of one: its files are left alone. */
  async tidy(): Promise<void> {
    const workshop = join(this.directory, '.dr', 'new');
    const entries = await readdir(workshop).catch((error: unknown) => { if (hasCode(error, 'ENOENT')) return []; throw error; });
    const boot = (await bootId()).slice(0, 8);
    for (const entry of entries) {
      const [, madeIn, pid, started] = /^([0-9a-f]{8})-(\d+)-(\d+)-/.exec(entry) ?? [];
      if (pid === undefined) continue;
      if (madeIn === boot && await startTime(Number(pid)) === started) continue;
      await removeDurable(join(workshop, entry));
    }
  }

  async bound(): Promise<ReadonlySet<SetId>> {
    return boundSets(await this.list());
  }

  /** Where images and probes are made before they have a name. */
  private async workshop(): Promise<string> {
    if (await statusOf(this.directory) === undefined) throw this.unusable(new Error('it does not exist'));
    const path = join(this.directory, '.dr', 'new');
    await makeDirectory(path, 0o711);
    await chmod(join(this.directory, '.dr'), 0o711); // whatever the umask: QEMU passes through to nvram files
    return path;
  }

  /** Looks at the given names; those that do not exist are absent. Only a look at all images of a disk tells which blocks they may share. */
  private async look(names: readonly string[]): Promise<StoredImage[]> {
    const seen: { name: string; status: BigIntStats }[] = [];
    for (const name of names) {
      const status = await statusOf(this.pathOf(name));
      if (status !== undefined) seen.push({ name, status });
    }
    const files = seen.filter(({ status }) => status.isFile()).map(({ name }) => `${name}${SUFFIX}`);
    const attributes = files.length === 0 ? new Map<string, ReadonlyMap<string, string>>() : await readAttributes(this.directory, files, 'user.dr.');
    const images = seen.flatMap(({ name, status }) => {
      const parsed = parseImageName(name);
      if (parsed === undefined) return [];
      return [toImage(name, parsed, this.pathOf(name), status, attributes.get(`${name}${SUFFIX}`))];
    });
    // Nothing is shared with itself: the mark of the last image of a disk means nothing any more.
    const mayShare = (image: StoredImage): boolean => attributes.get(`${image.name}${SUFFIX}`)?.has(SHARES) === true
      && images.some(({ base, key }) => base === image.base && key !== image.key);
    return images.map((image) => mayShare(image) ? { ...image, allocatedBytes: 0 } : image);
  }

  /** Both count as if they had no blocks from then on. */
  private async clone(like: StoredImage, temporary: string): Promise<boolean> {
    if (!await clone(like.path, temporary)) return false;
    await this.held(like, async (handle, now) => {
      await setAttribute(now.path, SHARES, 'yes');
      await handle.sync();
    });
    return true;
  }

  private async again(name: string, key?: string): Promise<StoredImage> {
    const [now] = await this.look([name]);
    if (now === undefined) throw changed(this.pathOf(name), 'it is gone');
    if (key !== undefined && now.key !== key) throw changed(now.path, 'another file has this name now');
    return now;
  }

  /** Opens the very file that `image` means, and looks at it again. */
  private async held(image: StoredImage, act: (handle: FileHandle, now: StoredImage) => Promise<void>): Promise<void> {
    const path = this.pathOf(image.name);
    const handle = await open(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch((error: unknown) => {
      if (hasCode(error, 'ENOENT')) throw changed(path, 'it is gone');
      if (hasCode(error, 'ELOOP', 'EISDIR', 'ENXIO')) throw changed(path, 'it is not a plain file');
      throw error;
    });
    try {
      const status = await handle.stat({ bigint: true });
      if (!status.isFile() || keyOf(status) !== image.key) throw changed(path, 'another file has this name now');
      await act(handle, await this.again(image.name, image.key));
    } finally {
      await handle.close();
    }
  }

  private async hasOtherName(key: string, name: string): Promise<boolean> {
    for (const entry of await readdir(this.directory)) {
      const other = entry.endsWith(SUFFIX) ? entry.slice(0, -SUFFIX.length) : '';
      if (other === name || parseImageName(other) === undefined) continue;
      const status = await statusOf(join(this.directory, entry));
      if (status !== undefined && keyOf(status) === key) return true;
    }
    return false;
  }

  private insistOurs(image: StoredImage): Identity {
    if (image.identity !== undefined) return image.identity;
    throw new DrError('not-ours', `${image.path} was not made by dr-engine. It was not touched.`, 'Move it away if its name is needed.');
  }

  private insistUnmodified(image: StoredImage): void {
    if (image.modified === undefined) return;
    throw new DrError('image-modified', `${image.path} is marked as modified (${image.modified}). It was not touched.`,
      'Keep what you need from it, then run dr release.');
  }

  private unusable(error: unknown): DrError {
    const why = error instanceof Error ? error.message : String(error);
    return new DrError('store-unusable', `the store ${this.ref} can't be used: ${why}. Nothing was touched.`,
      `Create or mount ${this.directory} on the target.`, { cause: error });
  }
}

async function statusOf(path: string): Promise<BigIntStats | undefined> {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

function keyOf(status: BigIntStats): string {
  return `${String(status.dev)}:${String(status.ino)}`;
}

function toImage(name: string, parsed: Pick<StoredImage, 'base' | 'slot'>, path: string, status: BigIntStats, attributes: ReadonlyMap<string, string> | undefined): StoredImage {
  const identity = parseIdentity(attributes?.get(SET));
  const was = attributes?.get(WAS);
  const origin = was === 'fresh' ? 'fresh' : parseIdentity(was);
  const modified = attributes?.get(MODIFIED);
  return {
    name, ...parsed, path,
    bytes: Number(status.size),
    allocatedBytes: Number(status.blocks * 512n),
    key: keyOf(status),
    touched: { inode: String(status.ino), bytes: Number(status.size), mtime: String(status.mtimeNs) },
    ...(identity === undefined ? {} : { identity }),
    ...(origin === undefined ? {} : { origin }),
    ...(modified === undefined ? {} : { modified }),
  };
}

/** Tells this process from any other, now and later, in the names of unfinished files. */
async function signature(): Promise<string> {
  return `${(await bootId()).slice(0, 8)}-${String(process.pid)}-${await startTime(process.pid) ?? '0'}`;
}

function taken(path: string): DrError {
  return new DrError('exists', `${path} exists already and is something else. It was not touched.`, 'Look what it is; move it away if dr-engine should use the name.');
}

function changed(path: string, why: string): DrError {
  return new DrError('state-changed', `${path} changed while the run was about to use it: ${why}. It was not touched.`, 'Run the job again; it will look anew.');
}

function tooBig(path: string, bytes: number, error: unknown): unknown {
  if (!hasCode(error, 'ENOSPC', 'EDQUOT', 'EFBIG', 'EINVAL', 'ERR_OUT_OF_RANGE')) return error;
  return new DrError('no-space', `${path} can't be ${String(bytes)} bytes long in this file system`, 'Use a larger store.', { cause: error });
}
