import assert from 'node:assert/strict';
import { planActivation } from '../../src/activation/plan.js';
import { compareDefinition } from '../../src/definitions/compare.js';
import { checkImageNames, roomIn } from '../../src/jobs/plan-volumes.js';
import { publishable } from '../../src/jobs/publishable.js';
import { readDefinition } from '../../src/definitions/read.js';
import type { LocatedServer } from '../../src/jobs/locate.js';
import type { TargetConfig } from '../../src/model/config.js';
import type { RotationStep, ServerOnTarget } from '../../src/model/rotation.js';
import { rejects } from '../conformance/store.js';

const MIB = 2 ** 20;
const OLD = '20260101T000000Z-00000000000000aa';
const NEW = '20260102T000000Z-00000000000000bb';
const XML = `<domain type='qemu'><name>Web01</name><memory>65536</memory><os><type>hvm</type></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/srv/root.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>`;

const target = (store: string): TargetConfig => ({
  name: 'dr01', host: 'dr01', reach: 'dr01', libvirt: 'qemu:///system', store, definitions: '/shared/definitions', current: '/shared/dr/current', useCache: true, bandwidth: [], allocation: 'sparse',
});
const located = (server: string, disk: string, bytes = 8 * MIB): LocatedServer => ({
  server, uuid: 'u', node: 'n', mode: 'live', disks: [{ disk, target: 'vda', path: '/srv/root.qcow2', format: 'qcow2', bytes }],
  seen: { name: server, uuid: 'u', state: 'running', xml: XML.replace('Web01', server), persistent: true, tpm: false, disks: [] } as unknown as LocatedServer['seen'],
});
const parts = [{ name: 'a', freeBytes: 12 * MIB, extentBytes: 4 * MIB }, { name: 'b/pool', freeBytes: 16 * MIB, extentBytes: 4 * MIB }];

describe('planning for volume groups', () => {
  const checked = (server: string, disk: string, store: string) => Promise.resolve().then(() => { checkImageNames(located(server, disk), target(store)); });

  it('refuses names that LVM refuses, with disk and volume named', async () => {
    await checked('Web01', 'root', 'vg:a,b/pool');
    await checked('Web01', 'my_tmeta', 'fs:/srv/dr');
    await rejects(checked('Web01', 'my_tmeta', 'vg:a'), 'name-invalid');
    await rejects(checked('snapshots', 'root', 'vg:a'), 'name-invalid');
    await assert.rejects(checked('Web01', 'a_mlog', 'vg:a'), /disk vda would be the logical volume Web01_a_mlog_incomplete in a: LVM keeps names with _mlog/);
    const long = 'x'.repeat(100);
    await checked('S'.repeat(10), long, 'vg:a');
    await rejects(checked('S'.repeat(12), long, 'vg:a'), 'name-invalid');
    await rejects(checked('S'.repeat(10), long, `vg:a,b${'-'.repeat(9)}/pool`), 'name-invalid');
  });

  it('counts each group for itself, and what is recycled where it is', () => {
    const begin: RotationStep = {
      kind: 'begin', recycle: [{ disk: 'root', set: OLD }],
      intent: { version: 1, set: NEW, generation: 2, anvil: 'an', job: 'j', server: 'Web01', uuid: 'u', node: 'n', capture: 'live', consistency: 'crash', capturedAt: '2026-01-02T00:00:00Z',
        disks: [{ disk: 'root', target: 'vda', bytes: 20 * MIB }, { disk: 'data', target: 'vdb', bytes: 9 * MIB }] },
    };
    const image = { identity: { set: OLD, disk: 'root' }, disk: 'root', part: 'a', allocatedBytes: 8 * MIB, bytes: 8 * MIB };
    const seen = { images: [image] } as unknown as ServerOnTarget;
    const allocate: RotationStep = { kind: 'allocate', set: NEW, disk: 'data', bytes: 9 * MIB };
    assert.deepEqual(roomIn(parts, [begin, allocate], seen).left.map(({ freeBytes }) => freeBytes / MIB), [0, 4]);
    assert.equal(roomIn(parts, [begin, { ...allocate, bytes: 17 * MIB }], seen).lacking, 17 * MIB);
    const crowded = { images: [{ ...image, allocatedBytes: 4 * MIB }] } as unknown as ServerOnTarget;
    assert.equal(roomIn(parts, [begin], crowded).lacking, 20 * MIB, 'b/pool has room, but the image is in a');
  });
});

describe('a definition for images that are volumes', () => {
  const published = (bytes: number, store = 'vg:a,b/pool'): string => publishable({ server: located('Web01', 'root', bytes), target: target(store), parts });

  it('points at a block device, and says where the disk ends within an extent', () => {
    assert.match(published(8 * MIB), /<disk type='block' device='disk'><driver name='qemu' type='raw'\/><source dev='\/shared\/dr\/current\/Web01\/root'\/>/);
    assert.match(published(8 * MIB + 512), /<source dev='[^']*'>\s*<slices>\s*<slice type='storage' offset='0' size='8389120'\/>\s*<\/slices>\s*<\/source>/);
    assert.match(publishable({ server: located('Web01', 'root'), target: target('fs:/srv/dr') }), /<disk type='file'.*<source file=/);
  });

  it('fits no more when its slice shows another part of the disk, and still when the disk only ends in zeros', () => {
    const verdict = (before: number, now: number): boolean => compareDefinition(published(before), published(now)).fits;
    assert.equal(verdict(8 * MIB + 512, 8 * MIB + 512), true);
    assert.equal(verdict(8 * MIB + 512, 9 * MIB + 512), false);
    assert.equal(verdict(8 * MIB + 512, 12 * MIB), false);
    const difference = compareDefinition(published(8 * MIB), published(8 * MIB + 512));
    assert.deepEqual([difference.fits, difference.differences.length], [true, 1], 'it is told all the same');
  });

  it('is told of on disaster day when its slice is not the size of the copy', () => {
    const facts = readDefinition(published(8 * MIB + 512));
    const notes = (bytes: number) => planActivation({
      servers: [{ server: 'Web01', path: '/d/Web01.xml', facts, running: false, missing: [], chosen: { set: OLD, slot: 1, capturedAt: null },
        onTarget: { server: 'Web01', images: [{ disk: 'root', identity: { set: OLD, disk: 'root' }, bytes }], foreign: [], generation: 1 } as unknown as ServerOnTarget }],
      host: { memoryBytes: 2 ** 40, freeMemoryBytes: 2 ** 40, bridges: [], machines: [] }, alive: new Map(),
    }).notes;
    assert.deepEqual(notes(8 * MIB + 512), []);
    assert.match(notes(12 * MIB)[0] ?? '', /shows 8389120 bytes of vda, and the copy has 12582912/);
  });
});
