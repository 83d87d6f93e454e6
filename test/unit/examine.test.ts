import assert from 'node:assert/strict';
import type { DiskProof, Manifest, SetIntent, StoredImage, TouchedFile } from '../../src/model/image-set.js';
import { parseImageName } from '../../src/model/names.js';
import { judge, newestWhole, type SetRecord, type Sighting, type Wanted } from '../../src/stores/examine.js';
import { setId, UUID } from '../support/target.js';

/** Judging is pure: listings and records in, states out. */

interface Sketch {
  readonly day?: number;
  readonly disk?: string;
  readonly key?: string;
  readonly touched?: Partial<TouchedFile>;
  readonly modified?: string;
}

function image(name: string, { day, disk = 'root', key = name, touched = {}, modified }: Sketch = {}): StoredImage {
  const parsed = parseImageName(name);
  assert.ok(parsed);
  return {
    name, ...parsed, path: `/srv/dr/${name}.raw`, bytes: touched.bytes ?? 4096, allocatedBytes: 4096, key, touched: { inode: '1', bytes: 4096, mtime: '1000000', ...touched },
    ...(day === undefined ? {} : { identity: { set: setId(day), disk } }), ...(modified === undefined ? {} : { modified }),
  };
}

function record(day: number, { complete = true, disks = ['root'], ...about }: Partial<Omit<SetIntent, 'disks'>> & { readonly complete?: boolean; readonly disks?: readonly string[]; readonly void?: string } = {}): [string, SetRecord] {
  const intent: SetIntent = {
    version: 1, set: setId(day), generation: day, anvil: 'an-a01', job: 'web', server: 'Web01', uuid: UUID, node: 'n', capture: 'live', consistency: 'crash',
    capturedAt: `2026-01-0${String(day)}T00:00:00Z`, ...about, disks: disks.map((disk) => ({ disk, target: 'vda', bytes: 4096 })),
  };
  const proof = (disk: string): DiskProof => ({ disk, target: 'vda', bytes: 4096, digest: `sha256-1MiB:${String(day)}`, proof: 'device', provenSince: intent.capturedAt, touched: { inode: '1', bytes: 4096, mtime: '1000000' } });
  const manifest: Manifest = { ...intent, completedAt: intent.capturedAt, attachments: {}, disks: disks.map(proof) };
  return [intent.set, { about: intent, disks, ...(complete ? { manifest } : {}), ...(about.void === undefined ? {} : { void: about.void }) }];
}

const sighting = (images: readonly StoredImage[], records: readonly [string, SetRecord][], users: readonly [string, string][] = []): Sighting => ({ images, records: new Map(records), users: new Map(users) });
const wanted: Wanted = { server: 'Web01', uuid: UUID, anvil: 'an-a01', disks: ['root'], copies: 3 };
const states = (seen: Sighting, disks: readonly string[] = ['root']): string[] => judge(seen, 'Web01', { ...wanted, disks }).images.map(({ name, state, because }) => `${name} ${state}${because === undefined ? '' : `: ${because}`}`);

