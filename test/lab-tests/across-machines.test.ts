import assert from 'node:assert/strict';
import type { RunReport } from '../../src/model/report.js';
import { Lab } from '../lab/lab.js';
import type { Guest } from '../lab/guest.js';
import type { LabHost } from '../lab/host.js';
import { skipBecause } from '../support/skip.js';

/** The target is a virtual machine: no kernel, page cache, lock or block device is shared with the node. */
const CONFIG = `version: 1
anvils:
  an-a01: {nodes: [node01]}
targets:
  dr01: {host: dr01, store: "fs:/srv/dr"}
jobs:
  web:
    anvil: an-a01
    targets: [dr01]
    servers: [Web01]
    copies: 2
    capture: live
`;

describe('a job between a node and a target with a kernel of its own', function () {
  this.timeout(300_000);
  const name = 'across';
  let lab: Lab;
  let guest: Guest;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name, hosts: ['node01', 'dr01', 'head01'], virtual: ['dr01'], store: { sizeMiB: 512 } });
    await lab.host('head01').writeFile('/etc/dr/dr.yaml', CONFIG, 0o600);
    guest = await lab.addGuest('node01', { name: 'Web01', kind: 'sector', disks: [{}, { sizeMiB: 40 }] });
    await guest.beats(2);
  });

  after(async () => {
    await Lab.down(name);
  });

  it('images a stopped guest bit by bit, and the images survive a power cut of the target', async () => {
    await guest.destroy();
    const { stdout, stderr, exitCode } = await lab.host('head01').run('dr', ['run', 'web', '--json'], { timeoutMs: 240_000, okExit: [0, 1, 2, 3, 4, 5] });
    assert.equal(exitCode, 0, stdout + stderr);
    const [server] = (JSON.parse(stdout) as RunReport).servers;
    assert.deepEqual([server?.node, server?.capture, server?.images.map(({ name: image }) => image)], ['node01', 'cold', ['Web01_Web01_0_1', 'Web01_Web01_1_1']]);
    await lab.vm('dr01').powerCut();
    await lab.vm('dr01').boot();
    for (const disk of guest.disks) {
      const image = `/srv/dr/Web01_Web01_${disk.target === 'vda' ? '0' : '1'}_1.raw`;
      const digest = async (host: LabHost, path: string): Promise<string> => (await host.run('sha256sum', [path])).stdout.slice(0, 64);
      assert.equal(await digest(lab.vm('dr01'), image), await digest(lab.host('node01'), disk.path), image);
    }
  });

  it('boots the copy on the target, with the heartbeat that the node wrote', async () => {
    const last = await guest.heartbeatOn();
    assert.ok(last >= 2);
    await lab.vm('dr01').run('dr-activate', ['--yes', '--originals-are-off'], { timeoutMs: 120_000 });
    assert.equal(await guest.on(lab.vm('dr01')).last(60_000), last);
  });
});
