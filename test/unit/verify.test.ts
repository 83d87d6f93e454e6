import assert from 'node:assert/strict';
import { link, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Verified } from '../../src/model/views.js';
import { verify as verifyStore } from '../../src/stores/verify.js';
import { lock } from '../../src/system/flock.js';
import { run } from '../../src/system/run.js';
import { rejects } from '../conformance/store.js';
import { flipByte } from '../support/faulty-store.js';
import { content, MIB, setId, TestTarget, type Captured } from '../support/target.js';

describe('verify', function () {
  this.timeout(60_000); // a run takes half a second, on a busy machine several
  let target: TestTarget;
  beforeEach(async () => {
    target = await TestTarget.make();
    await target.run(day(1));
    await target.run(day(2));
  });
  afterEach(() => target.remove());
  const day = (n: number): Captured => ({ set: setId(n), disks: { root: content(n), data: content(n, MIB) }, provenSince: '2026-01-01T00:00:00.000Z' });
  const verify = async (adopt = false): Promise<Verified[]> => (await target.call('store.verify', { server: 'Web01', adopt })).results;
  const outcomes = async (adopt = false): Promise<string> => (await verify(adopt)).map(({ name, outcome }) => `${name.slice('Web01_'.length)} ${outcome}`).join(', ');
  const detail = async (name: string, adopt = false): Promise<string> => (await verify(adopt)).find((result) => result.name === name)?.detail ?? '';
  const manifest = (n: number) => target.open().catalog.manifest(setId(n));

  it('finds whole what is whole, renews its proof, and says how far it is', async () => {
    const before = new Date().toISOString();
    assert.equal(await outcomes(), 'data_1 ok, data_2 ok, root_1 ok, root_2 ok');
    for (const disk of (await manifest(1))?.disks ?? []) assert.ok(disk.provenSince >= before, 'its blocks were proven just now');
    const last = target.progress.at(-1);
    assert.ok(last !== undefined && last.done === last.total && last.total > 0);
    assert.equal(await target.states(), '1: proven, 2: proven');
  });

  it('finds a rotten byte, says where, voids that set\'s proof only, and has current lead to a good set', async () => {
    assert.deepEqual(await target.booted('root'), content(2));
    await flipByte(target.imagePath('Web01_root_1'), MIB + 17);
    assert.equal(await target.states(), '1: proven, 2: proven', 'nothing shows it before it is read');
    const damaged = (await verify()).find(({ name }) => name === 'Web01_root_1');
    assert.equal(damaged?.outcome, 'damaged');
    assert.match(damaged.detail, /^1 blocks of 1 MiB differ, at 1, and nobody has written to it/);
    assert.equal(await target.states(), '1: unproven, 2: proven');
    assert.match((await target.image('Web01_data_1')).because ?? '', /^damaged: Web01_root_1: 1 blocks/);
    assert.deepEqual(await target.booted('root'), content(1));
    assert.equal(await outcomes(), 'data_1 unproven, data_2 ok, root_1 unproven, root_2 ok');
  });

  it('finds a rotten byte in the last, short block', async () => {
    await flipByte(target.imagePath('Web01_root_1'), 2 * MIB + 4095);
    assert.match(await detail('Web01_root_1'), /at 2, /);
  });

  it('finds a rotten byte also without the digests of the blocks', async () => {
    await rm(target.open().catalog.digestsPath(setId(2), 'root'));
    assert.equal(await outcomes(), 'data_1 ok, data_2 ok, root_1 ok, root_2 ok');
    await flipByte(target.imagePath('Web01_root_1'), 0);
    assert.match(await detail('Web01_root_1'), /^its digest differs/);
  });

  it('takes what somebody wrote to for modified, not for damaged', async () => {
    await flipByte(target.imagePath('Web01_root_2'), 5, false);
    const result = (await verify()).find(({ name }) => name === 'Web01_root_2');
    assert.equal(result?.outcome, 'modified');
    assert.match(result.detail, /it was written .*; its content no longer equals its proof$/);
    assert.notEqual(await manifest(1), undefined, 'only release voids it');
    assert.equal(await target.states(), '1: proven, 2: modified');
  });

  it('gives back its proof to what was touched and not changed', async () => {
    await run('touch', [target.imagePath('Web01_root_2')]);
    assert.equal(await target.states(), '1: proven, 2: modified');
    assert.equal(await outcomes(), 'data_1 ok, data_2 ok, root_1 ok, root_2 ok');
    assert.equal(await target.states(), '1: proven, 2: proven');
  });

  it('gives back its proof to what was restored from a backup with its attributes', async () => {
    const path = target.imagePath('Web01_root_2');
    await run('cp', ['--archive', path, `${path}.saved`]);
    await rm(path);
    await run('mv', [`${path}.saved`, path]);
    assert.equal(await target.states(), '1: proven, 2: modified');
    await verify();
    assert.equal(await target.states(), '1: proven, 2: proven');
  });

  it('does not take a mark away, but says what the content is', async () => {
    await run('setfattr', ['-n', 'user.dr.modified', '-v', 'booted by hand', target.imagePath('Web01_root_2')]);
    assert.equal(await detail('Web01_root_2'), 'booted by hand; its content still equals its proof');
    await flipByte(target.imagePath('Web01_root_2'), 5);
    assert.equal(await detail('Web01_root_2'), 'booted by hand; its content no longer equals its proof');
    assert.equal(await target.states(), '1: proven, 2: modified');
  });

  it('gives no proof to one of two copies with the same identity', async () => {
    await run('cp', ['--archive', target.imagePath('Web01_root_2'), target.imagePath('Web01_root_7')]);
    assert.match(await detail('Web01_root_7'), /another file/);
    assert.match(await detail('Web01_root_2'), /another file/);
  });

  it('counts an image with two names once', async () => {
    await link(target.imagePath('Web01_root_2'), target.imagePath('Web01_root_3'));
    assert.equal((await verify()).filter(({ disk, set }) => disk === 'root' && set === setId(1)).length, 1);
  });

  it('leaves images alone that are in use, or whose server a run is at work on', async () => {
    await using held = await lock(join(target.path, 'state', 'locks', 'server-Web01.lock'), 'Web01');
    assert.equal(await outcomes(), 'data_1 in-use, data_2 in-use, root_1 in-use, root_2 in-use');
    await held.release();
    assert.equal(await outcomes(), 'data_1 ok, data_2 ok, root_1 ok, root_2 ok');
  });

  it('says of what was never completed that it is unproven', async () => {
    await target.begin(day(3));
    assert.equal(await outcomes(), 'data_2 ok, data_3 ok, data_incomplete unproven, root_2 ok, root_3 ok, root_incomplete unproven');
  });

  it('knows an image that cannot be read from one that differs', async () => {
    await run('truncate', ['-s', '-4096', target.imagePath('Web01_root_2')]);
    const result = (await verify()).find(({ name }) => name === 'Web01_root_2');
    assert.equal(result?.outcome, 'modified', 'somebody cut it');
    assert.notEqual(await manifest(1), undefined);
  });

  it('can be cancelled, and changes nothing then', async () => {
    for (const when of ['before', 'while it reads']) {
      const cancel = new AbortController();
      if (when === 'before') cancel.abort();
      await rejects(verifyStore(target.open(), target.current, undefined, false, { signal: cancel.signal, report: () => { cancel.abort(); } }), 'cancelled');
    }
    assert.equal((await manifest(1))?.disks[0]?.provenSince, '2026-01-01T00:00:00.000Z');
  });

  describe('with --adopt', () => {
    const lose = async (name: string): Promise<void> => {
      const bytes = await readFile(target.imagePath(name));
      await rm(target.imagePath(name));
      await writeFile(target.imagePath(name), bytes); // as a copy without extended attributes
    };

    it('binds again what lost its identity and equals its proof', async () => {
      await lose('Web01_root_2');
      await lose('Web01_data_2');
      assert.equal(await target.states(), '1: proven');
      assert.equal(await outcomes(), 'data_1 ok, root_1 ok', 'not without being told');
      assert.equal(await detail('Web01_root_2', true), 'adopted: it equals its proof');
      assert.equal(await target.states(), '1: proven, 2: proven');
    });

    it('binds it under whatever number it has now', async () => {
      await lose('Web01_root_2');
      await lose('Web01_data_2');
      for (const disk of ['root', 'data']) await run('mv', ['-n', target.imagePath(`Web01_${disk}_2`), target.imagePath(`Web01_${disk}_5`)]);
      await verify(true);
      assert.equal(await target.states(), '1: proven, 5: proven');
    });

    it('does not bind what differs, is a link, or whose set has that disk already', async () => {
      await lose('Web01_root_2');
      await flipByte(target.imagePath('Web01_root_2'), 9);
      await writeFile(target.imagePath('Web01_data_6'), await readFile(target.imagePath('Web01_data_1')));
      await symlink(target.imagePath('Web01_root_1'), target.imagePath('Web01_root_8'));
      assert.equal(await outcomes(true), 'data_1 ok, data_2 unproven, root_1 ok');
      assert.equal(await target.states(), '1: proven');
    });
  });
});