describe('the state of an image', () => {
  for (const [what, images, records, expected] of [
    ['proven if everything fits', [image('Web01_root_1', { day: 1 })], [record(1)], ['Web01_root_1 proven']],
    ['partial while it is written', [image('Web01_root_incomplete', { day: 1 })], [record(1, { complete: false })], ['Web01_root_incomplete partial']],
    ['proven also before it has its name', [image('Web01_root_incomplete', { day: 1 })], [record(1)], ['Web01_root_incomplete proven']],
    ['unproven with a number and no manifest', [image('Web01_root_1', { day: 1 })], [record(1, { complete: false })], ['Web01_root_1 unproven']],
    ['unproven with the reason when its proof was voided', [image('Web01_root_1', { day: 1 })], [record(1, { complete: false, void: 'damaged: 3 blocks' })], ['Web01_root_1 unproven: damaged: 3 blocks']],
    ['unproven when the manifest has no such disk', [image('Web01_root_1', { day: 1 })], [record(1, { disks: ['data'] })], ['Web01_root_1 unproven: its set\'s manifest has no disk root']],
    ['unproven when another disk of its set is missing', [image('Web01_root_1', { day: 1 })], [record(1, { disks: ['root', 'data'] })], ['Web01_root_1 unproven: the disk data of its set is missing']],
    ['proven when the other disk has another number: a rename was interrupted', [image('Web01_root_1', { day: 1 }), image('Web01_data_incomplete', { day: 1, disk: 'data' })], [record(1, { disks: ['root', 'data'] })], ['Web01_root_1 proven', 'Web01_data_incomplete proven']],
    ['modified when it is marked', [image('Web01_root_1', { day: 1, modified: 'booted by hand' })], [record(1)], ['Web01_root_1 modified: booted by hand']],
    ['modified when it is marked, whatever else', [image('Web01_root_incomplete', { day: 1, modified: 'booted by hand' })], [record(1, { complete: false })], ['Web01_root_incomplete modified: booted by hand']],
    ['modified when it was written since', [image('Web01_root_1', { day: 1, touched: { mtime: '1000001' } })], [record(1)], ['Web01_root_1 modified: changed since its proof: it was written 1970-01-01T00:00:00.001Z']],
    ['modified when it is another file', [image('Web01_root_1', { day: 1, touched: { inode: '2' } })], [record(1)], ['Web01_root_1 modified: changed since its proof: it is another file (inode)']],
    ['modified when it has another length', [image('Web01_root_1', { day: 1, touched: { bytes: 8192 } })], [record(1)], ['Web01_root_1 modified: changed since its proof: it is 8192 bytes long, not 4096']],
  ] as const) {
    it(`is ${what}`, () => { assert.deepEqual(states(sighting(images, records), ['root', 'data']), expected); });
  }

  it('carries generation, time, digest, the disks of its set and who uses it', () => {
    const [seen] = judge(sighting([image('Web01_root_1', { day: 2, key: '7' })], [record(2)], [['7', 'qemu-system-x86 (process 4711)']]), 'Web01', wanted).images;
    assert.ok(seen);
    assert.deepEqual([seen.generation, seen.capturedAt, seen.digest, seen.setDisks, seen.inUse], [2, '2026-01-02T00:00:00Z', 'sha256-1MiB:2', ['root'], 'qemu-system-x86 (process 4711)']);
  });
});

describe('what is foreign', () => {
  const foreign = (seen: Sighting, about: Partial<Wanted> = {}): string[] => judge(seen, 'Web01', { ...wanted, ...about }).foreign.map(({ name, because }) => `${name}: ${because}`);

  for (const [what, one, records, because] of [
    ['has no identity', image('Web01_root_1'), [], 'it was not made by dr-engine'],
    ['has an identity that is not recorded', image('Web01_root_1', { day: 1 }), [], `it belongs to the set ${setId(1)}, of which this store has no readable record`],
    ['is of another Anvil', image('Web01_root_1', { day: 1 }), [record(1, { anvil: 'an-a02' })], 'it is an image of Web01 of the Anvil an-a02'],
    ['is of another domain of that name', image('Web01_root_1', { day: 1 }), [record(1, { uuid: 'other' })], 'it is an image of another server named Web01, with the UUID other'],
    ['is of another server', image('Web01_root_1', { day: 1 }), [record(1, { server: 'Db01' })], 'it is an image of Db01'],
    ['is of another disk', image('Web01_root_1', { day: 1, disk: 'data' }), [record(1, { disks: ['data'] })], 'it is the disk data of Web01, under another name'],
  ] as const) {
    it(`is what ${what}; it is no image of the server`, () => {
      const seen = sighting([one], records);
      assert.deepEqual(foreign(seen), [`Web01_root_1: ${because}`]);
      assert.deepEqual(states(seen), []);
    });
  }

  it('is only what has a name that a rotation would need', () => {
    const seen = sighting(['Web01_root_incomplete', 'Web01_root_4', 'Web01_root_5', 'Web01_data_1', 'Web011_root_1', 'Db01_root_1'].map((name) => image(name)), []);
    assert.deepEqual(foreign(seen).map((text) => text.split(':')[0]), ['Web01_root_incomplete', 'Web01_root_4']);
    assert.deepEqual(foreign(seen, { copies: 1 }).map((text) => text.split(':')[0]), ['Web01_root_incomplete']);
    assert.deepEqual(foreign(seen, { disks: ['root', 'data'] }).map((text) => text.split(':')[0]), ['Web01_root_incomplete', 'Web01_root_4', 'Web01_data_1']);
  });

  it('counts the slots that sets still have after copies was lowered', () => {
    const seen = sighting([image('Web01_root_5', { day: 1 }), image('Web01_root_6')], [record(1)]);
    assert.deepEqual(foreign(seen, { copies: 2 }).map((text) => text.split(':')[0]), ['Web01_root_6']);
  });

  it('tells servers apart whose names run together', () => {
    const a = image('A_B_C_1', { day: 1, disk: 'B_C' });
    const seen = sighting([a], [record(1, { server: 'A', disks: ['B_C'] })]);
    assert.deepEqual(judge(seen, 'A', { ...wanted, server: 'A', disks: ['B_C'] }).images.map(({ disk }) => disk), ['B_C']);
    const other = judge(seen, 'A_B', { ...wanted, server: 'A_B', disks: ['C'] });
    assert.deepEqual([other.images, other.foreign], [[], [{ name: 'A_B_C_1', because: 'it is an image of A' }]]);
  });
});

