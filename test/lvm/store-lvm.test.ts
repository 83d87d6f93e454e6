import assert from 'node:assert/strict';
import { lstat, mkdtemp, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SetIntent, StoredImage } from '../../src/model/image-set.js';
import { volumeProblem } from '../../src/model/volume-names.js';
import { openStore, type OpenStore } from '../../src/stores/open.js';
import { tidy } from '../../src/stores/tidy.js';
import { compareTouched } from '../../src/stores/touched.js';
import { usersOf } from '../../src/stores/users.js';
import { run, start } from '../../src/system/run.js';
import { currentOf } from '../../src/agent/target-hands.js';
import { rejects } from '../conformance/store.js';
import { allow, DISKS, onlyInVm, soil, wipe } from './ground.js';
import { pullOut, readAt, writeAt } from './volumes.js';

const MIB = 1024 * 1024;
const A = { set: '20260101T000000Z-00000000000000aa', disk: 'root' };
const B = { set: '20260102T000000Z-00000000000000bb', disk: 'root' };

/** Opened anew for each use, as agents do for each request. */
function opened(store: string): OpenStore {
  const open = (): OpenStore => openStore({ store, allocation: 'sparse' });
  return { get store() { return open().store; }, get catalog() { return open().catalog; } };
}

/** What only a store of logical volumes has to get right. Its groups: `va` and `vb` of one size, `torn` of two disks; extents of 1 MiB. */
describe('a store of volume groups', function () {
  this.timeout(300_000);
  let state = '';
  let va: OpenStore;
  let both: OpenStore;

  before(async function () {
    onlyInVm(this);
    await wipe();
    await soil(0, 32);
    for (const [name, disks] of [['va', [0]], ['vb', [1]], ['torn', [2, 3]]] as const) {
      await run('vgcreate', ['--quiet', '--yes', '--physicalextentsize', '1M', name, ...disks.map((index) => DISKS[index] ?? '')]);
    }
    await allow('va', 'vb', 'torn');
    state = await mkdtemp(join(tmpdir(), 'dr-state-'));
    process.env['DR_STATE_DIR'] = state;
    va = opened('vg:va');
    both = opened('vg:vb,va');
  });
  after(async () => {
    delete process.env['DR_STATE_DIR'];
    if (state !== '') await rm(state, { recursive: true });
  });
  afterEach(() => run('lvremove', ['--quiet', '--force', '--yes', 'va', 'vb'], { okExit: [0, 5] }));

  it('puts a new volume where most is free, and of equal groups into the first by name', async () => {
    const parts: unknown[] = [];
    for (const slot of [1, 2, 3]) parts.push((await both.store.allocate(`Web01_root_${String(slot)}`, 8 * MIB, A)).part);
    assert.deepEqual(parts, ['va', 'vb', 'va']);
    await rejects(both.store.allocate('Web01_root_2', MIB, B), 'exists');
    await rejects(both.store.allocate('Web01_root_4', 2 ** 32, B), 'no-space');
    const { freeBytes, parts: free = [] } = await both.store.space();
    assert.equal(free.reduce((sum, one) => sum + one.freeBytes, 0), freeBytes);
    assert.ok(free.every((one) => one.freeBytes < 2 ** 31 && one.extentBytes === MIB));
  });

  it('zeroes what lies behind an image, and nothing of the image, before it counts as proven', async () => {
    const image = await va.store.allocate('Web01_root_incomplete', 5 * MIB + 512, A);
    assert.equal((await readAt(image.path, 5 * MIB, 1024)).toString('latin1'), 'Z'.repeat(1024), 'a new volume holds what lay there');
    await writeAt(image.path, 5 * MIB, Buffer.alloc(512, 'i'));
    const settled = await va.store.settle(image);
    assert.equal(settled.bytes, 5 * MIB + 512);
    const end = await readAt(image.path, 5 * MIB, MIB);
    assert.equal(end.subarray(0, 512).toString('latin1'), 'i'.repeat(512));
    assert.ok(end.subarray(512).every((byte) => byte === 0));
    assert.deepEqual((await va.store.settle(settled)).touched, settled.touched, 'and writes nothing when it is zero already');
  });

  it('grows and shrinks a recycled volume, and forgets what was said of its old content', async () => {
    const image = await va.store.allocate('Web01_root_incomplete', 3 * MIB + 512, A);
    await writeAt(image.path, 0, Buffer.from('head'));
    await va.store.bind(image, B);
    assert.equal((await va.store.list())[0]?.origin, 'stale', 'nothing was written by a run since it was allocated');
    await va.store.forgetOrigin(image);
    await va.store.bind(image, A);
    const grown = await va.store.resize(image, 9 * MIB + 1024);
    assert.deepEqual([grown.bytes, grown.allocatedBytes, grown.origin], [9 * MIB + 1024, 10 * MIB, undefined]);
    await va.store.bind(grown, B);
    const shrunk = await va.store.resize(grown, MIB + 512);
    assert.deepEqual([shrunk.bytes, shrunk.allocatedBytes, shrunk.origin, shrunk.identity], [MIB + 512, 2 * MIB, undefined, B]);
    assert.equal((await readAt(shrunk.path, 0, 4)).toString(), 'head');
    assert.equal(compareTouched(image.touched, shrunk.touched).kind, 'touched');
  });

  it('knows that nobody wrote through renames and marks, and no more when it was not active all the time', async () => {
    const image = await va.store.allocate('Web01_root_incomplete', 2 * MIB, A);
    const since = async (): Promise<string> => {
      const [now] = await va.store.list();
      return now === undefined ? 'gone' : compareTouched(image.touched, now.touched).kind;
    };
    await va.store.giveName(image, 'Web01_root_1');
    await va.store.bind(image, B);
    assert.equal(await since(), 'untouched');
    await run('lvchange', ['--quiet', '--activate', 'n', 'va/Web01_root_1']);
    assert.equal(await since(), 'unknown', 'while it is not active');
    await assert.rejects(lstat(image.path));
    await va.store.tidy();
    assert.ok(await readlink(image.path));
    assert.equal(await since(), 'unknown', 'after it was activated again');
    const [again] = await va.store.list();
    await writeAt(image.path, 4096, Buffer.from('x'));
    const [written] = await va.store.list();
    assert.ok(again !== undefined && written !== undefined);
    assert.equal(compareTouched(again.touched, written.touched).kind, 'touched', 'a write by hand in the same boot');
  });

  it('activates a volume that it is going to change', async () => {
    const image = await va.store.allocate('Web01_root_1', MIB, A);
    await run('lvchange', ['--quiet', '--activate', 'n', 'va/Web01_root_1']);
    await va.store.settle(image);
    assert.ok(await readlink(image.path));
  });

  it('sees who holds a volume open', async () => {
    const image = await va.store.allocate('Web01_root_1', 2 * MIB, A);
    const user = async (): Promise<string | undefined> => {
      const images = await va.store.list();
      return (await usersOf(images)).get(image.key);
    };
    assert.equal(await user(), undefined);
    const holder = start('sh', ['-c', 'exec 3<"$1"; echo held; exec sleep 600', 'sh', '/dev/va/Web01_root_1'], { stdio: ['ignore', 'pipe', 'inherit'] });
    await new Promise((resolve) => { holder.stdout?.once('data', resolve); });
    assert.match(await user() ?? '', /^sleep \(process \d+\)$/);
    await rejects(va.store.remove(image, A), 'program-failed');
    const ended = new Promise((resolve) => { holder.once('exit', resolve); });
    holder.kill('SIGKILL');
    await ended;
    const loop = (await run('losetup', ['--find', '--show', '--read-only', '/dev/va/Web01_root_1'])).stdout.trim();
    assert.equal(await user(), loop);
    await run('losetup', ['--detach', loop]);
    await run('dmsetup', ['create', 'on-top', '--table', '0 2048 linear /dev/va/Web01_root_1 0']);
    assert.match(await user() ?? '', /mount or another device/);
    await run('dmsetup', ['remove', '--retry', 'on-top']);
    assert.equal(await user(), undefined);
  });

  it('takes names as long as LVM does, and says so of longer ones before LVM does', async () => {
    const longest = `${'x'.repeat(124 - 2 - '_1'.length)}_1`;
    const image = await va.store.allocate(longest, MIB, A);
    assert.equal((await va.store.list())[0]?.name, longest);
    await va.store.remove(image, A);
    const hyphens = `x${'-'.repeat(60)}_1`;
    assert.equal(volumeProblem('va', hyphens), undefined);
    await va.store.remove(await va.store.allocate(hyphens, MIB, A), A);
    for (const name of [`x${longest}`, `x-${hyphens}`]) {
      await rejects(va.store.allocate(name, MIB, A), 'name-invalid');
      await assert.rejects(run('lvcreate', ['--yes', '--name', name, '--size', '1M', 'va']), { code: 'program-failed' }, 'LVM refuses it too');
    }
  });

  it('is refused where a group is not allowed, not there, or a name is there twice', async () => {
    for (const store of ['vg:va,other', 'vg:nothing', 'vg:va/pool']) {
      const { store: wrong } = openStore({ store, allocation: 'sparse' });
      await rejects(wrong.check(), 'store-unusable');
      await rejects(wrong.space(), 'store-unusable');
      await rejects(wrong.allocate('Web01_root_1', MIB, A), 'store-unusable');
    }
    for (const vg of ['va', 'vb']) await run('lvcreate', ['--quiet', '--yes', '--name', 'Web01_root_1', '--size', '1M', vg]);
    await rejects(both.store.check(), 'store-unusable');
    await rejects(both.store.allocate('Web01_root_1', MIB, A), 'exists');
  });

  it('shows what is left when a disk is gone, changes nothing, and forgets no record', async () => {
    const torn = opened('vg:torn');
    const links = currentOf({ current: join(state, 'current') }, torn);
    await torn.store.check();
    const whole = await torn.store.allocate('Web01_root_1', 4 * MIB, B);
    await run('lvcreate', ['--quiet', '--yes', '--name', 'filler', '--extents', '100%PVS', 'torn', DISKS[2] ?? '']);
    const lost = await torn.store.allocate('Web01_root_2', 4 * MIB, A);
    for (const [set, generation] of [[A.set, 1], [B.set, 2]] as const) await torn.catalog.begin(intentOf(set, generation));
    await run('vgchange', ['--quiet', '--activate', 'n', 'torn']);
    const plugIn = await pullOut(DISKS[3] ?? '');
    try {
      for (const call of [torn.store.check(), torn.store.space(), torn.store.bound(), torn.store.allocate('Web01_root_3', MIB, A)]) await rejects(call, 'store-unusable');
      assert.deepEqual((await torn.store.list()).map(({ name }) => name), ['Web01_root_1']);
      await tidy(torn, links);
      assert.ok(await readlink(whole.path), 'what is whole can be booted');
      assert.deepEqual(await torn.catalog.sets(), [A.set, B.set]);
      await rejects(va.store.bound().then(() => torn.store.bound()), 'store-unusable');
    } finally {
      await run('vgchange', ['--quiet', '--activate', 'n', 'torn']);
      await plugIn();
    }
    await tidy(torn, links);
    assert.deepEqual(await torn.catalog.sets(), [A.set, B.set], 'it was only away');
    await torn.store.remove((await find(torn, lost)), A);
    await tidy(torn, links);
    assert.deepEqual(await torn.catalog.sets(), [B.set], 'its image is gone for good');
  });
});

async function find(open: OpenStore, image: StoredImage): Promise<StoredImage> {
  const found = (await open.store.list()).find(({ key }) => key === image.key);
  assert.ok(found);
  return found;
}

function intentOf(set: string, generation: number): SetIntent {
  return {
    version: 1, set, generation, anvil: 'an-a01', job: 'web', server: 'Web01', uuid: '11111111-2222-3333-4444-555555555555', node: 'an-a01n01', capture: 'live',
    consistency: 'crash', capturedAt: '2026-01-01T00:00:00Z', disks: [{ disk: 'root', target: 'vda', bytes: 4 * MIB }],
  };
}
