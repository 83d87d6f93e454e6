import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Manifest, SetIntent } from '../../src/model/image-set.js';
import { FileCatalog } from '../../src/stores/catalog.js';
import { rejects } from '../conformance/store.js';
import { temporaryDirectory, type TestPlace } from '../support/file-systems.js';
import { setId, UUID } from '../support/target.js';

const intent: SetIntent = {
  version: 1, set: setId(1), generation: 1, anvil: 'an-a01', job: 'web', server: 'Web01', uuid: UUID, node: 'an-a01n01', capture: 'live', consistency: 'frozen',
  capturedAt: '2026-01-01T00:00:00.000Z', disks: [{ disk: 'root', target: 'vda', bytes: 4096 }],
};
const manifest: Manifest = {
  ...intent, completedAt: '2026-01-01T00:10:00.000Z', attachments: { 'definition.xml': 'ab' },
  disks: [{ disk: 'root', target: 'vda', bytes: 4096, digest: `sha256-1MiB:${'0'.repeat(64)}`, proof: 'device', provenSince: '2026-01-01T00:10:00.000Z', touched: { inode: '1', bytes: 4096, mtime: '1' } }],
};

describe('the catalog', () => {
  let place: TestPlace;
  let root: string;
  let catalog: FileCatalog;
  beforeEach(async () => {
    place = await temporaryDirectory('catalog');
    root = join(place.path, '.dr');
    catalog = new FileCatalog(root);
  });
  afterEach(() => place.remove());
  const manifestPath = (): string => join(root, 'sets', intent.set, 'manifest.json');

  it('is empty before anything was recorded', async () => {
    assert.deepEqual(await catalog.sets(), []);
    assert.deepEqual(await catalog.sets('Web01'), []);
    assert.equal(await catalog.intent(intent.set), undefined);
    assert.equal(await catalog.manifest(intent.set), undefined);
    await catalog.forget(intent.set);
    await catalog.retract(intent.set, 'nothing there');
    assert.deepEqual(await readdir(place.path), []);
  });

  it('records an intent once, and again if it is the same', async () => {
    await catalog.begin(intent);
    await catalog.begin(intent);
    await rejects(catalog.begin({ ...intent, uuid: 'another' }), 'exists');
    assert.deepEqual(await catalog.intent(intent.set), intent);
    assert.deepEqual(await catalog.sets('Web01'), [intent.set]);
    assert.deepEqual(await catalog.sets('Web02'), []);
  });

  it('makes a set complete once; another manifest never takes its place', async () => {
    await catalog.begin(intent);
    await catalog.complete(manifest);
    await catalog.complete(manifest);
    await rejects(catalog.complete({ ...manifest, completedAt: '2026-02-01T00:00:00.000Z' }), 'exists');
    assert.deepEqual(await catalog.manifest(intent.set), manifest);
  });

  it('amends only what is complete', async () => {
    await catalog.begin(intent);
    await rejects(catalog.amend(manifest), 'state-changed');
    await catalog.complete(manifest);
    const amended: Manifest = { ...manifest, disks: manifest.disks.map((disk) => ({ ...disk, touched: { ...disk.touched, inode: '2' } })) };
    await catalog.amend(amended);
    assert.deepEqual(await catalog.manifest(intent.set), amended);
  });

  it('keeps a retracted proof for people, with the reason', async () => {
    await catalog.begin(intent);
    await catalog.complete(manifest);
    await catalog.retract(intent.set, 'block 7 rotted');
    await catalog.retract(intent.set, 'again');
    assert.equal(await catalog.manifest(intent.set), undefined);
    assert.equal(await catalog.retracted(intent.set), 'block 7 rotted');
    assert.deepEqual(await catalog.intent(intent.set), intent);
    assert.match(await readFile(join(root, 'sets', intent.set, 'retracted.json'), 'utf8'), /sha256-1MiB/);
  });

  it('forgets a set and no other', async () => {
    const other = { ...intent, set: setId(2), generation: 2 };
    await catalog.begin(intent);
    await catalog.begin(other);
    await catalog.complete(manifest);
    await writeFile(catalog.digestsPath(intent.set, 'root'), 'x');
    await catalog.forget(intent.set);
    assert.deepEqual(await catalog.sets(), [other.set]);
    assert.deepEqual(await readdir(join(root, 'sets')), [other.set]);
  });

  it('forgets the proof first, so that a death in between leaves no proof without records', async () => {
    await catalog.begin(intent);
    await catalog.complete(manifest);
    await mkdir(join(root, 'sets', intent.set, 'unremovable')); // unlink fails on a directory
    await assert.rejects(catalog.forget(intent.set));
    assert.equal(await catalog.manifest(intent.set), undefined);
    assert.deepEqual(await catalog.intent(intent.set), intent);
  });

  for (const [what, damage] of [
    ['is cut short', (text: string) => text.slice(0, text.length / 2)],
    ['is empty', () => ''],
    ['has a digest that is none', (text: string) => text.replace(/sha256-1MiB:0+/, 'sha256-1MiB:xyz')],
    ['has no disks', (text: string) => text.replace(/"disks": \[[^\]]*\]/, '"disks": []')],
    ['has a disk that is a path', (text: string) => text.replace('"disk": "root"', '"disk": "../root"')],
    ['is another set\'s', (text: string) => text.replace(setId(1), setId(2))],
    ['is of a later version', (text: string) => text.replace('"version": 1', '"version": 2')],
  ] as const) {
    it(`takes no manifest that ${what} for a proof`, async () => {
      await catalog.begin(intent);
      await catalog.complete(manifest);
      const text = await readFile(manifestPath(), 'utf8');
      assert.notEqual(damage(text), text);
      await writeFile(manifestPath(), damage(text));
      await rejects(catalog.manifest(intent.set), 'manifest-damaged');
    });
  }

  it('is closed to other users but for the way to nvram files', async () => {
    const before = process.umask(0o077);
    try {
      await catalog.begin(intent);
      await catalog.complete(manifest);
    } finally {
      process.umask(before);
    }
    for (const directory of [root, join(root, 'sets'), join(root, 'sets', intent.set)]) assert.equal((await stat(directory)).mode & 0o777, 0o711, directory);
    for (const file of ['intent.json', 'manifest.json']) assert.equal((await stat(join(root, 'sets', intent.set, file))).mode & 0o777, 0o600, file);
  });

  it('lets no path trick by', () => {
    assert.throws(() => catalog.directory('../../etc'));
    assert.throws(() => catalog.directory(`${setId(1)}/..`));
    assert.throws(() => catalog.digestsPath(setId(1), '../../x'));
  });
});