describe('generations', () => {
  it('go on from the highest ever recorded for the server', () => {
    const seen = sighting([], [record(1), record(4, { complete: false }), record(9, { server: 'Db01' })]);
    assert.equal(judge(seen, 'Web01', wanted).generation, 4);
    assert.equal(judge(seen, 'Web02', wanted).generation, 0);
  });
});

describe('the newest whole set', () => {
  const newest = (seen: Sighting, alsoModified = false): string | undefined => {
    const whole = newestWhole(seen, judge(seen, 'Web01').images, alsoModified);
    return whole === undefined ? undefined : `${whole.set.slice(6, 8)} in ${String(whole.slot)}: ${Object.values(whole.paths).map((path) => path.slice('/srv/dr/'.length)).join(' ')}`;
  };

  it('goes by generation, not by name or clock', () => {
    const seen = sighting([image('Web01_root_1', { day: 1 }), image('Web01_root_2', { day: 2 })], [record(1, { capturedAt: '2026-02-01T00:00:00Z' }), record(2)]);
    assert.equal(newest(seen), '02 in 2: Web01_root_2.raw');
  });

  it('is not one that lacks a disk, is unproven or modified', () => {
    const records = [record(1), record(2, { disks: ['root', 'data'] }), record(3, { complete: false }), record(4)];
    const seen = sighting([image('Web01_root_4', { day: 1 }), image('Web01_root_3', { day: 2 }), image('Web01_root_2', { day: 3 }), image('Web01_root_1', { day: 4, modified: 'booted' })], records);
    assert.equal(newest(seen), '01 in 4: Web01_root_4.raw');
    assert.equal(newest(seen, true), '04 in 1: Web01_root_1.raw');
    assert.equal(newest(sighting([], records)), undefined);
  });

  it('lacks no disk just because the one that is there was modified', () => {
    assert.equal(newest(sighting([image('Web01_root_1', { day: 1, modified: 'booted' })], [record(1, { disks: ['root', 'data'] })]), true), undefined);
  });

  it('is taken from the slot that all its disks have in the middle of a rename', () => {
    const both = { disks: ['root', 'data'] };
    const given = [image('Web01_root_1', { day: 1 }), image('Web01_root_2', { day: 1, key: 'Web01_root_1' }), image('Web01_data_1', { day: 1, disk: 'data' })];
    assert.equal(newest(sighting(given, [record(1, both)])), '01 in 1: Web01_root_1.raw Web01_data_1.raw');
    const taken = [image('Web01_root_2', { day: 1 }), image('Web01_data_1', { day: 1, disk: 'data' }), image('Web01_data_2', { day: 1, disk: 'data', key: 'Web01_data_1' })];
    assert.equal(newest(sighting(taken, [record(1, both)])), '01 in 2: Web01_root_2.raw Web01_data_2.raw');
  });
});
