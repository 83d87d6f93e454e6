import assert from 'node:assert/strict';
import { Lab } from '../lab/lab.js';
import { until } from '../lab/namespaces.js';
import { reached, stopAt, watchSteps } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';

describe('a virtual machine in the lab', function () {
  this.timeout(180_000);
  const name = 'selftest-vm';
  let lab: Lab;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name, hosts: ['node01', 'dr01'], virtual: ['dr01'], store: { sizeMiB: 256 } });
  });

  after(async () => {
    await Lab.down(name);
  });

  it('has a kernel and block devices of its own, and is reached over ssh like any host', async () => {
    const boot = 'cat /proc/sys/kernel/random/boot_id; hostname; findmnt --noheadings --output SOURCE /srv/dr; command -v dr';
    const there = await lab.host('node01').run('ssh', ['-o', 'BatchMode=yes', 'dr01', boot], { timeoutMs: 60_000 });
    const here = await lab.vm('dr01').run('sh', ['-c', boot]);
    assert.equal(there.stdout, here.stdout);
    assert.match(there.stdout, /^[0-9a-f-]{36}\ndr01\n\/dev\/vdb\n\/usr\/local\/bin\/dr\n$/);
  });

  it('runs, sees and kills programs', async () => {
    const host = lab.vm('dr01');
    assert.equal((await host.run('sh', ['-c', 'cat; echo "$1 $GREETING"', 'sh', "it's"], { input: 'in ', env: { GREETING: 'hello' } })).stdout, "in it's hello\n");
    assert.equal((await host.run('false', [], { okExit: [1] })).exitCode, 1);
    const program = await host.spawn('sh', ['-c', 'echo ready; exec sleep 4714']);
    await until('output', () => program.stdout() === 'ready\n' ? true : undefined);
    assert.deepEqual((await host.processes()).find(({ inner }) => inner === program.pid)?.argv, ['sleep', '4714']);
    await program.kill('SIGTERM');
    assert.equal(await program.exit, 255); // what ssh says of a program that a signal has ended
    assert.equal((await host.processes()).some(({ inner }) => inner === program.pid), false);
  });

  it('stands still at a step like any host', async () => {
    const host = lab.vm('dr01');
    await watchSteps(host);
    await stopAt(host, 'manifest-before');
    await host.run('sh', ['-c', 'cd "$1" && [ "$(cat stop-at)" = "manifest-before 1" ] && echo "manifest-before 17" > reached', 'sh', host.steps]);
    assert.deepEqual(await reached(host), { step: 'manifest-before', pid: 17 });
  });

  it('loses at a power cut what was not synced, and keeps what was', async () => {
    const host = lab.vm('dr01');
    await host.run('sh', ['-ec', 'echo 1 > /srv/dr/synced; echo 1 > /var/lib/dr-engine/synced; sync; echo 1 > /srv/dr/not-synced']);
    const before = await host.readFile('/proc/sys/kernel/random/boot_id');
    await host.powerCut();
    assert.equal(await host.isUp(), false);
    await host.boot();
    assert.notEqual(await host.readFile('/proc/sys/kernel/random/boot_id'), before);
    assert.equal(await host.readFile('/srv/dr/synced'), '1\n');
    assert.equal(await host.readFile('/var/lib/dr-engine/synced'), '1\n');
    assert.equal(await host.exists('/srv/dr/not-synced'), false);
  });
});
