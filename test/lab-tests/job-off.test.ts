import assert from 'node:assert/strict';
import type { Guest } from '../lab/guest.js';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { go, reached, stopAt, watchSteps } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { Admin, cold, ended, job, type Keys } from './admin.js';
import type { ServerJson } from './shapes.js';
import { assertEqual, files, fill, Lifecycle, sumOf } from './outside.js';

/** A server that is off: what is stored equals the source bit by bit, whatever was in the recycled images, whatever its disks have become, and however many copies are kept. */

const LAB = 'job-off';
const MIB = 2 ** 20;

describe('a job of a server that is off', function () {
  this.timeout(240_000);
  let lab: Lab;
  let admin: Admin;
  let node: LabHost;
  let target: LabHost;
  const images = '/var/lib/libvirt/images/Off01';
  let guest: Guest;
  let lifecycle: Lifecycle;
  let disks: Record<string, { readonly path: string; readonly format: 'raw' | 'qcow2' }>;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'node02', 'dr01', 'head01'], store: { sizeMiB: 512, fs: 'xfs' } }); // new copies share blocks with older ones
    node = lab.host('node01');
    target = lab.host('dr01');
    admin = new Admin(lab.host('head01'));
    guest = await lab.addGuest('node01', { name: 'Off01', start: false, disks: [
      { path: `${images}/root.raw` }, { path: `${images}/data.qcow2`, format: 'qcow2', backing: true, sizeMiB: 8 }, { path: `${images}/old.raw`, sizeMiB: 12 },
    ] });
    const [root, data, old] = guest.disks;
    assert.ok(root !== undefined && data !== undefined && old !== undefined);
    disks = { root, data, old };
    // In the backing file too, so that a hole in the upper file would show what is below.
    await node.run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0xff 0 8M', `${data.path}.base`]);
    await fill(guest, 1, 'write -P 0xff 0 8M');
    await fill(guest, 2, 'write -P 0xff 0 12M');
    lifecycle = await Lifecycle.watch(node);
  });
  after(async () => { await Lab.down(LAB); });

  const configure = (more: Keys): Promise<void> => admin.configure({ jobs: { off: job(['Off01'], more) } });

  /** A run, after which the newest copy equals the source, disk by disk, and nothing was started. */
  async function runsAndEquals(): Promise<ServerJson> {
    const { server, all } = await admin.runsWell('off');
    assert.deepEqual([server().capture, server().down_ms], ['cold', 0], all);
    assert.deepEqual(server().images.map(({ name }) => name).sort(), Object.keys(disks).map((disk) => `Off01_${disk}_1`).sort());
    for (const [disk, source] of Object.entries(disks)) await assertEqual(lab, { host: node, disk: source }, target, `Off01_${disk}_1`);
    assert.equal(await guest.state(), 'shut off');
    assert.equal(lifecycle.flips, '', 'a server that was off was started');
    return server();
  }

  const stored = async (): Promise<string[]> => [...(await files(target, 'Off01')).keys()].map((name) => name.replace('Off01_', '')).sort();

  it('reads it cold though the job is live: raw, qcow2 and backing files are stored as they are', async () => {
    await configure({ copies: 2 });
    await runsAndEquals();
    const second = await runsAndEquals();
    // Nothing has changed, and new images begin with what older ones hold.
    for (const { disk, bytes_sent: sent, bytes_written: written } of second.images) assert.ok(sent < 16 * 1024 && written === 0, `${disk}: ${String(sent)} bytes were sent, ${String(written)} written`);
    assert.deepEqual(await stored(), ['data_1', 'data_2', 'old_1', 'old_2', 'root_1', 'root_2']);
  });

  it('overwrites old data with the zeros and holes of the source, also where a disk grew, shrank or appeared', async () => {
    await fill(guest, 1, 'write -z 0 1M', 'discard 1M 1M', 'write -P 0x11 2500k 4k');
    await node.run('qemu-img', ['resize', '-q', `${images}/data.qcow2`, '11M']);
    await node.run('fallocate', ['--punch-hole', '--offset', '2MiB', '--length', '6MiB', `${images}/old.raw`]);
    await fill(guest, 2, 'write -P 0 8704k 4k', 'write -P 0x22 1028k 4k');
    await node.run('truncate', ['--size=9967104', `${images}/old.raw`]); // sectors, but no blocks: 9.5 MiB and a little
    await node.run('sh', ['-c', 'head -c 1500160 /dev/urandom > "$1"', 'sh', `${images}/extra.raw`]);
    await node.run('virsh', ['attach-disk', 'Off01', `${images}/extra.raw`, 'vdd', '--subdriver', 'raw', '--config']);
    disks['extra'] = { path: `${images}/extra.raw`, format: 'raw' };
    await runsAndEquals();
    const seen = await files(target, 'Off01');
    assert.deepEqual(['data', 'old', 'extra'].map((disk) => seen.get(`Off01_${disk}_1`)?.bytes), [11 * MIB, 9_967_104, 1_500_160]);
    assert.deepEqual(['data', 'old'].map((disk) => seen.get(`Off01_${disk}_2`)?.bytes), [8 * MIB, 12 * MIB], 'an older copy changed its size');
  });

  it('goes on without a disk that went away, and keeps it in the older copy', async () => {
    await node.run('virsh', ['detach-disk', 'Off01', 'vdc', '--config']);
    delete disks['old'];
    await runsAndEquals();
    assert.deepEqual(await stored(), ['data_1', 'data_2', 'extra_1', 'extra_2', 'old_2', 'root_1', 'root_2']);
  });

  it('keeps more copies when told to, and prunes what is too much only after a new one is complete', async () => {
    await configure({ copies: 3 });
    await runsAndEquals();
    assert.deepEqual((await stored()).filter((name) => name.startsWith('root')), ['root_1', 'root_2', 'root_3']);
    await configure({ copies: 1 });
    await watchSteps(target);
    await stopAt(target, 'receive-before-proof');
    const run = await admin.start('off');
    await reached(target, 60_000);
    assert.deepEqual((await stored()).filter((name) => name.startsWith('root')).length, 3, 'a copy was given up before the new one was proven');
    await go(target);
    assert.equal((await ended(run)).status, 0);
    assert.deepEqual(await stored(), ['data_1', 'extra_1', 'root_1']);
  });

  it('keeps the only copy until the new one is proven, while there is room for both', async () => {
    const only = (await files(target, 'Off01')).get('Off01_root_1');
    await stopAt(target, 'manifest-before');
    const run = await admin.start('off');
    await reached(target, 60_000);
    const during = (await files(target, 'Off01')).get('Off01_root_1');
    assert.deepEqual([during?.inode, during?.sum], [only?.inode, only?.sum]);
    await go(target);
    assert.equal((await ended(run)).status, 0);
    assert.deepEqual(await stored(), ['data_1', 'extra_1', 'root_1']);
    assert.notEqual((await files(target, 'Off01')).get('Off01_root_1')?.set, only?.set);
  });

  it('refuses to overwrite the only copy before the server is touched, unless told to', async () => {
    await guest.start();
    await guest.beats(1);
    const shutDown = (more: Keys): Promise<void> => admin.configure({ jobs: { off: cold(['Off01'], { copies: 1, ...more }) } });
    await shutDown({});
    // Room for the holes of the only copy to be filled, but not for a second copy of 20.5 MiB.
    await target.run('sh', ['-c', 'free=$(df --output=avail -B1 /srv/dr | tail -n 1); fallocate -l $((free - 16777216)) /srv/dr/ballast']);
    const before = await sumOf(target, '/srv/dr', '/shared');
    const refused = await admin.run('off');
    assert.equal(refused.status, 4, refused.all);
    assert.equal(refused.server().error?.code, 'only-copy', refused.all);
    assert.equal(await sumOf(target, '/srv/dr', '/shared'), before);
    assert.equal(lifecycle.flips, '+Off01', 'the server was touched');

    await shutDown({ overwrite_only_copy: true });
    const { server } = await admin.runsWell('off');
    assert.ok(server().down_ms > 0);
    assert.equal(lifecycle.flips, '+Off01 -Off01 +Off01');
    assert.deepEqual(await stored(), ['data_1', 'extra_1', 'root_1']);
    await guest.destroy();
  });
});
