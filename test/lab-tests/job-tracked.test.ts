import assert from 'node:assert/strict';
import type { Guest } from '../lab/guest.js';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { skipBecause } from '../support/skip.js';
import { Admin, job, type Keys } from './admin.js';
import type { ServerJson } from './shapes.js';
import { assertEqual, fill } from './outside.js';

/** Live runs with `keep_base`: what is read of a qcow2 disk is what its bitmap says has changed, and the copy is right whatever becomes of the bitmap. */

const LAB = 'job-tracked';
const IMAGES = '/var/lib/libvirt/images/Tr01';
const MIB = 2 ** 20;
const [DISK, FILLED] = [256, 192];
/** Blocks that are read to see whether a hint holds. */
const SAMPLE = 64;

describe('a live job that keeps bitmaps', function () {
  this.timeout(240_000);
  let lab: Lab;
  let admin: Admin;
  let node: LabHost;
  let guest: Guest;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'node02', 'dr01', 'head01'], store: { sizeMiB: 1024 } });
    node = lab.host('node01');
    admin = new Admin(lab.host('head01'));
    guest = await lab.addGuest('node01', { name: 'Tr01', start: false, disks: [{ path: `${IMAGES}/root.raw` }, { path: `${IMAGES}/data.qcow2`, format: 'qcow2', sizeMiB: DISK }] });
    await fill(guest, 1, `write -P 0xff 1M ${String(FILLED)}M`);
    await configure({ keep_base: true });
    await guest.start();
    await guest.beats(1);
  });
  after(async () => { await Lab.down(LAB); });

  const configure = (more: Keys): Promise<void> => admin.configure({ jobs: { tracked: job(['Tr01'], { copies: 2, ...more }) } });
  const checkpoints = async (): Promise<string[]> => (await node.run('virsh', ['checkpoint-list', 'Tr01', '--name'])).stdout.split('\n').map((line) => line.trim()).filter((line) => line !== '');
  const kept = async (): Promise<string> => (await node.run('sh', ['-c', 'ls /var/lib/dr-engine/checkpoints 2>/dev/null; true'])).stdout;

  /** Has the guest's QEMU write to its second disk, as the guest would. */
  const write = async (...commands: readonly string[]): Promise<void> => {
    for (const command of commands) await node.run('virsh', ['qemu-monitor-command', 'Tr01', '--hmp', `qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend "${command}"`]);
  };

  /** A run of the paused guest, after which the copies equal its disks; what was read of the second one, in MiB. */
  async function runsAndEquals(): Promise<{ readonly readMiB: number; readonly server: ServerJson }> {
    await node.run('virsh', ['suspend', 'Tr01']);
    const { server, all } = await admin.runsWell('tracked');
    assert.equal(server().capture, 'live', all);
    await guest.destroy();
    for (const [index, disk] of guest.disks.entries()) await assertEqual(lab, { host: node, disk }, lab.host('dr01'), ['Tr01_root_1', 'Tr01_data_1'][index] ?? '');
    await guest.start();
    await guest.beats(1);
    const read = server().images.find(({ disk }) => disk === 'data')?.bytes_read ?? 0;
    return { readMiB: read / MIB, server: server() };
  }

  it('reads the whole disk the first time, and leaves a checkpoint', async () => {
    const { readMiB } = await runsAndEquals();
    assert.ok(readMiB >= FILLED, String(readMiB));
    assert.match((await checkpoints()).join(), /^dr-engine-[0-9a-f]{16}$/);
  });

  it('reads what changed and a sample after that, also when the server was off between', async () => {
    await runsAndEquals(); // into new images, which hold nothing yet
    const before = await checkpoints();
    await write('write -P 0x11 10M 3M', 'write -z 30M 2M', 'write -P 0x22 250M 64k');
    const { readMiB, server } = await runsAndEquals();
    assert.ok(readMiB >= SAMPLE && readMiB < SAMPLE + 80, `${String(readMiB)} MiB were read; ${server.notes?.join() ?? ''}`); // zeros are sampled, too
    assert.equal(server.notes, undefined);
    const names = await checkpoints();
    assert.equal(names.length, 2);
    assert.equal(names.filter((name) => before.includes(name)).length, 1, 'the one it began with stays until the next run');
  });

  it('removes the checkpoint that is of no use any more, and leaves those of others alone', async () => {
    await node.run('virsh', ['checkpoint-create-as', 'Tr01', 'admins', '--diskspec', 'vda,checkpoint=no', '--diskspec', 'vdb,checkpoint=bitmap']);
    await write('write -P 0x33 40M 1M');
    const { readMiB } = await runsAndEquals();
    assert.ok(readMiB < SAMPLE + 80, String(readMiB));
    const names = await checkpoints();
    assert.equal(names.filter((name) => name.startsWith('dr-engine-')).length, 2, names.join());
    assert.ok(names.includes('admins'));
    await node.run('virsh', ['checkpoint-delete', 'Tr01', 'admins']);
  });

  it('reads the whole disk when a bitmap is broken by a crash, and tracks it anew', async () => {
    await node.run('sh', ['-c', 'kill -9 "$(cat /run/libvirt/qemu/Tr01.pid)"']);
    await node.run('sh', ['-c', 'for i in 1 2 3 4 5 6 7 8 9 10; do virsh start Tr01 && exit 0; sleep 0.5; done; exit 1']);
    await write('write -P 0x44 50M 1M');
    const broken = await runsAndEquals();
    assert.ok(broken.readMiB >= FILLED, String(broken.readMiB));
    const again = await runsAndEquals();
    assert.ok(again.readMiB >= FILLED, 'nothing could be known since the crash');
    await write('write -P 0x55 60M 1M');
    const tracked = await runsAndEquals();
    assert.ok(tracked.readMiB < SAMPLE + 80, String(tracked.readMiB));
  });

  it('finds out by the sample that a disk was changed behind the bitmap, and reads all of it', async () => {
    await guest.destroy();
    // Most of it, by somebody who knows nothing of bitmaps: the clusters of the image are overwritten in place.
    const path = guest.disks[1]?.path ?? '';
    const map = JSON.parse((await node.run('qemu-img', ['map', '--output=json', path])).stdout) as { start: number; length: number; offset?: number; zero: boolean }[];
    for (const { start, length, offset, zero } of map) {
      const skip = Math.max(0, 70 * MIB - start);
      if (zero || offset === undefined || skip >= length) continue;
      await node.run('sh', ['-c', `tr '\\000' '\\167' < /dev/zero | dd of="$1" bs=64K seek="$2" count="$3" oflag=seek_bytes iflag=count_bytes,fullblock conv=notrunc status=none`, 'sh', path, String(offset + skip), String(length - skip)]);
    }
    await guest.start();
    await guest.beats(1);
    const { readMiB, server } = await runsAndEquals();
    assert.ok(readMiB >= FILLED, String(readMiB));
    assert.match(server.notes?.join() ?? '', /the hint of what has changed in .* was not used: it is wrong at offset \d+; the whole disk was read/);
  });

  it('removes its checkpoints when the job does not want them any more', async () => {
    await configure({});
    await runsAndEquals();
    assert.deepEqual(await checkpoints(), []);
    assert.equal(await kept(), '');
  });
});
