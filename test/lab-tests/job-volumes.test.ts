import assert from 'node:assert/strict';
import { heartbeatIn, type Guest } from '../lab/guest.js';
import { Lab } from '../lab/lab.js';
import { until } from '../lab/namespaces.js';
import type { VmHost } from '../lab/vm-host.js';
import { skipBecause, SOAK } from '../support/skip.js';
import { Admin, cold, job } from './admin.js';
import { createByHand, provenSets, volumes, type VolumeSeen } from './outside.js';

/**
 * From a server on logical volumes of a node to logical volumes of a target, each with a kernel and a device-mapper of its own. Both hosts have a group
 * `vg0`; the target's has large extents, so that no disk fits them.
 */

const LAB = 'job-volumes';
const CATALOG = '/var/lib/dr-engine/volumes';
const STORE = 'vg:vg0,vg1';
/** A run between two virtual machines takes minutes; the oldest copy is recycled by the first run beyond these. */
const COPIES = SOAK ? 3 : 2;

describe('a job between logical volumes', function () {
  this.timeout(1_200_000); // four runs, each mostly starting programs under emulation
  let lab: Lab;
  let admin: Admin;
  let guest: Guest;
  let node: VmHost;
  let target: VmHost;

  before(async function () {
    const reason = await Lab.impossible() ?? await Lab.impossibleVirtual();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'dr01', 'head01'], virtual: ['node01', 'dr01'], disks: { node01: [256], dr01: [512, 512] }, store: { sizeMiB: 64 } });
    [node, target] = [lab.vm('node01'), lab.vm('dr01')];
    await node.run('sh', ['-ec', 'vgcreate -q -y vg0 "$1"; lvcreate -q -y -n Db01_0 -L 8M vg0; lvcreate -q -y -n Db01_1 -L 24M vg0; mkdir -p /etc/dr; echo vg0 > /etc/dr/vgs', 'sh', node.disk(0)], { timeoutMs: 60_000 });
    await target.run('sh', ['-ec', 'vgcreate -q -y -s 16M vg0 "$1"; vgcreate -q -y -s 16M vg1 "$2"; lvcreate -q -y -n Db01_notes -L 16M vg0; lvcreate -q -y -n Other_root_1 -L 16M vg1; echo mine > /dev/vg1/Other_root_1; ' +
      'mkdir -p /etc/dr; printf "vg0\\nvg1\\n" > /etc/dr/vgs', 'sh', target.disk(0), target.disk(1)], { timeoutMs: 60_000 });
    guest = await lab.addGuest('node01', { name: 'Db01', kind: 'sector-pair', disks: [{ path: '/dev/vg0/Db01_0' }, { path: '/dev/vg0/Db01_1', sizeMiB: 24 }] });
    admin = new Admin(lab.host('head01'));
    const anvils = { 'an-a01': { nodes: ['node01'] } };
    await admin.configure({ anvils, targets: { dr01: { host: 'dr01', store: STORE } }, jobs: { live: job(['Db01']) } });
    await guest.beats(2, 120_000);
  });
  after(async () => { await Lab.down(LAB); });

  /** The same server in another job: one server has one job per target. */
  const configure = async (form: Readonly<Record<string, unknown>>): Promise<void> =>
    admin.configure({ anvils: { 'an-a01': { nodes: ['node01'] } }, targets: { dr01: { host: 'dr01', store: STORE } }, jobs: { db: form } });
  const image = (disk: number, slot: number): string => `Db01_Db01_${String(disk)}_${String(slot)}`;

  it(`keeps ${String(COPIES)} copies over ${String(COPIES + 1)} runs in every way of capture; names move on, volumes stay, and each copy is of one instant`, async () => {
    const sets: string[] = [];
    let before: ReadonlyMap<string, VolumeSeen> = new Map();
    for (const form of [job(['Db01']), job(['Db01'], { live: 'lvm' }), cold(['Db01']), job(['Db01'], { live: 'lvm', snapshot_size: '64MiB' })].slice(0, COPIES + 1)) {
      await configure({ ...form, copies: COPIES });
      await guest.beats(1, 60_000);
      const earliest = await guest.heartbeat();
      const ran = await admin.runsWell('db');
      assert.equal(ran.server().capture, form['capture'] === 'shutdown' ? 'cold' : 'live');
      assert.equal(await guest.state(), 'running');
      const now = new Map([...await volumes(target, 'Db01')].filter(([name]) => name !== 'Db01_notes'));
      const copies = Math.min(COPIES, sets.length + 1);
      assert.deepEqual([...now.keys()].sort(), [0, 1].flatMap((disk) => Array.from({ length: copies }, (_each, slot) => image(disk, slot + 1))));
      const set = now.get(image(0, 1))?.set ?? '';
      assert.ok(set !== '' && !sets.includes(set), 'number 1 is no new capture');
      sets.unshift(set);
      for (let slot = 1; slot <= copies; slot++) {
        for (const disk of [0, 1]) {
          const seen = now.get(image(disk, slot));
          assert.deepEqual([seen?.set, seen?.disk], [sets[slot - 1], `Db01_${String(disk)}`], `P3: ${image(disk, slot)}`);
          const was = slot === 1 ? undefined : before.get(image(disk, slot - 1));
          if (was !== undefined) assert.deepEqual([seen?.uuid, seen?.sum], [was.uuid, was.sum], `${image(disk, slot)} is not the volume that was ${was.name}`);
        }
      }
      if (sets.length === COPIES + 1) for (const disk of [0, 1]) assert.equal(now.get(image(disk, 1))?.uuid, before.get(image(disk, COPIES))?.uuid, 'the oldest copy was not recycled');
      const proven = await provenSets(target, CATALOG);
      for (const kept of sets.slice(0, copies)) assert.ok(proven.has(kept), `${kept} has no manifest`);
      const [first, second] = [await heartbeatIn(target, await path(image(0, 1)), 'raw', 1), await heartbeatIn(target, await path(image(1, 1)))];
      assert.ok(first === second || first === second + 1, `the disks are not of one instant: ${String(first)} and ${String(second)}`);
      assert.ok(second >= earliest, `heartbeat ${String(second)} is older than the run, which began at ${String(earliest)}`);
      before = now;
    }
    assert.equal((await target.run('sh', ['-c', 'head -c 4 /dev/vg1/Other_root_1; lvs --noheadings -o lv_tags vg0/Db01_notes vg1/Other_root_1'])).stdout.trim(), 'mine', 'P4: something that is not ours was touched');
    const groups = new Set([...before.values()].map(({ group }) => group));
    assert.deepEqual([...groups].sort(), ['vg0', 'vg1'], 'the emptier group was not chosen');
    const { stdout } = await node.run('lvs', ['--noheadings', '-a', '-o', 'lv_name']);
    assert.deepEqual(stdout.trim().split(/\s+/).sort(), ['Db01_0', 'Db01_1'], 'a snapshot is left on the node');
  });

  const path = async (name: string): Promise<string> => {
    const seen = (await volumes(target, 'Db01')).get(name);
    return `/dev/${seen?.group ?? ''}/${name}`;
  };

  it('takes a stopped server bit by bit, and what is beyond its size in the volumes is zero', async () => {
    await configure({ ...job(['Db01']), copies: COPIES });
    await guest.destroy();
    await admin.runsWell('db');
    const seen = await volumes(target, 'Db01');
    for (const [disk, bytes] of [[0, 8 * 2 ** 20], [1, 24 * 2 ** 20]] as const) {
      const sum = (await node.run('sha256sum', [guest.disks[disk]?.path ?? ''])).stdout.slice(0, 64);
      const copy = seen.get(image(disk, 1));
      assert.equal(copy?.sum, sum, `the copy of disk ${String(disk)} is not the disk`);
      const rest = await target.run('sh', ['-c', 'dd if="$1" bs=1M iflag=direct,skip_bytes skip="$2" status=none | tr -d "\\000" | wc -c', 'sh', await path(image(disk, 1)), String(bytes)]);
      assert.equal(rest.stdout.trim(), '0', `old data is left behind the end of disk ${String(disk)}`);
      assert.ok((copy?.bytes ?? 0) > bytes);
    }
  });

  it('boots the copy by hand after a power cut of the target, with nothing of dr-engine running, and by dr-activate', async () => {
    const last = await guest.heartbeatOn();
    await target.powerCut();
    await target.boot();
    await createByHand(target, 'Db01');
    assert.match((await target.run('cat', ['/shared/definitions/Db01.xml'])).stdout, /<slice type=['"]storage['"] offset=['"]0['"] size=['"]8388608['"]/);
    const activated = await target.run('dr-activate', ['--yes', '--originals-are-off'], { timeoutMs: 180_000, okExit: [0, 1, 2, 3, 4] });
    assert.equal(activated.exitCode, 0, activated.stdout + activated.stderr);
    assert.equal(await until('the copy to boot', async () => guest.on(target).last(10_000).catch(() => undefined), 90_000), last);
  });
});
