import assert from 'node:assert/strict';
import { chmod, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { start, run, type RunResult } from '../../src/system/run.js';
import { activateVolume, createVolume, deviceCounters, lvmState, removeVolume, renameVolume, resizeVolume, snapshotVolume, tagVolume, thinDelta, type Volume } from '../../src/system/lvm.js';
import { CHECKOUT } from '../lab/layout.js';
import { hostileCalls } from '../support/hostile-arguments.js';
import { allow, freshGroups, onlyInVm } from './ground.js';

const MIB = 2 ** 20;

describe('the LVM wrappers on real LVM', function () {
  this.timeout(300_000);

  const wrapper = async (verb: string, ...args: readonly string[]): Promise<RunResult> =>
    await run(join(CHECKOUT, 'lvm', verb), args, { okExit: [0, 1, 2, 3, 4, 5, 6, 7] });
  const find = async (vg: string, name: string): Promise<Volume> => {
    const found = (await lvmState()).volumes.find((each) => each.vg === vg && each.name === name);
    assert(found, `${vg}/${name}`);
    return found;
  };
  const write = async (path: string, mebibyte: number, kibibytes = 64): Promise<void> => {
    await run('dd', ['if=/dev/urandom', `of=${path}`, 'bs=1K', `count=${String(kibibytes)}`, `seek=${String(mebibyte * 1024)}`, 'oflag=direct', 'status=none']);
  };
  /** All that is to be known of volumes and groups which are not ours, and what is in them. */
  const fingerprint = async (): Promise<string> => {
    const volumes = await run('lvs', ['--all', '--noheadings', '--separator', ' ', '--units', 'b', '--options', 'vg_name,lv_name,lv_uuid,lv_size,lv_tags,lv_permissions,lv_active,seg_pe_ranges', '--select', 'vg_name=foreign || (vg_name=dr_a && lv_name=theirs) || lv_name=pool']);
    const groups = await run('vgs', ['--noheadings', '--options', 'vg_name,vg_uuid,vg_tags,vg_attr,pv_count,vg_extent_count']);
    const content = await run('sha256sum', ['/dev/dr_a/theirs', '/dev/foreign/theirs', '/dev/foreign/ours']);
    return volumes.stdout + groups.stdout + content.stdout;
  };

  before(async function () {
    onlyInVm(this);
    await freshGroups({ 'dr_a': [0], 'dr-b': [1], 'foreign': [2] });
    await allow('dr_a', 'dr-b');
    for (const path of ['dr_a/theirs', 'foreign/theirs', 'foreign/ours']) {
      const [group = '', name = ''] = path.split('/');
      await run('lvcreate', ['--quiet', '--yes', '--size', '8M', '--name', name, ...name === 'ours' ? ['--addtag', 'dr-engine'] : [], group]);
      await write(`/dev/${path}`, 1, 1024);
    }
    await run('lvcreate', ['--quiet', '--yes', '--type', 'thin-pool', '--size', '64M', '--name', 'pool', 'dr-b']);
  });

  it('make, rename, resize, tag and remove a volume', async () => {
    await createVolume({ vg: 'dr_a', name: 'Web01_root_incomplete', bytes: 5 * MIB + 1, tags: ['dr.set=20261120T020000Z-5f0c12ab9e34d7c1/root', 'dr.was=stale'] });
    const made = await find('dr_a', 'Web01_root_incomplete');
    assert.deepEqual([made.kind, made.bytes, made.active, made.open], ['plain', 8 * MIB, true, false]);
    assert.deepEqual([...made.tags].sort(), ['dr-engine', 'dr.set=20261120T020000Z-5f0c12ab9e34d7c1/root', 'dr.was=stale']);
    assert.equal((await stat(made.path)).isBlockDevice(), true);
    await assert.rejects(createVolume({ vg: 'dr_a', name: 'Web01_root_incomplete', bytes: MIB, tags: [] }), { code: 'exists' });
    await assert.rejects(createVolume({ vg: 'dr_a', name: 'large', bytes: 2 ** 40, tags: [] }), { code: 'no-space' });

    await renameVolume(made, 'Web01_root_1');
    const renamed = { ...made, name: 'Web01_root_1' };
    await assert.rejects(renameVolume(renamed, 'theirs'), { code: 'exists' });
    await assert.rejects(renameVolume(made, 'x'), { code: 'state-changed' });
    assert.equal((await stat(made.path)).isBlockDevice(), true, 'its path stays');

    await resizeVolume(renamed, 20 * MIB);
    await resizeVolume({ ...renamed, bytes: 20 * MIB }, 4 * MIB);
    await tagVolume(renamed, { add: ['dr.bytes=5242881'], remove: ['dr.was=stale', 'dr.none'] });
    const changed = await find('dr_a', 'Web01_root_1');
    assert.deepEqual([changed.bytes, changed.uuid, [...changed.tags].sort()], [4 * MIB, made.uuid, ['dr-engine', 'dr.bytes=5242881', 'dr.set=20261120T020000Z-5f0c12ab9e34d7c1/root']]);

    await removeVolume(changed);
    await removeVolume(changed);
    assert.equal((await lvmState()).volumes.some(({ uuid }) => uuid === made.uuid), false);
  });

  it('take snapshots of what is not ours, and remove nothing that is in use or has snapshots', async () => {
    const before = await fingerprint();
    await snapshotVolume({ vg: 'dr_a', origin: 'theirs', name: 'dr_5f0c12ab_0', bytes: 4 * MIB, tags: ['dr.of=Web01'] });
    const snapshot = await find('dr_a', 'dr_5f0c12ab_0');
    assert.deepEqual([snapshot.kind, snapshot.origin, snapshot.overrun, snapshot.active], ['snapshot', 'theirs', false, true]);
    assert.deepEqual(await readFile('/dev/dr_a/dr_5f0c12ab_0'), await readFile('/dev/dr_a/theirs'));
    await assert.rejects(write('/dev/dr_a/dr_5f0c12ab_0', 0), 'it can only be read');
    await removeVolume(snapshot);

    await createVolume({ vg: 'dr_a', name: 'image', bytes: 8 * MIB, tags: [] });
    await run('lvcreate', ['--quiet', '--yes', '--snapshot', '--size', '4M', '--name', 'by-hand', 'dr_a/image']);
    const image = await find('dr_a', 'image');
    await assert.rejects(removeVolume(image), { code: 'state-changed' });
    await run('lvremove', ['--quiet', '--yes', 'dr_a/by-hand']);
    const held = start('sleep', ['600'], { stdio: ['ignore', 'ignore', 'ignore', (await import('node:fs')).openSync(image.path, 'r')] });
    await assert.rejects(removeVolume(image), { code: 'program-failed' });
    held.kill();
    await new Promise((resolve) => held.once('exit', resolve));
    assert.equal((await find('dr_a', 'image')).uuid, image.uuid);
    assert.equal(await fingerprint(), before);
  });

  it('count writes as long as a volume stays active, whatever else happens to it', async () => {
    const counted = async (): Promise<{ readonly device: string; readonly writes: string }> => {
      const { device } = await find('dr_a', 'counted');
      const counters = device === undefined ? undefined : await deviceCounters(device);
      assert(counters);
      return counters;
    };
    await createVolume({ vg: 'dr_a', name: 'uncounted', bytes: 8 * MIB, tags: [] });
    const { uuid, vg } = await find('dr_a', 'uncounted');
    const volume = { vg, name: 'counted', uuid };
    await renameVolume({ vg, name: 'uncounted', uuid }, 'counted');
    const before = await counted();
    await tagVolume(volume, { add: ['dr.x'], remove: [] });
    await snapshotVolume({ vg, origin: 'counted', name: 'of-counted', bytes: 4 * MIB, tags: [] });
    await run('cat', ['/dev/dr_a/counted', '/dev/dr_a/of-counted']);
    assert.deepEqual(await counted(), before);
    await removeVolume(await find(vg, 'of-counted'));
    assert.deepEqual(await counted(), before);
    await write('/dev/dr_a/counted', 1, 4);
    const after = await counted();
    assert.equal(after.device, before.device);
    assert(BigInt(after.writes) > BigInt(before.writes));
    await run('lvchange', ['--quiet', '--activate', 'n', 'dr_a/counted']);
    assert.equal((await find(vg, 'counted')).device, undefined);
    await activateVolume(volume);
    assert.notEqual((await counted()).device, before.device);
    await removeVolume(volume);
    assert.equal(await deviceCounters({ major: 253, minor: 999 }), undefined);
  });

  it('make thin volumes and thin snapshots, and say where two differ', async () => {
    await createVolume({ vg: 'dr-b', pool: 'pool', name: 'thin', bytes: 100 * MIB, tags: [] });
    const thin = await find('dr-b', 'thin');
    assert.deepEqual([thin.kind, thin.pool, thin.zeroes, thin.bytes], ['thin', 'pool', true, 100 * MIB]);
    await write(thin.path, 0);
    await snapshotVolume({ vg: 'dr-b', origin: 'thin', name: 'dr-0_0', bytes: 'thin', tags: [] });
    await write(thin.path, 3, 128);
    await write(thin.path, 50, 1);
    await snapshotVolume({ vg: 'dr-b', origin: 'thin', name: 'dr-0_1', bytes: 'thin', tags: [] });
    const snapshot = await find('dr-b', 'dr-0_1');
    assert.deepEqual([snapshot.origin, snapshot.active], ['thin', false]);
    await activateVolume(snapshot);
    assert.equal((await find('dr-b', 'dr-0_1')).active, true);
    assert.equal((await run('cmp', [snapshot.path, thin.path])).exitCode, 0);
    const differs = [{ begin: 3 * MIB, length: 128 * 1024 }, { begin: 50 * MIB, length: 64 * 1024 }];
    assert.deepEqual(await thinDelta({ vg: 'dr-b', pool: 'pool', from: 'dr-0_0', to: 'dr-0_1' }), differs);
    assert.deepEqual(await thinDelta({ vg: 'dr-b', pool: 'pool', from: 'thin', to: 'dr-0_1' }), []);

    const held = async (): Promise<boolean> => / thin-pool \d+ \d+\/\d+ \d+\/\d+ \d+ /.test((await run('dmsetup', ['status', 'dr--b-pool-tpool'])).stdout);
    const reserve = (): Promise<RunResult> => run('dmsetup', ['message', 'dr--b-pool-tpool', '0', 'reserve_metadata_snap']);
    assert.equal(await held(), false);
    await reserve();
    await assert.rejects(thinDelta({ vg: 'dr-b', pool: 'pool', from: 'dr-0_0', to: 'dr-0_1' }), { code: 'program-failed', message: /somebody else holds/ });
    assert.equal(await held(), true, 'what another program holds is left to it');
    await run('dmsetup', ['message', 'dr--b-pool-tpool', '0', 'release_metadata_snap']);

    // Killed while it held it: the next call lets it go.
    const mark = '/var/lib/dr-lvm/dr--b-pool.held';
    for (const noted of ['-e', '-s']) { // before and after it has noted which one it holds
      await run('setsid', ['sh', '-c', `"$1" dr-b pool dr-0_0 dr-0_1 >/dev/null 2>&1 & until [ ${noted} "$2" ]; do :; done; kill -9 $!`, 'sh', join(CHECKOUT, 'lvm/delta'), mark]);
      if (!(await held())) await reserve().catch(() => undefined); // the killed one's own dmsetup was quicker
      assert.equal(await held(), true);
      assert.deepEqual(await thinDelta({ vg: 'dr-b', pool: 'pool', from: 'dr-0_0', to: 'dr-0_1' }), differs);
      assert.equal(await held(), false);
      await assert.rejects(stat(mark));
    }
    for (const name of ['dr-0_1', 'dr-0_0', 'thin']) await removeVolume(await find('dr-b', name));
  });

  it('take names up to the length that device-mapper has room for', async () => {
    const longest = `${'x'.repeat(58)}-${'x'.repeat(127 - 'dr--b-'.length - 60)}`;
    await createVolume({ vg: 'dr-b', name: longest, bytes: MIB, tags: [] });
    await removeVolume(await find('dr-b', longest));
    await createVolume({ vg: 'dr-b', pool: 'pool', name: longest, bytes: MIB, tags: [] });
    await removeVolume(await find('dr-b', longest));
    assert.equal((await wrapper('create', 'dr-b', `${longest}x`, '1048576')).exitCode, 2);
  });

  it('refuse what is not allowed, not ours, or not what was meant', async () => {
    const before = await fingerprint();
    await createVolume({ vg: 'dr_a', name: 'mine', bytes: 4 * MIB, tags: [] });
    const mine = await find('dr_a', 'mine');
    const theirs = await find('dr_a', 'theirs');
    const [foreign = ''] = (await run('lvs', ['--noheadings', '--options', 'lv_uuid', 'foreign/ours'])).stdout.trim().split(/\s+/);
    for (const change of [removeVolume, activateVolume, (volume: Volume) => renameVolume(volume, 'x'), (volume: Volume) => resizeVolume(volume, 64 * MIB), (volume: Volume) => tagVolume(volume, { add: ['dr.x'], remove: [] })]) {
      await assert.rejects(change(theirs), { code: 'not-ours' });
      await assert.rejects(change({ ...mine, vg: 'foreign', name: 'ours', uuid: foreign }), { code: 'store-unusable' });
    }
    await assert.rejects(renameVolume({ ...mine, name: 'theirs' }, 'x'), { code: 'state-changed' });
    await assert.rejects(resizeVolume({ ...mine, uuid: foreign }, 64 * MIB), { code: 'state-changed' });
    await assert.rejects(createVolume({ vg: 'nowhere', name: 'x', bytes: MIB, tags: [] }), { code: 'store-unusable', message: /not in \/etc\/dr\/vgs/ });
    await allow('dr_a', 'dr-b', 'nowhere');
    await assert.rejects(createVolume({ vg: 'nowhere', name: 'x', bytes: MIB, tags: [] }), { code: 'store-unusable', message: /not found/ });
    assert.deepEqual((await lvmState()).groups.map(({ name }) => name).sort(), ['dr-b', 'dr_a']);
    await chmod('/etc/dr/vgs', 0o666);
    await assert.rejects(lvmState(), { code: 'store-unusable', message: /writable by nobody else/ });
    await assert.rejects(removeVolume(mine), { code: 'store-unusable' });
    await writeFile('/etc/dr/vgs', '');
    await allow('dr_a', 'dr-b');
    await chmod('/etc/dr/vgs', 0o644);
    await removeVolume(mine);
    assert.equal(await fingerprint(), before);
  });

  it('leave everything that is not ours as it was, whatever they are called with', async () => {
    for (const name of ['ours', 'other']) await createVolume({ vg: 'dr_a', name, bytes: 4 * MIB, tags: [] });
    const before = await fingerprint();
    const ours = [await find('dr_a', 'ours'), await find('dr_a', 'other')];
    const [uuid = ''] = (await run('lvs', ['--noheadings', '--options', 'lv_uuid', 'foreign/ours'])).stdout.trim().split(/\s+/);
    const theirs = [await find('dr_a', 'theirs'), { vg: 'foreign', name: 'ours', uuid }, { vg: 'foreign', name: 'theirs', uuid }];
    const statuses = new Map<number, number>();
    for (const { verb, args } of hostileCalls({ groups: ['dr_a', 'dr-b'], pool: 'pool', ours, theirs }, 100, 4714)) {
      const { exitCode } = await wrapper(verb, ...args);
      statuses.set(exitCode, (statuses.get(exitCode) ?? 0) + 1);
    }
    assert.equal(await fingerprint(), before);
    for (const status of [0, 2, 3, 6]) assert((statuses.get(status) ?? 0) > 0, `none ended with ${String(status)}`);
    const { volumes } = await lvmState();
    for (const { name, tags } of volumes.filter(({ kind, name }) => kind !== 'other' && kind !== 'pool' && name !== 'theirs')) {
      assert(tags.includes('dr-engine') || tags.includes('dr-engine-snapshot'), `${name} is known as ours`);
    }
  });
});
