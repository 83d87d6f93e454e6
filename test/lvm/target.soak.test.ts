import assert from 'node:assert/strict';
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { tidyRemembered } from '../../src/agent/target-hands.js';
import { run } from '../../src/system/run.js';
import { content, MIB, setId, TestTarget, type Captured } from '../support/target.js';
import { allow, clearGroup, DISKS, onlyInVm, soil, wipe } from './ground.js';
import { readAt, writeAt } from './volumes.js';

/** Whole runs over volume groups, as the head asks for them. Extents of 1 MiB, a disk that ends within one, old data below everything. */
describe('a target that keeps images in volume groups', function () {
  this.timeout(400_000);
  let target: TestTarget;
  const BYTES = 2 * MIB + 4096;

  before(async function () {
    onlyInVm(this);
    await wipe();
    await soil(0, 32);
    for (const [name, disk] of [['va', 0], ['vb', 1]] as const) await run('vgcreate', ['--quiet', '--yes', '--physicalextentsize', '1M', name, DISKS[disk] ?? '']);
    await allow('va', 'vb');
  });
  beforeEach(async () => { target = await TestTarget.make('vg:va,vb'); });
  afterEach(async () => {
    await clearGroup('va');
    await clearGroup('vb');
    await target.remove();
  });

  const day = (n: number): Captured => ({ set: setId(n), copies: 2, disks: { root: content(n, BYTES) } });
  const booted = async (): Promise<Buffer> => await readAt(join(target.ref.current, 'Web01', 'root'), 0, 3 * MIB);
  const expected = (n: number): Buffer => Buffer.concat([content(n, BYTES), Buffer.alloc(MIB - 4096)]);
  const startOf = async (n: number): Promise<unknown> => {
    const { start } = await target.call('store.incomplete', { server: 'Web01', disk: 'root', set: setId(n), reproveAfterSeconds: 86_400 });
    return typeof start === 'string' ? start : 'recycle' in start;
  };

  it('keeps the last copies, `current` leads to the newest in whichever group, with zeros behind it', async () => {
    for (const n of [1, 2, 3]) {
      await target.run(day(n));
      assert.ok((await booted()).equals(expected(n)), `day ${String(n)}`);
    }
    assert.equal(await target.states(), '1: proven, 2: proven');
  });

  it('recycles proven blocks in the same boot, and reads them after the volume was away', async () => {
    for (const n of [1, 2]) await target.run(day(n));
    await target.begin(day(3));
    assert.equal(await startOf(3), true);
    await target.prove(day(3));
    await target.finish(day(3));

    await run('vgchange', ['--quiet', '--activate', 'n', 'va', 'vb']);
    await tidyRemembered();
    assert.match(await readlink(join(target.ref.current, 'Web01', 'root')), /dm-uuid-LVM-/);
    assert.ok((await booted()).equals(expected(3)), 'links lead to volumes that were activated again');
    assert.equal(await target.states(), '1: proven, 2: proven', 'they are still proven');
    await target.begin(day(4));
    assert.equal(await startOf(4), 'read', 'nobody can say what happened meanwhile');
  });

  it('notices a write by hand', async () => {
    await target.run(day(1));
    await writeAt(join(target.ref.current, 'Web01', 'root'), 0, Buffer.from('written'));
    assert.equal(await target.states(), '1: modified');
  });
});
