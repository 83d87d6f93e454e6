import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseLvmState, parseThinDelta, type Volume } from '../../src/system/lvm.js';
import { CHECKOUT } from '../lab/layout.js';

/** What lvm/list printed on a host with snapshots, one of them overrun, two thin pools, and a volume group that misses a disk. */
const recorded = async (): Promise<string> => await readFile(join(CHECKOUT, 'test/golden/lvm/list.json'), 'utf8');

describe('what LVM says', () => {
  let volume: (path: string) => Volume;
  before(async () => {
    const { volumes } = parseLvmState(await recorded());
    volume = (path) => {
      const found = volumes.find(({ vg, name }) => `${vg}/${name}` === path);
      assert(found, path);
      return found;
    };
  });

  it('is read group by group; those that are not allowed or not there are absent', async () => {
    const { allowed, groups, volumes } = parseLvmState(await recorded());
    assert.deepEqual(allowed, ['dr_vg0', 'dr_vg1', 'dr_vg2', 'gone']);
    assert.deepEqual(groups.map(({ name }) => name), ['dr_vg1', 'dr_vg0', 'dr_vg2']);
    assert.deepEqual(groups.map(({ missing }) => missing), [false, false, true]);
    assert.deepEqual(groups[1], { name: 'dr_vg0', uuid: '0jhUPv-ZMmQ-HBm3-YaZg-3IT6-ZVUJ-cfdEEN', sizeBytes: 532676608, freeBytes: 457179136, extentBytes: 4194304, missing: false });
    assert.equal(volumes.length, 16);
  });

  it('names a plain volume by what stays through renames and reboots', () => {
    assert.deepEqual(volume('dr_vg0/plain'), {
      vg: 'dr_vg0', name: 'plain', uuid: 'aycRY7-nlVf-0qFf-Hlpp-RU2B-qBKf-ovJxB7', bytes: 67108864, kind: 'plain', active: true, open: false, overrun: false, partial: false,
      tags: ['dr-engine', 'dr.set=20261121T122812Z-5f0c12ab9e34d7c1/root', 'dr.x=y'], device: { major: 253, minor: 0 },
      path: '/dev/disk/by-id/dm-uuid-LVM-0jhUPvZMmQHBm3YaZg3IT6ZVUJcfdEENaycRY7nlVf0qFfHlppRU2BqBKfovJxB7',
    });
  });

  it('tells kinds of volumes apart', () => {
    assert.deepEqual(['dr_vg0/plain', 'dr_vg0/snap', 'dr_vg1/pool', 'dr_vg1/pool_tdata', 'dr_vg1/lvol0_pmspare', 'dr_vg1/thin1', 'dr_vg1/s1', 'dr_vg2/torn'].map((path) => volume(path).kind),
      ['plain', 'snapshot', 'pool', 'other', 'other', 'thin', 'thin', 'plain']);
  });

  it('shows a snapshot that ran full', () => {
    const { origin, dataPercent, overrun } = volume('dr_vg0/snap');
    assert.deepEqual({ origin, dataPercent, overrun }, { origin: 'plain', dataPercent: 100, overrun: true });
  });

  it('shows thin volumes with their pool, number and origin, and whether the pool zeroes', () => {
    const { pool, thinId, origin, active, device, dataPercent } = volume('dr_vg1/s2');
    assert.deepEqual({ pool, thinId, origin, active, device, dataPercent }, { pool: 'pool', thinId: 5, origin: 'thin1', active: false, device: undefined, dataPercent: undefined });
    assert.deepEqual(['pool', 'raw', 'thin1', 'thin2'].map((name) => volume(`dr_vg1/${name}`).zeroes), [true, false, true, false]);
    assert.equal(volume('dr_vg1/pool').metadataPercent, 11.13);
    assert.equal(volume('dr_vg0/plain').zeroes, undefined);
  });

  it('shows what lies on a disk that is missing', () => {
    assert.deepEqual([volume('dr_vg2/torn').partial, volume('dr_vg2/torn').active, volume('dr_vg0/plain').partial], [true, false, false]);
  });

  it('is refused when it is no such answer', () => {
    for (const json of ['', '{}', '{"allowed": [], "lvm": {}}', '{"allowed": ["a"], "lvm": {"report": [{"vg": [{"vg_name": "a"}], "lv": [], "seg": []}]}}']) {
      assert.throws(() => parseLvmState(json), { code: 'program-failed' }, json);
    }
    assert.deepEqual(parseLvmState('{"allowed": [], "lvm": {"report": []}}'), { allowed: [], groups: [], volumes: [] });
  });
});

describe('what thin_delta says', () => {
  const xml = (...lines: readonly string[]): string =>
    `<superblock uuid="" time="3" transaction="5" data_block_size="128" nr_data_blocks="0">\n  <diff left="4" right="5">\n${lines.map((line) => `    ${line}\n`).join('')}  </diff>\n</superblock>\n`;

  it('is where the two differ, in bytes, joined where they meet', () => {
    assert.deepEqual(parseThinDelta(xml('<same begin="0" length="5"/>', '<different begin="5" length="3"/>', '<right_only begin="8" length="1"/>', '<same begin="9" length="1"/>', '<left_only begin="20" length="2"/>')),
      [{ begin: 5 * 65536, length: 4 * 65536 }, { begin: 20 * 65536, length: 2 * 65536 }]);
    assert.deepEqual(parseThinDelta(xml()), []);
  });

  it('is refused when its end is missing', () => {
    const whole = xml('<different begin="5" length="3"/>');
    for (const end of [0, 60, whole.length - 15]) assert.throws(() => parseThinDelta(whole.slice(0, end)), { code: 'program-failed' });
  });
});
