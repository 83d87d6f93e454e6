import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FileCurrentLinks } from '../../src/rotation/current.js';
import { rejects } from '../conformance/store.js';
import { temporaryDirectory, type TestPlace } from '../support/file-systems.js';
import { setId } from '../support/target.js';

describe('the current links', () => {
  let place: TestPlace;
  let directory: string;
  let sets: string;
  let links: FileCurrentLinks;
  const extras: Record<string, string> = {};
  const image = (name: string): string => join(place.path, 'store', name);
  const to = (day: number, slot: number | 'incomplete', ...disks: readonly string[]): Parameters<FileCurrentLinks['point']>[1] =>
    ({ set: setId(day), slot, paths: Object.fromEntries(disks.map((disk) => [disk, image(`${disk}${String(day)}`)])) });
  const shown = async (server: string, disk: string): Promise<string> => await readFile(join(directory, server, disk), 'utf8');

  beforeEach(async () => {
    place = await temporaryDirectory('current');
    directory = join(place.path, 'shared', 'dr', 'current');
    sets = join(place.path, 'shared', 'dr', 'sets');
    await mkdir(join(place.path, 'store'));
    for (const disk of ['root', 'data', 'nvram']) for (const day of [1, 2, 3]) await writeFile(image(`${disk}${String(day)}`), `${disk} of day ${String(day)}`);
    for (const name of Object.keys(extras)) Reflect.deleteProperty(extras, name);
    links = new FileCurrentLinks(directory, () => Promise.resolve(extras));
  });
  afterEach(() => place.remove());

  it('lead nowhere at first', async () => {
    assert.equal(await links.read('Web01'), undefined);
    await links.point('Web01', null);
    assert.deepEqual(await readdir(place.path), ['store']);
  });

  it('lead to all disks of one set, and are switched at once', async () => {
    await links.point('Web01', to(1, 1, 'root', 'data'));
    assert.equal(await shown('Web01', 'root'), 'root of day 1');
    assert.equal(await shown('Web01', 'data'), 'data of day 1');
    assert.deepEqual(await links.read('Web01'), { set: setId(1), slot: 1 });
    await links.point('Web01', to(2, 1, 'root'));
    assert.deepEqual(await links.read('Web01'), { set: setId(2), slot: 1 });
    assert.deepEqual(await readdir(join(directory, 'Web01')), ['root'], 'a disk that is gone has no link');
    assert.deepEqual(await readdir(sets), [`Web01-${setId(2)}-1`], 'what the link no longer leads to is removed');
    assert.equal(await readlink(join(directory, 'Web01')), `../sets/Web01-${setId(2)}-1`);
  });

  it('carry the UEFI variables of the set', async () => {
    extras['nvram'] = image('nvram1');
    await links.point('Web01', to(1, 1, 'root'));
    assert.equal(await shown('Web01', 'nvram'), 'nvram of day 1');
  });

  it('let every user pass, whatever the umask: QEMU is not root', async () => {
    const before = process.umask(0o077);
    try {
      await links.point('Web01', to(1, 1, 'root'));
    } finally {
      process.umask(before);
    }
    for (const path of [directory, sets, join(directory, 'Web01'), join(place.path, 'shared'), join(place.path, 'shared', 'dr')]) assert.equal((await stat(path)).mode & 0o777, 0o755, path);
  });

  it('are removed when there is nothing to lead to', async () => {
    await links.point('Web01', to(1, 1, 'root'));
    await links.point('Web01', null);
    await links.point('Web01', null);
    assert.equal(await links.read('Web01'), undefined);
    assert.deepEqual([await readdir(directory), await readdir(sets)], [[], []]);
  });

  it('stay as they are when a path is not there', async () => {
    await links.point('Web01', to(1, 1, 'root'));
    await rejects(links.point('Web01', to(9, 1, 'root')), 'state-changed');
    assert.equal(await shown('Web01', 'root'), 'root of day 1');
  });

  it('are made again where their directory was changed or lost', async () => {
    await links.point('Web01', to(1, 1, 'root', 'data'));
    await rm(join(sets, `Web01-${setId(1)}-1`, 'data'));
    await links.point('Web01', to(1, 1, 'root', 'data'));
    assert.equal(await shown('Web01', 'data'), 'data of day 1');
    assert.deepEqual(await links.read('Web01'), { set: setId(1), slot: 1 });
    await rm(sets, { recursive: true });
    await links.point('Web01', to(1, 1, 'root', 'data'));
    assert.equal(await shown('Web01', 'root'), 'root of day 1');
    assert.equal((await readdir(sets)).length, 1);
  });

  it('are not disturbed by what a death left', async () => {
    await links.point('Web01', to(1, 1, 'root'));
    await mkdir(join(sets, `Web01-${setId(2)}-1`)); // died while it made the links
    await symlink(image('data1'), join(sets, `Web01-${setId(2)}-1`, 'root'));
    await symlink('../sets/x', join(directory, '.Web01.0123456789ab.tmp')); // died before it switched
    await links.point('Web01', to(2, 1, 'root'));
    assert.equal(await shown('Web01', 'root'), 'root of day 2');
    assert.deepEqual(await readdir(directory), ['Web01']);
    assert.deepEqual(await readdir(sets), [`Web01-${setId(2)}-1`]);
  });

  it('do not touch another server\'s, whose name begins the same', async () => {
    await links.point('Web01', to(1, 1, 'root'));
    await links.point('Web01-old', to(2, 1, 'root'));
    await links.point('Web01', to(3, 1, 'root'));
    await links.point('Web01', null);
    assert.equal(await shown('Web01-old', 'root'), 'root of day 2');
  });

  for (const [what, put] of [
    ['a directory', (path: string) => mkdir(path)],
    ['a file', (path: string) => writeFile(path, 'mine')],
    ['a link to elsewhere', (path: string) => symlink('/srv', path)],
    ['a link to another server\'s', (path: string) => symlink(`../sets/Db01-${setId(1)}-1`, path)],
    ['a link out of the directory', (path: string) => symlink(`../../sets/Web01-${setId(1)}-1`, path)],
  ] as const) {
    it(`never replace ${what} of the admin`, async () => {
      await mkdir(directory, { recursive: true });
      await put(join(directory, 'Web01'));
      await rejects(links.read('Web01'), 'not-ours');
      await rejects(links.point('Web01', to(1, 1, 'root')), 'not-ours');
      await rejects(links.point('Web01', null), 'not-ours');
      assert.deepEqual(await readdir(directory), ['Web01']);
    });
  }

  it('leave a directory alone that holds more than links', async () => {
    await links.point('Web01', to(1, 1, 'root'));
    const directory1 = join(sets, `Web01-${setId(1)}-1`);
    await writeFile(join(directory1, 'notes'), 'mine');
    await links.point('Web01', to(2, 1, 'root'));
    assert.equal(await readFile(join(directory1, 'notes'), 'utf8'), 'mine');
    await links.point('Web01', to(1, 1, 'root')); // its name is taken now
    assert.equal(await shown('Web01', 'root'), 'root of day 1');
    assert.deepEqual(await links.read('Web01'), { set: setId(1), slot: 1 });
    assert.equal(await readFile(join(directory1, 'notes'), 'utf8'), 'mine');
  });

  it('refuse names that are paths', async () => {
    await rejects(links.read('../Web01'), 'name-invalid');
    await rejects(links.point('..', null), 'name-invalid');
  });
});
