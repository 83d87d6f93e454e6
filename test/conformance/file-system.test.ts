import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { link, mkdir, open, readdir, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { StoredImage } from '../../src/model/image-set.js';
import { FileSystemStore } from '../../src/stores/file-system.js';
import { run } from '../../src/system/run.js';
import { isRoot, mountedFileSystem, temporaryDirectory, type TestPlace } from '../support/file-systems.js';
import { skipBecause } from '../support/skip.js';
import { describeStore, rejects, type StoreUnderTest } from './store.js';

const SET_A = '20260101T000000Z-00000000000000aa';
const A = { set: SET_A, disk: 'root' };
const MIB = 1024 * 1024;

function storeIn(directory: string, allocation: 'sparse' | 'full', remove: () => Promise<void>): StoreUnderTest {
  const pathOf = (name: string): string => join(directory, `${name}.raw`);
  return {
    traits: { origin: 'fresh', adoptsForeign: true },
    open: () => new FileSystemStore(directory, allocation),
    write: async (image, offset, bytes) => {
      const handle = await open(image.path, 'r+');
      await handle.write(bytes, 0, bytes.length, offset);
      await handle.sync();
      await handle.close();
    },
    read: async (image, offset, length) => (await readFile(image.path)).subarray(offset, offset + length),
    plant: async (name) => {
      await writeFile(pathOf(name), `planted ${name}`);
      const { ino } = await stat(pathOf(name));
      return { unharmed: async () => await readFile(pathOf(name), 'utf8') === `planted ${name}` && (await stat(pathOf(name))).ino === ino };
    },
    vanish: (image: StoredImage) => rm(image.path),
    names: () => readdir(directory, { recursive: true }),
    remove,
  };
}

/** One mounted file system for all tests of a kind; each test has a directory of its own in it. */
function onMounted(type: 'ext4' | 'xfs', allocation: 'sparse' | 'full'): void {
  describe(`on ${type}, ${allocation}`, function () {
    this.timeout(20_000);
    let mounted: TestPlace | undefined;
    let next = 0;
    before(async function () {
      if (!isRoot) skipBecause(this, `mounting ${type} needs root`);
      mounted = await mountedFileSystem(type, type === 'xfs' ? 320 : 64);
    });
    after(async () => { await mounted?.remove(); });
    describeStore(`fs on ${type}, ${allocation}`, async () => {
      const directory = join(mounted?.path ?? '', `store-${String(next++)}`);
      await mkdir(directory);
      return storeIn(directory, allocation, () => rm(directory, { recursive: true }));
    });
  });
}

onMounted('ext4', 'sparse');
onMounted('ext4', 'full');
onMounted('xfs', 'sparse');
describe('a new image beside an older one', function () {
  this.timeout(20_000);
  const B = { set: '20260102T000000Z-00000000000000bb', disk: 'root' };
  const OLDER = randomBytes(8 * MIB);
  let mounted: TestPlace;
  afterEach(() => mounted?.remove());

  async function allocateBeside(type: 'ext4' | 'xfs', allocation: 'sparse' | 'full'): Promise<{ readonly made: StoredImage; readonly content: Buffer; readonly took: number; readonly older: Buffer }> {
    mounted = await mountedFileSystem(type, type === 'xfs' ? 320 : 64);
    const store = new FileSystemStore(mounted.path, allocation);
    const older = await store.allocate('Web01_root_1', OLDER.length, A);
    await writeFile(older.path, OLDER, { flag: 'r+', flush: true });
    const before = (await store.space()).freeBytes;
    const made = await store.allocate('Web01_root_incomplete', OLDER.length + MIB, B, older);
    const took = before - (await store.space()).freeBytes;
    const content = await readFile(made.path);
    const handle = await open(made.path, 'r+');
    await handle.write(Buffer.alloc(MIB, 1), 0, MIB, 0);
    await handle.close();
    assert.deepEqual((await store.list()).map(({ allocatedBytes }) => allocatedBytes === 0), [type === 'xfs' && allocation === 'sparse', type === 'xfs' && allocation === 'sparse']);
    const seen = await readFile(older.path);
    await store.remove(older, A);
    assert.ok(((await store.list())[0]?.allocatedBytes ?? 0) >= (made.origin === 'fresh' ? MIB : OLDER.length), 'the last image shares with nobody');
    return { made, content, took, older: seen };
  }

  it('begins with its blocks, shared, where the file system can do that; what is written to it is its own', async function () {
    if (!isRoot) skipBecause(this, 'mounting xfs needs root');
    const { made, content, took, older } = await allocateBeside('xfs', 'sparse');
    assert.ok(content.equals(Buffer.concat([OLDER, Buffer.alloc(MIB)])));
    assert.ok(took < MIB, `${String(took)} bytes were taken`);
    assert.ok(older.equals(OLDER), 'the older image has changed');
    assert.deepEqual([made.identity, made.origin, made.bytes], [B, undefined, OLDER.length + MIB], 'nothing is said of what it holds');
  });

  for (const [type, allocation] of [['ext4', 'sparse'], ['xfs', 'full']] as const) {
    it(`is empty on ${type}, ${allocation}`, async function () {
      if (!isRoot) skipBecause(this, `mounting ${type} needs root`);
      const { made, content, older } = await allocateBeside(type, allocation);
      assert.ok(content.every((byte) => byte === 0));
      assert.ok(older.equals(OLDER));
      assert.equal(made.origin, 'fresh');
    });
  }
});

if (!isRoot) {
  describeStore('fs in a directory of this machine', async () => {
    const place = await temporaryDirectory('store');
    return storeIn(place.path, 'sparse', () => place.remove());
  });
}

describe('a store that is a directory', () => {
  let place: TestPlace;
  let store: FileSystemStore;
  beforeEach(async () => {
    place = await temporaryDirectory('store');
    store = new FileSystemStore(place.path, 'sparse');
  });
  afterEach(() => place.remove());
  const find = async (name: string): Promise<StoredImage> => {
    const found = (await store.list()).find((image) => image.name === name);
    assert.ok(found);
    return found;
  };

  it('keeps images from other users, and lets QEMU pass through the catalog', async () => {
    await store.allocate('Web01_root_1', MIB, A);
    assert.equal((await stat(store.pathOf('Web01_root_1'))).mode & 0o777, 0o600);
    assert.equal((await stat(join(place.path, '.dr'))).mode & 0o777, 0o711);
  });

  it('is sparse, or has all its blocks', async () => {
    assert.ok((await store.allocate('Web01_root_1', 8 * MIB, A)).allocatedBytes < MIB);
    const full = new FileSystemStore(place.path, 'full');
    assert.ok((await full.allocate('Web01_root_2', 8 * MIB, A)).allocatedBytes >= 8 * MIB);
  });

  it('gives one key to two names of one file', async () => {
    const image = await store.allocate('Web01_root_incomplete', MIB, A);
    await store.giveName(image, 'Web01_root_1');
    const images = await store.list();
    assert.deepEqual(images.map(({ name }) => name), ['Web01_root_1', 'Web01_root_incomplete']);
    assert.equal(new Set(images.map(({ key }) => key)).size, 1);
    assert.deepEqual(images.map(({ identity }) => identity), [A, A]);
  });

  it('does not take a link outside the store, or under a name that is no image\'s, for another name', async () => {
    const image = await store.allocate('Web01_root_1', MIB, A);
    await link(image.path, join(place.path, 'backup-of-root'));
    await mkdir(join(place.path, 'kept'));
    await link(image.path, join(place.path, 'kept', 'Web01_root_2.raw'));
    await rejects(store.takeName(image, 'Web01_root_1'), 'state-changed');
    assert.ok(await stat(image.path));
  });

  it('takes symbolic links, directories and pipes under image names for foreign, and leaves them alone', async () => {
    const image = await store.allocate('Web01_root_incomplete', MIB, A);
    await symlink(image.path, store.pathOf('Web01_root_1'));
    await mkdir(store.pathOf('Web01_root_2'));
    await run('mkfifo', [store.pathOf('Web01_root_3')]);
    await symlink('/nowhere', store.pathOf('Web01_root_4'));
    for (const slot of [1, 2, 3, 4]) {
      const name = `Web01_root_${String(slot)}`;
      const seen = await find(name);
      assert.equal(seen.identity, undefined, name);
      await rejects(store.giveName(image, name), 'exists');
      await rejects(store.giveName(seen, 'Web01_root_9'), 'not-ours');
      await rejects(store.remove(seen, A), 'not-ours');
      await rejects(store.bind(seen, A), 'not-ours', 'state-changed');
      await rejects(store.adopt(seen, A), 'state-changed');
      await rejects(store.allocate(name, MIB, A), 'exists');
    }
    assert.deepEqual((await readdir(place.path)).filter((name) => name.endsWith('.raw')).length, 5);
  });

  it('notices an image that was replaced by a copy of itself', async () => {
    const image = await store.allocate('Web01_root_1', MIB, A);
    await run('cp', ['--archive', image.path, `${image.path}.copy`]);
    await rm(image.path);
    await run('mv', [`${image.path}.copy`, image.path]);
    assert.deepEqual((await find('Web01_root_1')).identity, A, 'cp --archive keeps the attribute');
    await rejects(store.remove(image, A), 'state-changed');
    await rejects(store.giveName(image, 'Web01_root_2'), 'state-changed');
    await rejects(store.bind(image, A), 'state-changed');
  });

  it('does not believe an identity that is not one', async () => {
    for (const value of ['', 'nonsense', `${SET_A}`, `${SET_A}/`, `${SET_A}/root/more`, '../../x/root']) {
      await writeFile(store.pathOf('Web01_root_1'), 'x');
      await run('setfattr', ['--name=user.dr.set', `--value=${value}`, store.pathOf('Web01_root_1')]);
      assert.equal((await find('Web01_root_1')).identity, undefined, value);
    }
  });

  it('passes over names that no server or disk can have', async () => {
    for (const name of ['a b_c_1.raw', 'ü_ö_1.raw', '-n_x_1.raw', 'quote"\'_x_2.raw', 'back\\slash_x_1.raw', '_1.raw', 'x_0.raw', 'x_01.raw', '.hidden_x_1.raw']) await writeFile(join(place.path, name), 'x');
    const image = await store.allocate('Web01_root_1', MIB, A);
    assert.deepEqual(await store.list(), [image]);
  });

  it('notices a change of the content even when the length stays, to the nanosecond', async () => {
    const image = await store.allocate('Web01_root_1', MIB, A);
    const { atime, mtimeMs } = await stat(image.path);
    await utimes(image.path, atime, (mtimeMs + 1) / 1000);
    assert.notDeepEqual((await find('Web01_root_1')).touched, image.touched);
  });

  it('tidies allocations that died, and not those of a living process', async () => {
    const workshop = join(place.path, '.dr', 'new');
    await store.check();
    const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).slice(0, 8);
    const started = (await readFile('/proc/self/stat', 'utf8')).replace(/^.*\) /, '').split(' ')[19] ?? '';
    await writeFile(join(workshop, `${boot}-${String(process.pid)}-${started}-aaaa.raw`), 'alive');
    await writeFile(join(workshop, `${boot}-${String(process.pid)}-1-bbbb.raw`), 'an earlier process of the same number');
    await writeFile(join(workshop, `00000000-${String(process.pid)}-${started}-cccc.raw`), 'before the last boot');
    await writeFile(join(workshop, 'notes.txt'), 'not ours');
    await store.tidy();
    assert.deepEqual((await readdir(workshop)).sort(), [`${boot}-${String(process.pid)}-${started}-aaaa.raw`, 'notes.txt'].sort());
  });

  it('is refused where it is not there', async () => {
    const missing = new FileSystemStore(join(place.path, 'not-mounted'), 'sparse');
    await rejects(missing.check(), 'store-unusable');
    await rejects(missing.space(), 'store-unusable');
    await rejects(missing.list(), 'store-unusable');
    await rejects(missing.allocate('Web01_root_1', MIB, A), 'store-unusable');
    assert.deepEqual(await readdir(place.path), [], 'it was not made');
    await writeFile(join(place.path, 'file'), '');
    await rejects(new FileSystemStore(join(place.path, 'file'), 'sparse').list(), 'store-unusable');
  });

  it('is refused on a tmpfs', async function () {
    const memory = '/dev/shm';
    if (await stat(memory).then(() => run('stat', ['-fc', '%T', memory])).then(({ stdout }) => stdout.trim() !== 'tmpfs', () => true)) skipBecause(this, '/dev/shm is no tmpfs here');
    const directory = join(memory, `dr-test-${String(process.pid)}`);
    await mkdir(directory);
    try {
      await rejects(new FileSystemStore(directory, 'sparse').check(), 'store-unusable');
      await rejects(new FileSystemStore(directory, 'sparse').space(), 'store-unusable');
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  const special = (title: string, options: readonly string[], mkfs: readonly string[], expected: RegExp): void => {
    it(title, async function () {
      this.timeout(20_000);
      if (!isRoot) skipBecause(this, 'mounting needs root');
      const mounted = await mountedFileSystem('ext4', 32, mkfs, options);
      try {
        await assert.rejects(new FileSystemStore(mounted.path, 'sparse').check(), expected);
        assert.deepEqual((await readdir(mounted.path)).filter((name) => name.endsWith('.raw')), []);
      } finally {
        await mounted.remove();
      }
    });
  };
  special('is refused where O_DIRECT reads leave pages in the cache (ext4 with data=journal)', ['data=journal'], [], /page cache|O_DIRECT/);

  it('leaves nothing when the disk is full, and says so', async function () {
    this.timeout(20_000);
    if (!isRoot) skipBecause(this, 'mounting needs root');
    const mounted = await mountedFileSystem('ext4', 32);
    try {
      const full = new FileSystemStore(mounted.path, 'full');
      const kept = await full.allocate('Web01_root_1', 4 * MIB, A);
      await rejects(full.allocate('Web01_root_2', 64 * MIB, A), 'no-space');
      await rejects(full.resize(kept, 64 * MIB), 'no-space');
      assert.deepEqual((await full.list()).map(({ name }) => name), ['Web01_root_1']);
      assert.deepEqual(await readdir(join(mounted.path, '.dr', 'new')), []);
    } finally {
      await mounted.remove();
    }
  });

  it('is called by its path', () => {
    assert.equal(basename(store.pathOf('Web01_root_1')), 'Web01_root_1.raw');
    assert.throws(() => store.pathOf('../Web01_root_1'));
  });
});
