import assert from 'node:assert/strict';
import fc from 'fast-check';
import { volumeGroupProblem, volumeProblem } from '../../src/model/volume-names.js';
import { choose, freeFor, hasSlack, meet, parsePlaces, volumeBytes } from '../../src/stores/volume-choice.js';
import { labelsOf, readLabels, relabel } from '../../src/stores/volume-tags.js';
import { rejects } from '../conformance/store.js';

const MIB = 2 ** 20;
const SET_A = '20260101T000000Z-00000000000000aa';
const SET_B = '20260102T000000Z-00000000000000bb';
const part = (name: string, free: number, extent = 4): { name: string; freeBytes: number; extentBytes: number } => ({ name, freeBytes: free * MIB, extentBytes: extent * MIB });

describe('names in LVM', () => {
  it('are refused where LVM refuses them', () => {
    for (const name of ['a_mlog_incomplete', 'x_tmeta', 'a_cdata_b_1', 'Web01_pmspare', 'x_wcorigx']) assert.match(volumeProblem('vg', name) ?? '', /keeps names with/, name);
    for (const name of ['snapshot', 'snapshots_root_1', 'pvmove0']) assert.match(volumeProblem('vg', name) ?? '', /begin with/, name);
    for (const name of ['-a', '', '.', '..', 'a b', 'ä', 'a/b']) assert.notEqual(volumeProblem('vg', name), undefined, name);
    for (const name of ['Web01_root_incomplete', 'mlog_1', 'a_MLOG_1', 'my_snapshot_1', '...', '+x']) assert.equal(volumeProblem('vg', name), undefined, name);
    for (const name of ['-vg', '..', 'a,b', '', 'x'.repeat(101)]) assert.notEqual(volumeGroupProblem(name), undefined, name);
  });

  it('are as long as LVM and device-mapper take them, every hyphen twice', () => {
    assert.equal(volumeProblem('v', 'x'.repeat(123)), undefined);
    assert.match(volumeProblem('v', 'x'.repeat(124)) ?? '', /no more than 123/);
    assert.equal(volumeProblem('v', `x${'-'.repeat(62)}`), undefined);
    assert.match(volumeProblem('v', `x${'-'.repeat(63)}`) ?? '', /129 characters in device-mapper/);
    assert.equal(volumeProblem('a-b', 'x'.repeat(121)), undefined);
    assert.match(volumeProblem('a-b-', 'x'.repeat(121)) ?? '', /no more than 120/);
  });
});

