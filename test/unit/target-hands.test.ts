import assert from 'node:assert/strict';
import { mkdir, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { planBegin } from '../../src/rotation/plan.js';
import { markActivated } from '../../src/stores/activated.js';
import { lock } from '../../src/system/flock.js';
import { run, start } from '../../src/system/run.js';
import { rejects } from '../conformance/store.js';
import { isRoot } from '../support/file-systems.js';
import { skipBecause } from '../support/skip.js';
import { blockDigests, content, MIB, setId, TestTarget, type Captured } from '../support/target.js';

describe('a target', function () {
  this.timeout(60_000); // a run takes half a second, on a busy machine several
  let target: TestTarget;
  beforeEach(async () => { target = await TestTarget.make(); });
  afterEach(() => target.remove());
  const day = (n: number, more: Partial<Captured> = {}): Captured => ({ set: setId(n), disks: { root: content(n), data: content(n, MIB) }, ...more });
  const nothing = { disks: { root: Buffer.alloc(0) } };

  it('keeps the last three of five runs, and `current` leads to the newest', async () => {
    for (const n of [1, 2, 3, 4, 5]) {
      await target.run(day(n));
      assert.deepEqual(await target.booted('root'), content(n));
      assert.deepEqual(await target.booted('data'), content(n, MIB));
    }
    assert.equal(await target.states(), '1: proven, 2: proven, 3: proven');
    assert.deepEqual(await readFile(target.imagePath('Web01_root_3')), content(3));
    assert.deepEqual((await readdir(join(target.path, 'store', '.dr', 'sets'))).sort(), [setId(3), setId(4), setId(5)], 'records of sets that are gone are forgotten');
  });

  it('keeps with each set what it takes to boot it', async () => {
    await target.run(day(1, { nvram: 'variables' }));
    const directory = target.open().catalog.directory(setId(1));
    assert.equal(await readFile(join(directory, 'definition.xml'), 'utf8'), '<domain/>');
    assert.equal(await readFile(join(directory, 'nvram'), 'utf8'), 'variables');
    assert.equal((await target.booted('nvram')).toString(), 'variables', 'definitions point at it through current');
    const manifest = await target.open().catalog.manifest(setId(1));
    assert.deepEqual(Object.keys(manifest?.attachments ?? {}), ['definition.xml', 'nvram']);
    assert.deepEqual(await readFile(target.open().catalog.digestsPath(setId(1), 'root')), blockDigests(content(1)));
  });

  describe('says what an incomplete image holds', () => {
    const startOf = async (disk = 'root', reproveAfterSeconds = 86_400): Promise<unknown> => {
      const { start: said } = await target.call('store.incomplete', { server: 'Web01', disk, set: target.begun, reproveAfterSeconds });
      return typeof said === 'string' || 'without' in said ? said : { ...said, recycle: said.recycle.replace(target.path, '') };
    };
    const recycled = (n: number, since: string): unknown => ({ recycle: `/store/.dr/sets/${setId(n)}/root.digests`, provenSince: since });
    const now = new Date().toISOString();
    const small = (n: number, since = now, disks: Captured['disks'] = { root: content(n) }): Captured => ({ set: setId(n), copies: 2, provenSince: since, disks });
    const both = (n: number, bytes: number): Captured => small(n, now, { root: content(n, bytes), data: content(n, MIB) });
    const two = async (since = now): Promise<void> => { for (const n of [1, 2]) await target.run(small(n, since)); };

    it('zeros, for a new one; and that only once', async () => {
      await target.begin(small(1));
      assert.equal(await startOf(), 'fresh');
      assert.equal(await startOf(), 'read', 'somebody may have written since');
    });

    it('zeros, also when the run that allocated it died before it wrote', async () => {
      await target.begin(small(1));
      await target.begin(small(2));
      assert.equal(await startOf(), 'fresh');
    });

    it('the oldest set\'s proven blocks; and that only once', async () => {
      await two();
      await target.begin(small(3));
      assert.deepEqual(await startOf(), recycled(1, now));
      assert.equal(await startOf(), 'read');
    });

    it('the oldest set\'s proven blocks, also when a run died before it wrote and the store was tidied', async () => {
      await two();
      await target.begin(small(3));
      await target.begin(small(4));
      await target.call('store.tidy', {});
      assert.deepEqual(await startOf(), recycled(1, now));
    });

    it('unknown blocks, when a run died while it wrote', async () => {
      await two();
      await target.begin(small(3));
      await target.receive('Web01', 'root', content(3));
      await target.begin(small(4));
      assert.equal(await startOf(), 'read');
    });

    it('unknown blocks, when they were proven too long ago', async () => {
      const old = new Date(Date.now() - 2 * 86_400_000).toISOString();
      await two(old);
      await target.begin(small(3));
      assert.equal(await startOf(), 'read');
    });

    it('unknown blocks, when the clock says that they were proven in the future', async () => {
      await two('2099-01-01T00:00:00.000Z');
      await target.begin(small(3));
      assert.equal(await startOf(), 'read');
    });

    it('unknown blocks, when somebody wrote after it was taken for recycling', async () => {
      await two();
      await target.begin(small(3));
      await writeByte('Web01_root_incomplete');
      assert.equal(await startOf(), 'read');
    });

    it('unknown blocks, when the digests are not those of the proof', async () => {
      await two();
      await target.begin(small(3));
      await writeFile(target.open().catalog.digestsPath(setId(1), 'root'), blockDigests(content(9)));
      assert.equal(await startOf(), 'read');
    });

    it('unknown blocks, when the disk has another size now', async () => {
      for (const n of [1, 2]) await target.run(both(n, 2 * MIB));
      await target.begin(both(3, 3 * MIB));
      assert.equal(await startOf(), 'read');
      assert.notEqual(await startOf('data'), 'read', 'the other disk is not concerned');
    });
  });

  describe('tells the digests of an image that is going to be recycled', () => {
    const bytes = 3 * MIB - 512;
    const tell = async (n: number, more: Partial<{ first: number; bytes: number; reproveAfterSeconds: number }> = {}): Promise<Buffer> => {
      const { digests } = await target.call('store.digests', { set: setId(n), disk: 'root', bytes, first: 0, reproveAfterSeconds: 86_400, ...more });
      return Buffer.from(digests, 'base64');
    };
    beforeEach(() => target.run({ set: setId(1), disks: { root: content(1, bytes) } }));

    it('from any block on, and none behind the last', async () => {
      const all = blockDigests(content(1, bytes));
      assert.deepEqual(await tell(1), all);
      assert.deepEqual(await tell(1, { first: 2 }), all.subarray(64));
      for (const first of [3, 4]) assert.equal((await tell(1, { first })).length, 0);
    });

    it('and none where they are not known', async () => {
      assert.equal((await tell(2)).length, 0);
      assert.equal((await tell(1, { bytes: 3 * MIB })).length, 0);
      assert.equal((await tell(1, { reproveAfterSeconds: -1 })).length, 0);
      await writeByte('Web01_root_1');
      assert.equal((await tell(1)).length, 0);
    });

    it('and changes nothing by that', async () => {
      await tell(1);
      await target.run({ set: setId(2), disks: { root: content(2, bytes) } });
      assert.equal(await target.states(), '1: proven, 2: proven');
    });
  });

  it('answers nothing for an image that is proven, foreign or not there', async () => {
    const ask = (disk: string): Promise<unknown> => target.call('store.incomplete', { server: 'Web01', disk, set: setId(1), reproveAfterSeconds: 1 });
    await rejects(ask('root'), 'state-changed');
    await writeFile(target.imagePath('Web01_root_incomplete'), 'mine');
    await rejects(ask('root'), 'state-changed');
    await rm(target.imagePath('Web01_root_incomplete'));
    await target.begin(day(1));
    await target.prove(day(1));
    await rejects(ask('root'), 'state-changed');
  });

  it('answers nothing for a set whose image another run has taken meanwhile', async () => {
    await target.begin(day(1));
    await target.begin(day(2));
    await rejects(target.call('store.incomplete', { server: 'Web01', disk: 'root', set: setId(1), reproveAfterSeconds: 1 }), 'state-changed');
    await target.call('store.incomplete', { server: 'Web01', disk: 'root', set: setId(2), reproveAfterSeconds: 1 });
  });

  describe('proves nothing', () => {
    const prove = async (change: (disks: Record<string, { ticket: string; digest: string }>) => Promise<void>): Promise<void> => {
      const root = await target.receive('Web01', 'root', content(1));
      const data = await target.receive('Web01', 'data', content(1, MIB));
      const disks = { root: { ticket: root.ticket, digest: root.digest }, data: { ticket: data.ticket, digest: data.digest } };
      await change(disks);
      await target.call('store.prove', { set: setId(1), disks, definition: '<domain/>' });
    };
    const refused = async (change: Parameters<typeof prove>[0], ...codes: Parameters<typeof rejects>[1][]): Promise<void> => {
      await target.begin(day(1));
      await rejects(prove(change), ...codes);
      assert.equal(await target.open().catalog.manifest(setId(1)), undefined);
      assert.equal(await target.states(), 'incomplete: partial');
    };

    it('when a disk arrived otherwise than it was sent', () => refused(async (disks) => { disks['root'] = await target.ticket(content(2)).then(({ ticket }) => ({ ticket, digest: disks['root']?.digest ?? '' })); }, 'digest-mismatch'));
    it('when a disk did not arrive', () => refused((disks) => { delete disks['data']; return Promise.resolve(); }, 'state-changed'));
    it('when there is a disk too many', async () => {
      await refused((disks) => { disks['more'] = { ticket: 'x', digest: 'x' }; return Promise.resolve(); }, 'state-changed');
    });
    it('when a transfer has no result', () => refused(async (disks) => { await rm(join(target.path, 'state', 'tickets', disks['root']?.ticket ?? '', 'result.json')); }, 'state-changed', 'transfer-failed'));
    it('when the block digests are not those of the image', () => refused(async (disks) => { await writeFile(join(target.path, 'state', 'tickets', disks['root']?.ticket ?? '', 'digests'), blockDigests(content(3))); }, 'state-changed', 'digest-mismatch'));
    it('when the digests are of fewer blocks than the disk has', () => refused(async (disks) => { disks['root'] = await target.ticket(content(1, MIB)); }, 'state-changed'));
    it('when a ticket is a path', () => refused((disks) => { disks['root'] = { ticket: '../../x', digest: '' }; return Promise.resolve(); }, 'not-ours', 'state-changed'));
    it('when an image was replaced by one that is not bound', () => refused(async () => {
      await rm(target.imagePath('Web01_data_incomplete'));
      await writeFile(target.imagePath('Web01_data_incomplete'), content(1, MIB));
    }, 'state-changed'));
    it('when an image was cut short', () => refused(async () => { await run('truncate', ['-s', '-1', target.imagePath('Web01_root_incomplete')]); }, 'state-changed'));

    it('when an image was marked as booted meanwhile', async () => {
      await target.begin(day(1));
      await rejects(prove(async () => { await run('setfattr', ['-n', 'user.dr.modified', '-v', 'booted', target.imagePath('Web01_root_incomplete')]); }), 'image-modified');
      assert.equal(await target.open().catalog.manifest(setId(1)), undefined);
    });

    it('of a set that was never begun', async () => {
      await rejects(target.call('store.prove', { set: setId(7), disks: {}, definition: '' }), 'state-changed');
    });
  });

  it('proves a set once; asking again is answered with its manifest', async () => {
    await target.begin(day(1));
    await target.prove(day(1));
    const { manifest } = await target.call('store.prove', { set: setId(1), disks: {}, definition: 'other' });
    assert.equal(manifest.set, setId(1));
  });

  it('takes nothing away from a set that somebody else made under the same name', async () => {
    await target.run(day(1));
    const other = day(2, { anvil: 'an-a02' });
    const seen = await target.observe(other);
    assert.deepEqual(seen.images, []);
    assert.deepEqual(seen.foreign.map(({ name }) => name), ['Web01_data_1', 'Web01_root_1']);
    assert.equal(planBegin(seen, { intent: { ...(await target.open().catalog.intent(setId(1)))!, set: setId(2), generation: 9 }, copies: 3, overwriteOnlyCopy: false, freeBytes: 2 ** 40 }).kind, 'refusal'); // eslint-disable-line @typescript-eslint/no-non-null-assertion
    assert.equal((await target.observe(day(2, { uuid: 'another' }))).foreign.length, 2);
  });

  it('counts a foreign thing under the name of the link as in the way', async () => {
    await mkdir(join(target.ref.current, 'Web01'), { recursive: true });
    assert.deepEqual((await target.observe(nothing)).foreign.map(({ name }) => name), ['current/Web01']);
  });

  describe('keeps off', () => {
    beforeEach(async () => { for (const n of [1, 2, 3]) await target.run(day(n)); });
    const steps = (slot: 1 | 3): Parameters<TestTarget['call']>[1] => ({ server: 'Web01', steps: [{ kind: 'move', set: setId(4 - slot), from: slot, to: 9, disks: ['root', 'data'] }] }) as Parameters<TestTarget['call']>[1];

    it('an image that a process has open', async () => {
      const letGo = await holdOpen('Web01_root_3');
      try {
        const inUse = (await target.image('Web01_root_3')).inUse;
        assert.match(inUse ?? '', /^cat \(process \d+\)$/);
        await rejects(target.call('store.execute', steps(3) as never), 'image-in-use');
        assert.equal((await target.image('Web01_root_1')).inUse, undefined);
      } finally {
        await letGo();
      }
    });

    it('an image behind a loop device', async function () {
      if (!isRoot) skipBecause(this, 'loop devices need root');
      const device = (await run('losetup', ['--find', '--show', '--read-only', target.imagePath('Web01_root_3')])).stdout.trim();
      try {
        assert.equal((await target.image('Web01_root_3')).inUse, device);
        await rejects(target.call('store.execute', steps(3) as never), 'image-in-use');
      } finally {
        await run('losetup', ['--detach', device]);
      }
    });

    it('an image that was booted by hand, until it is released', async () => {
      await run('setfattr', ['-n', 'user.dr.modified', '-v', 'booted by hand', target.imagePath('Web01_root_3')]);
      assert.equal((await target.image('Web01_root_3')).state, 'modified');
      await rejects(target.call('store.execute', steps(3) as never), 'image-modified');
      assert.deepEqual(await target.call('activated.release', { server: 'Web01' }), { released: true });
      assert.equal(await target.states(), '1: proven, 2: proven, 3: unproven');
      assert.equal(await target.states('Web01', 'data'), '1: proven, 2: proven, 3: unproven', 'its set as a whole is no longer proven');
      assert.match((await target.image('Web01_root_3')).because ?? '', /released after/);
      assert.deepEqual(await target.call('activated.release', { server: 'Web01' }), { released: false });
    });

    it('an image that somebody wrote to, and keeps the link on it: those disks are wanted after a reboot', async () => {
      await writeByte('Web01_root_1');
      assert.equal(await target.states(), '1: modified, 2: proven, 3: proven');
      await rm(join(target.ref.current), { recursive: true });
      await target.call('store.tidy', {});
      assert.notDeepEqual(await target.booted('root'), content(2));
      assert.deepEqual(await target.booted('data'), content(3, MIB));
      await target.call('activated.release', { server: 'Web01' });
      assert.deepEqual(await target.booted('root'), content(2), 'after its release the newest proven set is the one to boot');
    });

    it('all images of a server that was activated, until it is released', async () => {
      await markActivated({ server: 'Web01', set: setId(2), at: '2026-01-09T00:00:00.000Z', by: 'by dr-activate' });
      assert.equal((await target.observe(nothing)).activated, 'booted 2026-01-09T00:00:00.000Z by dr-activate');
      await rejects(target.call('store.execute', steps(3) as never), 'image-in-use');
      await rm(target.ref.current, { recursive: true });
      await target.call('store.tidy', {});
      assert.deepEqual(await target.booted('root'), content(2), 'the set that was activated is the one to boot again');
      assert.deepEqual(await target.call('activated.release', { server: 'Web01' }), { released: true });
      assert.equal((await target.observe(nothing)).activated, undefined);
      assert.equal(await target.states(), '1: proven, 2: proven, 3: proven', 'nobody had written to them');
    });

    it('a server whose mark is damaged', async () => {
      await mkdir(join(target.path, 'state', 'activated'), { recursive: true });
      await writeFile(join(target.path, 'state', 'activated', 'Web01.json'), '{');
      assert.match((await target.observe(nothing)).activated ?? '', /damaged/);
      await rejects(target.call('store.execute', steps(3) as never), 'image-in-use');
    });

    it('release while an image is in use', async () => {
      await run('setfattr', ['-n', 'user.dr.modified', '-v', 'booted by hand', target.imagePath('Web01_root_3')]);
      const letGo = await holdOpen('Web01_root_3');
      try {
        await rejects(target.call('activated.release', { server: 'Web01' }), 'image-in-use');
      } finally {
        await letGo();
      }
      assert.equal((await target.image('Web01_root_3')).state, 'modified');
    });
  });

  describe('tidies', () => {
    it('links that a reboot lost, for every server', async () => {
      await target.run(day(1));
      await target.run(day(2, { server: 'Db01', uuid: 'u' }));
      await rm(join(target.path, 'shared'), { recursive: true });
      await target.call('store.tidy', {});
      assert.deepEqual(await target.booted('root'), content(1));
      assert.deepEqual(await target.booted('root', 'Db01'), content(2));
    });

    it('to a set that was proven when its run died before it had its name', async () => {
      await target.run(day(1));
      await target.begin(day(2));
      await target.prove(day(2));
      await rm(join(target.path, 'shared'), { recursive: true });
      await target.call('store.tidy', {});
      assert.deepEqual(await target.booted('root'), content(2));
      await target.run(day(3));
      assert.equal(await target.states(), '1: proven, 2: proven, 3: proven');
    });

    it('nothing of a server that a run is at work on', async () => {
      await target.run(day(1));
      await rm(join(target.path, 'shared'), { recursive: true });
      await using _held = await lock(join(target.path, 'state', 'locks', 'server-Web01.lock'), 'Web01');
      await target.call('store.tidy', {});
      await assert.rejects(target.booted('root'));
      await target.call('store.tidy', { server: 'Web01' }); // the run itself
      assert.deepEqual(await target.booted('root'), content(1));
    });

    it('no link that is not ours', async () => {
      await target.run(day(1));
      await rm(join(target.ref.current, 'Web01'));
      await writeFile(join(target.ref.current, 'Web01'), 'mine');
      await target.call('store.tidy', {});
      assert.equal(await readFile(join(target.ref.current, 'Web01'), 'utf8'), 'mine');
    });
  });

  it('writes nothing when it is only asked', async () => {
    const all = async (): Promise<string[]> => await readdir(target.path, { recursive: true });
    const before = await all();
    await target.observe(day(1));
    await target.call('store.observe', { servers: 'all' });
    await target.call('store.space', {});
    await target.call('definition.list', {});
    assert.deepEqual(await all(), before);
  });

  it('lists definitions', async () => {
    await mkdir(target.ref.definitions, { recursive: true });
    await writeFile(join(target.ref.definitions, 'Web01.xml'), '<domain/>');
    await writeFile(join(target.ref.definitions, '.Web02.xml'), '');
    await writeFile(join(target.ref.definitions, 'notes.txt'), '');
    await mkdir(join(target.ref.definitions, 'directory.xml'));
    assert.deepEqual((await target.call('definition.list', {})).definitions, [{ server: 'Web01', path: join(target.ref.definitions, 'Web01.xml'), xml: '<domain/>' }]);
  });

  /** Another process opens an image for reading, as QEMU has the backing file of an overlay. */
  async function holdOpen(name: string): Promise<() => Promise<void>> {
    const child = start('sh', ['-c', 'exec 3<"$0"; echo open; exec cat >/dev/null', target.imagePath(name)], { stdio: ['pipe', 'pipe', 'ignore'] });
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    return async () => {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.stdin?.end();
      await ended;
    };
  }

  async function writeByte(name: string): Promise<void> {
    const handle = await open(target.imagePath(name), 'r+');
    await handle.write(Buffer.from('!'), 0, 1, 100);
    await handle.close();
    assert.ok(await stat(target.imagePath(name)));
  }
});
