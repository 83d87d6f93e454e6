import assert from 'node:assert/strict';
import { fillOf, fillsUp, ruined } from '../../src/capture/snapshot-fill.js';
import { baseTag, coveringBytes, planSnapshots, snapshotBytes, type SnapshotDisk } from '../../src/capture/snapshot-plan.js';
import type { LvmState, Volume, VolumeGroup } from '../../src/system/lvm.js';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

const group = (name: string, freeMib: number, changes: Partial<VolumeGroup> = {}): VolumeGroup =>
  ({ name, uuid: name, sizeBytes: 100 * GIB, freeBytes: freeMib * MIB, extentBytes: 4 * MIB, missing: false, ...changes });

let minors = 0;
const volume = (vg: string, name: string, changes: Partial<Volume> = {}): Volume => {
  minors += 1;
  return { vg, name, uuid: `${vg}-${name}`, bytes: 10 * GIB, tags: [], kind: 'plain', path: `/dev/disk/by-id/${name}`, active: true, open: true, device: { major: 253, minor: minors }, overrun: false, partial: false, ...changes };
};
const diskOf = (target: string, { vg, name, device }: Volume): SnapshotDisk =>
  ({ target, path: `/dev/${vg}/${name}`, device: device === undefined ? undefined : `${String(device.major)}:${String(device.minor)}` });