describe('the place of a new volume', () => {
  it('is the group with the most free space, ties in alphabetical order', () => {
    const names = (parts: readonly { name: string }[]): string[] => parts.map(({ name }) => name);
    assert.deepEqual(names(choose([part('a', 8), part('b', 16), part('c', 16)], MIB)), ['b', 'c', 'a']);
    assert.deepEqual(names(choose([part('b', 16), part('a', 16)], MIB)), ['a', 'b']);
    assert.deepEqual(names(choose([part('a', 8), part('b', 16)], 9 * MIB)), ['b'], 'only where it fits');
    assert.deepEqual(names(choose([part('a', 10, 4)], 9 * MIB)), [], 'in whole extents');
  });

  it('is whole extents, and at least one', () => {
    assert.deepEqual([0, 1, 4 * MIB, 4 * MIB + 1].map((bytes) => volumeBytes(bytes, 4 * MIB) / MIB), [4, 4, 4, 8]);
    assert.equal(volumeBytes(2 ** 50 + 1, 4 * MIB), 2 ** 50 + 4 * MIB);
  });

  it('is found for all images of a run together, or the first without room is told', () => {
    const parts = [part('a', 12), part('b', 16)];
    const met = meet(parts, [{ kind: 'allocate', bytes: 10 * MIB }, { kind: 'allocate', bytes: 10 * MIB }]);
    assert.deepEqual(met.left.map(({ freeBytes }) => freeBytes / MIB), [0, 4]);
    assert.equal(met.lacking, undefined);
    assert.deepEqual(meet(parts, [{ kind: 'allocate', bytes: 20 * MIB }]).lacking, { kind: 'allocate', bytes: 20 * MIB }, '28 MiB in all, but nowhere 20');
    assert.deepEqual(meet(parts, [{ kind: 'resize', part: 'a', has: 8 * MIB, bytes: 24 * MIB }]).lacking?.kind, 'resize', 'an image grows where it is');
    assert.deepEqual(meet(parts, [{ kind: 'resize', part: 'a', has: 8 * MIB, bytes: 20 * MIB }]).left.map(({ freeBytes }) => freeBytes / MIB), [0, 16]);
    assert.deepEqual(meet(parts, [{ kind: 'remove', part: 'a', has: 8 * MIB }, { kind: 'allocate', bytes: 18 * MIB }]).left.map(({ freeBytes }) => freeBytes / MIB), [0, 16]);
    assert.equal(meet(parts, [{ kind: 'resize', part: 'gone', has: 0, bytes: MIB }]).lacking?.kind, 'resize');
  });

  it('decides whether there is room for a second set', () => {
    const space = { sizeBytes: 100 * MIB, freeBytes: 28 * MIB, parts: [part('a', 12), part('b', 16)] };
    assert.equal(freeFor(space, [16 * MIB, 12 * MIB]), 28 * MIB);
    assert.equal(freeFor(space, [20 * MIB]), 20 * MIB - 1, 'less than it needs');
    assert.equal(freeFor({ sizeBytes: 100, freeBytes: 7 }, [20]), 7, 'a file system is one place');
  });

  it('has slack where bytes are off the grid of any group', () => {
    assert.equal(hasSlack([part('a', 1, 4)], 8 * MIB), false);
    assert.equal(hasSlack([part('a', 1, 4)], 8 * MIB + 512), true);
    assert.equal(hasSlack([part('a', 1, 4), part('b', 1, 32)], 8 * MIB), true);
    assert.equal(hasSlack([], 5), false);
  });

  it('is read from the configuration\'s word', async () => {
    assert.deepEqual(parsePlaces('vg:a,b/pool'), [{ vg: 'a' }, { vg: 'b', pool: 'pool' }]);
    for (const bad of ['vg:', 'fs:/a', 'vg:a,a', 'vg:a/p,a', 'vg:a/b/c', 'vg:-a', 'vg:a,,b', 'vg:a/snapshot']) await rejects(Promise.resolve().then(() => parsePlaces(bad)), 'config-invalid');
  });
});

describe('what a volume carries', () => {
  const tags = ['dr-engine', ...labelsOf({ identity: { set: SET_A, disk: 'root' }, origin: 'stale', bytes: 5 })];

  it('comes back as it was written', () => {
    assert.deepEqual(readLabels(tags), { identity: { set: SET_A, disk: 'root' }, origin: 'stale', bytes: 5 });
    assert.deepEqual(readLabels([...tags, 'dr.modified=Ym9vdGVk', 'backup']).modified, 'booted');
  });

  it('is nothing without the tag that only the wrappers give, or with two identities', () => {
    assert.deepEqual(readLabels(tags.slice(1)), {});
    assert.equal(readLabels([...tags, `dr.set=${SET_B}/root`]).identity, undefined);
    for (const bad of ['', 'x', SET_A, `${SET_A}/`, `${SET_A}/a/b`, '../../x/root']) assert.equal(readLabels(['dr-engine', `dr.set=${bad}`]).identity, undefined, bad);
  });

  it('is changed in one step that takes the old away', () => {
    const bound = relabel(tags, { identity: { set: SET_B, disk: 'root' }, origin: { set: SET_A, disk: 'root' } });
    assert.deepEqual(bound, { add: [`dr.set=${SET_B}/root`, `dr.was=${SET_A}/root`], remove: [`dr.set=${SET_A}/root`, 'dr.was=stale'] });
    assert.deepEqual(relabel(tags, { origin: null }), { add: [], remove: ['dr.was=stale'] });
    assert.deepEqual(relabel(tags, { bytes: 5, origin: 'stale' }), { add: [], remove: [] }, 'nothing, if it is so already');
    assert.deepEqual(relabel([...tags, 'dr.bytes=6'], { bytes: 5 }), { add: [], remove: ['dr.bytes=6'] });
  });

  it('keeps any remark, as long as a tag may be, in whole characters', () => {
    fc.assert(fc.property(fc.string({ unit: 'grapheme', maxLength: 600 }), (why) => {
      const [tag = ''] = relabel(tags, { modified: why }).add;
      assert.ok(/^dr\.modified=[A-Za-z0-9_-]*$/.test(tag) && tag.length <= 1024);
      const back = readLabels([...tags, tag]).modified ?? '';
      assert.ok(why.startsWith(back) && (back === why || Buffer.byteLength(back) > 680), why);
    }), { numRuns: 200 });
  });
});
