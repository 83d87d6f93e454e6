import assert from 'node:assert/strict';
import { heartbeatIn, type Guest } from '../lab/guest.js';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { processesOf } from '../lab/roles.js';
import { go, reached, stopAt, watchSteps } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { Admin, ended, job } from './admin.js';
import { createByHand, files, names, provenSets, sumOf, type FileSeen } from './outside.js';

/** Live jobs of whole servers: what is in the store after each run, whether it is of one instant, and whether it boots. */

const LAB = 'job-live';

describe('a live job', function () {
  this.timeout(240_000);
  let lab: Lab;
  let admin: Admin;
  let guest: Guest;
  let target: LabHost;
  let node: LabHost;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'node02', 'dr01', 'head01'], store: { sizeMiB: 512 } });
    target = lab.host('dr01');
    node = lab.host('node01');
    admin = new Admin(lab.host('head01'));
    const images = '/var/lib/libvirt/images/Db01';
    guest = await lab.addGuest('node01', { name: 'Db01', kind: 'sector-pair', disks: [{ path: `${images}/root.raw` }, { path: `${images}/data.qcow2`, format: 'qcow2', backing: true, sizeMiB: 16 }] });
    await admin.configure({ jobs: { db: job(['Db01']) } });
    for (const host of [node, target]) await watchSteps(host);
    await guest.beats(2);
  });
  after(async () => { await Lab.down(LAB); });

  const image = (disk: string, slot: number | 'incomplete'): string => `Db01_${disk}_${String(slot)}`;
  const at = (seen: ReadonlyMap<string, FileSeen>, disk: string, slot: number): FileSeen => {
    const found = seen.get(image(disk, slot));
    assert.ok(found, `there is no ${image(disk, slot)}, only ${[...seen.keys()].join(' ')}`);
    return found;
  };
  /** Heartbeats as they stand in the stored disks: first disk's, second disk's. */
  const beatsIn = async (slot: number): Promise<readonly [number, number]> =>
    [await heartbeatIn(target, `/srv/dr/${image('root', slot)}.raw`, 'raw', 1), await heartbeatIn(target, `/srv/dr/${image('data', slot)}.raw`)];

  it('keeps three copies over four runs: the names move on, the files stay, and each copy is of one instant of both disks', async () => {
    const strangers = ['/shared/definitions/Other.xml', '/shared/dr/current/README', '/srv/dr/Db02_root_1.raw', '/srv/dr/Db01_root_notes.raw'];
    for (const path of strangers) await target.writeFile(path, 'not of dr-engine\n');
    const sumOfStrangers = await sumOf(target, ...strangers);
    // Where the run is stopped each time, to start the newest copy by hand.
    const places = [undefined, 'name-before-take', 'receive-before-proof', 'manifest-after'] as const;
    let before: ReadonlyMap<string, FileSeen> = new Map();
    const sets: string[] = [];
    for (const [index, place] of places.entries()) {
      await guest.beats(2);
      const seenBefore = await guest.heartbeat();
      await stopAt(node, 'backup-after-begin');
      if (place !== undefined) await stopAt(target, place);
      const started = await admin.start('db');
      await reached(node, 60_000);
      const seenAtCapture = await guest.heartbeat();
      await go(node);
      if (place !== undefined) {
        await reached(target, 60_000);
        await createByHand(target, 'Db01');
        await go(target);
      }
      const { status, all, server } = await ended(started);
      assert.equal(status, 0, all);
      assert.equal(server().capture, 'live');
      assert.equal(server().down_ms, 0);
      for (const { disk, bytes, bytes_read: read, bytes_sent: sent, bytes_written: written } of server().images) {
        assert.equal(bytes, (disk === 'root' ? 8 : 16) * 2 ** 20);
        assert.ok(read <= bytes && written <= bytes && sent <= bytes + 65536, `${disk}: ${String(read)} read, ${String(sent)} sent, ${String(written)} written`);
      }
      await guest.beats(1);

      const now = new Map([...await files(target, 'Db01')].filter(([name]) => name !== 'Db01_root_notes'));
      const copies = Math.min(3, index + 1);
      const slots = Array.from({ length: copies }, (_each, slot) => slot + 1);
      assert.deepEqual([...now.keys()].sort(), ['data', 'root'].flatMap((disk) => slots.map((slot) => image(disk, slot))));
      const set = at(now, 'root', 1).set;
      assert.ok(!sets.includes(set), 'number 1 is no new capture');
      sets.unshift(set);
      for (const slot of slots) {
        for (const disk of ['root', 'data']) {
          const file = at(now, disk, slot);
          assert.deepEqual([file.set, file.disk], [sets[slot - 1], disk], `P3: ${file.name}`);
          if (slot === 1) continue;
          const was = at(before, disk, slot - 1);
          assert.deepEqual([file.inode, file.sum], [was.inode, was.sum], `${file.name} is not the file that was ${was.name}`);
        }
      }
      if (index === 3) for (const disk of ['root', 'data']) assert.equal(at(now, disk, 1).inode, at(before, disk, 3).inode, 'the oldest copy was not recycled');
      const proven = await provenSets(target);
      for (const kept of sets.slice(0, copies)) assert.ok(proven.has(kept), `${kept} has no manifest`);

      const [first, second] = await beatsIn(1);
      assert.ok(first === second || first === second + 1, `the disks are not of one instant: ${String(first)} and ${String(second)}`);
      assert.ok(second >= seenBefore && second <= seenAtCapture + 1, `heartbeat ${String(second)} was not captured between ${String(seenBefore)} and ${String(seenAtCapture)}`);
      before = now;
    }
    const [newest, middle, oldest] = [await beatsIn(1), await beatsIn(2), await beatsIn(3)];
    assert.ok(newest[1] > middle[1] && middle[1] > oldest[1], `the copies are not in order: ${JSON.stringify([newest, middle, oldest])}`);
    assert.equal((await target.run('readlink', ['-f', '/shared/dr/current/Db01/root'])).stdout.trim(), `/srv/dr/${image('root', 1)}.raw`);
    assert.equal((await target.run('virsh', ['list', '--all', '--name'])).stdout.trim(), '', 'P7: a domain is left on the target');
    assert.equal(await sumOf(target, ...strangers), sumOfStrangers, 'P4: something that is not ours was touched');
    await assertNodeIsClean();
  });

  async function assertNodeIsClean(): Promise<void> {
    assert.match((await node.run('virsh', ['domjobinfo', 'Db01'])).stdout, /Job type:\s+None/);
    assert.equal((await node.run('virsh', ['checkpoint-list', '--name', 'Db01'])).stdout.trim(), '');
    assert.deepEqual(await names(node, '/var/lib/libvirt/dr-engine'), []);
    assert.equal((await node.run('sh', ['-c', 'findmnt -rn -t fuse -o TARGET; find /var/lib/dr-engine/owed -name "*.json" ! -name owner.json'])).stdout, '');
    assert.deepEqual(await processesOf(node, 'storage-daemon'), []);
  }

  it('boots by hand in the middle of a run: the guest finds its heartbeat, nobody touches what it runs from until dr release, and the new copy is not lost', async () => {
    await stopAt(target, 'receive-before-proof');
    const started = await admin.start('db');
    await reached(target, 60_000);
    const expected = (await beatsIn(2))[1]; // number 1 is vacant while the new set is written
    const copy = guest.on(target);
    await target.run('virsh', ['create', '/shared/definitions/Db01.xml']);
    assert.equal(await copy.last(), expected);
    await copy.beats(1);
    await go(target);
    const during = await ended(started);
    assert.equal(during.status, 1, during.all);
    assert.equal(during.server().error?.code, 'image-modified', during.all);
    const booted = at(await files(target, 'Db01'), 'root', 2);
    const fresh = (await files(target, 'Db01')).get(image('root', 'incomplete'));
    assert.ok(fresh !== undefined && (await provenSets(target)).has(fresh.set), 'what the run wrote is not kept as a proven set');

    const refused = async (): Promise<void> => {
      const run = await admin.run('db');
      assert.equal(run.status, 4, run.all);
      assert.equal(run.report.outcome, 'refused', run.all);
      assert.equal(run.server().error?.code, 'image-modified', run.all);
      assert.match(run.server().error?.hint ?? '', /dr release Db01/);
      assert.equal(at(await files(target, 'Db01'), 'root', 2).inode, booted.inode);
    };
    await refused();
    const early = await admin.dr('release', 'Db01');
    assert.equal(early.status, 3, early.all);
    assert.match(early.stderr, /in use/);
    await copy.destroy();
    await refused();

    const release = await admin.dr('release', 'Db01');
    assert.equal(release.status, 0, release.all);
    await admin.runsWell('db');
    assert.equal(at(await files(target, 'Db01'), 'root', 2).set, fresh.set);
  });
});