describe('snapshots for live captures', () => {
  describe('their size', () => {
    it('follows the policy, between 64 MiB and what can never run full', () => {
      assert.equal(snapshotBytes(10 * GIB, { percent: 20 }), 2 * GIB);
      assert.equal(snapshotBytes(10 * GIB, { bytes: 3 * GIB }), 3 * GIB);
      assert.equal(snapshotBytes(100 * MIB, { percent: 20 }), 64 * MIB);
      assert.equal(snapshotBytes(10 * GIB, { bytes: 1 }), 64 * MIB);
      assert.equal(snapshotBytes(10 * GIB, { bytes: 50 * GIB }), coveringBytes(10 * GIB));
      assert.equal(snapshotBytes(10 * GIB, { percent: 100 }), coveringBytes(10 * GIB));
      assert.equal(snapshotBytes(8 * MIB, { percent: 20 }), coveringBytes(8 * MIB), 'a tiny disk needs no 64 MiB');
    });

    it('covers the disk and an entry of 16 bytes for each chunk of 4 KiB', () => {
      assert.ok(coveringBytes(10 * GIB) >= 10 * GIB + 10 * GIB / 4096 * 16);
    });
  });

  describe('planned', () => {
    const [root, data, thin, pool] = [volume('vg0', 'root'), volume('vg1', 'data'), volume('vg0', 'thin', { kind: 'thin', pool: 'pool' }), volume('vg0', 'pool', { kind: 'pool', dataPercent: 40, metadataPercent: 10 })];
    const seen = (changes: Partial<LvmState> = {}): LvmState => ({ groups: [group('vg0', 5000), group('vg1', 5000)], volumes: [root, data, thin, pool], allowed: ['vg0', 'vg1'], ...changes });
    const size = { percent: 20 };

    it('finds each disk by its device, whatever its path is', () => {
      const planned = planSnapshots('Web01', [{ ...diskOf('vda', root), path: '/dev/dm-7' }, diskOf('vdb', data), diskOf('vdc', thin)], seen(), size);
      assert.deepEqual(planned.map(({ target, origin, bytes, covers }) => [target, origin.name, bytes, covers]),
        [['vda', 'root', 2 * GIB, false], ['vdb', 'data', 2 * GIB, false], ['vdc', 'thin', 'thin', false]]);
      assert.equal(planSnapshots('Web01', [diskOf('vda', root)], seen({ groups: [group('vg0', 50_000)] }), { percent: 100 })[0]?.covers, true);
    });

    it('refuses a disk outside the allowed volume groups, with what to do', () => {
      for (const disk of [{ target: 'vdb', path: '/srv/disk.raw', device: undefined }, { target: 'vdb', path: '/dev/vg9/x', device: '253:99' }]) {
        assert.throws(() => planSnapshots('Web01', [diskOf('vda', root), disk], seen(), size),
          { code: 'disk-unsupported', message: /disk vdb .* is no logical volume in a volume group that this node allows \(allowed: vg0, vg1\)\. Nothing was touched/, hint: /\/etc\/dr\/vgs.*live: backup/ });
      }
      assert.throws(() => planSnapshots('Web01', [diskOf('vda', root)], { groups: [], volumes: [], allowed: [] }, size), /\(none is\)/);
    });

    it('refuses what has no snapshots, and a group with a missing disk', () => {
      const snapshot = volume('vg0', 'old', { kind: 'snapshot' });
      assert.throws(() => planSnapshots('Web01', [diskOf('vda', snapshot)], seen({ volumes: [snapshot] }), size), /is itself a snapshot/);
      assert.throws(() => planSnapshots('Web01', [diskOf('vda', root)], seen({ groups: [group('vg0', 5000, { missing: true })] }), size), { code: 'refused' });
    });

    it('adds up what the snapshots need in each volume group, in whole extents', () => {
      const other = volume('vg0', 'other', { bytes: 401 * MIB }); // 80.2 MiB: 21 extents
      const disks = [diskOf('vda', root), diskOf('vdb', other), diskOf('vdc', data)];
      const needed = 2048 + 84;
      const withFree = (free: number): LvmState => seen({ groups: [group('vg0', free), group('vg1', 2048)], volumes: [root, other, data] });
      assert.equal(planSnapshots('Web01', disks, withFree(needed), size).length, 3);
      assert.throws(() => planSnapshots('Web01', disks, withFree(needed - 1), size),
        { code: 'space', message: /need 2132 MiB in the volume group vg0, which has 2131 MiB free\. Nothing was touched/, hint: /snapshot_size/ });
    });

    it('begins in one that is, while it holds a base of the server, which goes first', () => {
      const full = { ...pool, dataPercent: 93 };
      const base = (changes: Partial<Volume>): Volume => volume('vg0', 'dr_0_0', { kind: 'thin', pool: 'pool', tags: ['dr-engine-snapshot', baseTag('Web01', 'vda')], ...changes });
      const plan = (kept: Volume): unknown => planSnapshots('Web01', [diskOf('vda', thin)], seen({ volumes: [thin, full, kept] }), size);
      assert.doesNotThrow(() => plan(base({})));
      for (const other of [{ pool: 'pool2' }, { vg: 'vg1' }, { tags: ['dr-engine-snapshot', baseTag('Web01x', 'vda')] }, { tags: ['dr-engine-snapshot', 'dr.base=Web01/x/vda'] }, { tags: [baseTag('Web01', 'vda')] }]) {
        assert.throws(() => plan(base(other)), { code: 'space' }, JSON.stringify(other));
      }
    });

    it('does not begin in a thin pool that is nearly full, data or metadata', () => {
      for (const fill of [{ dataPercent: 90 }, { metadataPercent: 95.5 }]) {
        assert.throws(() => planSnapshots('Web01', [diskOf('vda', thin)], seen({ volumes: [thin, { ...pool, ...fill }] }), size), { code: 'space', message: /thin pool vg0\/pool .* is 9\d % full/ });
        assert.equal(planSnapshots('Web01', [diskOf('vda', root)], seen({ volumes: [root, { ...pool, ...fill }] }), size).length, 1, 'it is not in that pool');
      }
    });
  });

  describe('that fill up', () => {
    const at = (seconds: number, percent: number): { at: number; percent: number } => ({ at: seconds * 1000, percent });

    it('are given up at 90 %', () => {
      assert.equal(fillsUp(undefined, at(0, 89.9), 2000), undefined);
      assert.match(fillsUp(undefined, at(0, 90), 2000) ?? '', /is 90 % full/);
    });

    it('are given up when they would be full before the next look is answered', () => {
      assert.equal(fillsUp(at(0, 10), at(2, 40), 2000), undefined, '15 % a second: 85 % then');
      assert.match(fillsUp(at(0, 10), at(2, 50), 2000) ?? '', /is 50 % full and fills by 20 % a second/);
      assert.match(fillsUp(at(0, 10), at(2, 40), 4000) ?? '', /full/, 'a slow answer comes too late');
      assert.equal(fillsUp(at(0, 80), at(2, 80), 60_000), undefined, 'nothing is written');
      assert.equal(fillsUp(at(0, 80), at(2, 60), 60_000), undefined, 'the pool was extended');
      assert.equal(fillsUp(at(2, 10), at(2, 80), 2000), undefined, 'two answers at one moment say nothing');
    });

    it('are looked at themselves if plain, and by their pool if thin', () => {
      const plain = volume('vg0', 'dr_1_0', { kind: 'snapshot', dataPercent: 33 });
      const thin = volume('vg0', 'dr_1_1', { kind: 'thin', pool: 'pool', dataPercent: 99 });
      const now = [plain, thin, volume('vg0', 'pool', { kind: 'pool', dataPercent: 40, metadataPercent: 70 }), volume('vg1', 'pool', { kind: 'pool', dataPercent: 95 })];
      assert.deepEqual(fillOf({ volume: plain, covers: false }, now), { what: 'the snapshot vg0/dr_1_0', percent: 33 });
      assert.equal(fillOf({ volume: plain, covers: true }, now), undefined, 'it can\'t run full');
      assert.deepEqual(fillOf({ volume: thin, covers: false }, now), { what: 'the thin pool vg0/pool', percent: 70 });
    });
  });

  it('are ruined when they ran full, are gone, are another volume of that name, or can\'t be read', () => {
    const snapshot = volume('vg0', 'dr_1_0', { kind: 'snapshot' });
    const open = { volume: snapshot, covers: false };
    assert.equal(ruined(open, [snapshot]), undefined);
    assert.match(ruined(open, [{ ...snapshot, overrun: true }]) ?? '', /ran full/);
    assert.match(ruined(open, []) ?? '', /is gone/);
    assert.match(ruined(open, [{ ...snapshot, uuid: 'another' }]) ?? '', /is gone/);
    assert.match(ruined(open, [{ ...snapshot, active: false }]) ?? '', /can't be read/);
    assert.match(ruined(open, [{ ...snapshot, partial: true }]) ?? '', /can't be read/);
  });
});
