import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { skipBecause } from '../support/skip.js';
import { Admin, ended, job } from './admin.js';
import { assertEqual } from './outside.js';

/** Disks that go over more than one ssh connection. */

const LAB = 'job-streams';
const DISK = { path: '/var/lib/libvirt/images/Big01/root.raw', sizeMiB: 768 } as const;

describe('a job over several ssh connections', function () {
  this.timeout(240_000);
  let lab: Lab;
  let admin: Admin;
  let node: LabHost;
  let target: LabHost;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'node02', 'dr01', 'head01'], store: { sizeMiB: 2048 } });
    node = lab.host('node01');
    target = lab.host('dr01');
    admin = new Admin(lab.host('head01'));
    await lab.addGuest('node01', { name: 'Big01', start: false, disks: [DISK] });
    await node.run('dd', ['if=/dev/urandom', `of=${DISK.path}`, 'bs=1M', `count=${String(DISK.sizeMiB)}`, 'conv=notrunc,fsync', 'status=none'], { timeoutMs: 120_000 });
    await admin.configure({ targets: { dr01: { host: 'dr01', store: 'fs:/srv/dr', streams: 3 } }, jobs: { big: job(['Big01']) } });
  });
  after(async () => { await Lab.down(LAB); });

  const joined = async (host: LabHost): Promise<number> => Number((await host.run('pgrep', ['-c', '-f', 'agent --join'], { okExit: [0, 1] })).stdout);

  /** A run; how many further streams were seen at the target at once. */
  async function runs(): Promise<number> {
    const run = await admin.start('big');
    let over = false;
    const result = ended(run).finally(() => { over = true; });
    let most = 0;
    while (!over) {
      most = Math.max(most, await joined(target));
      await sleep(50);
    }
    const { status, all } = await result;
    assert.equal(status, 0, all);
    await assertEqual(lab, { host: node, disk: { path: DISK.path, format: 'raw' } }, target, 'Big01_root_1');
    return most;
  }

  it('stores what the disk is, and leaves none of them behind', async () => {
    assert.ok(await runs() >= 2);
    assert.equal(await joined(target), 0);
    assert.equal(await joined(node), 0);
  });

  it('goes on over one where the target lets a node do nothing but deliver', async () => {
    await node.run('dd', ['if=/dev/urandom', `of=${DISK.path}`, 'bs=1M', 'count=256', 'conv=notrunc,fsync', 'status=none']);
    const key = '/root/.ssh/deliver';
    await node.run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
    await node.writeFile('/root/.ssh/config', `Host dr01\n  IdentityFile ${key}\n`, 0o600);
    await target.run('sh', ['-c', 'echo "restrict,command=\\"dr agent --receive\\" $1" >> /root/.ssh/authorized_keys', 'sh', (await node.run('cat', [`${key}.pub`])).stdout.trim()]);
    assert.match((await node.run('ssh', ['dr01', 'true'], { okExit: [0, 1] })).stdout, /^dr-xfer/);
    assert.equal(await runs(), 0);
  });
});
