import assert from 'node:assert/strict';
import { access, readdir } from 'node:fs/promises';
import { labDirectory } from '../lab/layout.js';
import { Lab } from '../lab/lab.js';
import { loopDevices } from '../lab/drives.js';
import { initsBelow, until } from '../lab/namespaces.js';
import { roleOf } from '../lab/roles.js';
import { skipBecause } from '../support/skip.js';

describe('the lab', function () {
  this.timeout(60_000);
  const name = 'selftest';
  let lab: Lab;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name, hosts: ['node01', 'dr01', 'head01'], store: { sizeMiB: 256 } });
  });

  after(async () => {
    await Lab.down(name);
  });

  it('gives every host a name, a boot ID and a libvirt of its own', async () => {
    const facts = await Promise.all(['node01', 'dr01'].map(async (each) => {
      const host = lab.host(each);
      return (await host.run('sh', ['-c', 'hostname; cat /proc/sys/kernel/random/boot_id; virsh uri; virsh capabilities | grep -m1 uuid'])).stdout.split('\n').filter((line) => line !== '');
    }));
    assert.equal(facts[0]?.[0], 'node01');
    assert.equal(facts[1]?.[0], 'dr01');
    assert.equal(facts[0]?.[2], 'qemu:///system');
    assert.notEqual(facts[0]?.[1], facts[1]?.[1]);
    assert.notEqual(facts[0]?.[3], facts[1]?.[3]);
  });

  it('lets every host reach every other one over ssh without a question', async () => {
    for (const from of ['node01', 'dr01', 'head01']) {
      for (const to of ['node01', 'dr01', 'head01', '10.77.0.12']) {
        const { stdout } = await lab.host(from).run('ssh', ['-o', 'BatchMode=yes', to, 'hostname; command -v dr dr-activate node'], { timeoutMs: 10_000 });
        assert.match(stdout, /^(node01|dr01|head01)\n\/usr\/local\/bin\/dr\n\/usr\/local\/bin\/dr-activate\n\S+\n$/);
      }
    }
  });

  it('keeps what is mounted in a host from the machine and from other hosts', async () => {
    const before = await readdir('/');
    await lab.host('node01').run('sh', ['-c', 'mkdir /shared/x && mount -t tmpfs mine /shared/x && touch /shared/x/y /mine']);
    assert.deepEqual(await readdir('/'), before);
    assert.equal(await lab.host('dr01').exists('/shared/x'), false);
    await lab.host('node01').run('umount', ['/shared/x']);
  });

  it('runs programs with input, environment and exit status, and ends them when their time is over', async () => {
    const host = lab.host('node01');
    assert.equal((await host.run('sh', ['-c', 'cat; echo "$GREETING$DR_CONFIG"'], { input: 'in ', env: { GREETING: 'hello' } })).stdout, 'in hello\n');
    assert.equal((await host.run('false', [], { okExit: [1] })).exitCode, 1);
    await assert.rejects(host.run('false', []), /failed/);
    await assert.rejects(host.run('sleep', ['4711'], { timeoutMs: 300 }), /did not answer/);
    await until('sleep to end', async () => (await host.processes()).some(({ argv }) => argv[1] === '4711') ? undefined : true, 5000);
  });

  it('starts programs and kills them by their number inside the host', async () => {
    const host = lab.host('node01');
    const program = await host.spawn('sh', ['-c', 'echo $$; exec sleep 4712']);
    await until('output', () => program.stdout() === '' ? undefined : true);
    assert.equal(program.stdout(), `${String(program.pid)}\n`);
    await program.kill('SIGTERM');
    assert.equal(await program.exit, 143);
  });

  it('cuts, slows and restores a link without an end of file', async () => {
    const host = lab.host('node01');
    const stream = await host.spawn('ssh', ['dr01', 'echo up; sleep 60']);
    await until('ssh', () => stream.stdout() === '' ? undefined : true);
    await lab.cut('dr01');
    assert.equal((await host.run('ssh', ['-o', 'ConnectTimeout=1', 'dr01', 'true'], { okExit: [0, 255] })).exitCode, 255);
    assert.equal(stream.child.exitCode, null);
    await lab.restore('dr01');
    await host.run('ssh', ['dr01', 'true'], { timeoutMs: 20_000 });
    await stream.kill();

    await lab.slow('dr01', '8mbit');
    const begun = Date.now();
    await host.run('sh', ['-c', 'head -c 2000000 /dev/zero | ssh dr01 "cat > /dev/null"']);
    assert.ok(Date.now() - begun > 1200, '2 MB crossed an 8 Mbit/s link in less than 1.2 s');
    await lab.restore('dr01');
  });

  it('gives a host drives with a signature, and breaks them', async () => {
    const host = lab.host('node01');
    const device = await lab.addDrive('node01', { sizeMiB: 64 });
    const plain = await lab.addDrive('node01', { sizeMiB: 64, fs: 'vfat', signature: null });
    assert.equal(await host.readFile('/etc/dr/devices'), `${device}\n${plain}\n`);
    assert.equal(await lab.host('dr01').readFile('/etc/dr/devices'), '');
    await host.run('sh', ['-ec', 'mkdir -p /mnt/a; mount "$1" /mnt/a; test -f /mnt/a/.dr_cache; echo 1 > /mnt/a/file', 'sh', device]);
    await lab.breakDrive('node01', device, 'readonly');
    await assert.rejects(host.run('touch', ['/mnt/a/more']), /Read-only/);
    await host.run('umount', ['/mnt/a']);
    await lab.breakDrive('node01', plain, 'detach');
    await assert.rejects(host.run('dd', [`if=${plain}`, 'of=/dev/null', 'bs=4096', 'count=1', 'skip=100', 'iflag=direct']).then(({ stderr }) => {
      if (/^0 bytes/m.test(stderr)) throw new Error('nothing was read');
    }));
  });

  it('keeps disks and state over a power cut, and nothing else', async () => {
    const host = lab.host('dr01');
    await host.run('sh', ['-ec', 'echo 1 > /srv/dr/kept; echo 1 > /var/lib/dr-engine/kept; echo 1 > /run/gone; echo 1 > /tmp/gone; sync']);
    const before = await host.readFile('/proc/sys/kernel/random/boot_id');
    const program = await host.spawn('sleep', ['4713']);
    await host.powerCut();
    await program.exit;
    await assert.rejects(host.run('true', []), /powered off/);
    await host.boot();
    assert.notEqual(await host.readFile('/proc/sys/kernel/random/boot_id'), before);
    for (const kept of ['/srv/dr/kept', '/var/lib/dr-engine/kept']) assert.equal(await host.readFile(kept), '1\n');
    for (const gone of ['/run/gone', '/tmp/gone']) assert.equal(await host.exists(gone), false);
    await lab.host('node01').run('ssh', ['dr01', 'virsh list'], { timeoutMs: 20_000 });
  });

  it('boots a sector guest that remembers its heartbeat and ignores shutdown requests', async () => {
    const guest = await lab.addGuest('node01', { name: 'sector', kind: 'sector-pair', disks: [{}, { format: 'qcow2', backing: true }] });
    assert.equal(await guest.last(), 0);
    await guest.beats(3);
    await guest.host.run('virsh', ['shutdown', 'sector']);
    await guest.beats(2);
    assert.equal(await guest.state(), 'running');
    await guest.destroy();
    const second = await guest.heartbeatOn();
    const first = await guest.heartbeatOn(guest.disks[0], 1);
    assert.ok(second >= 5 && (first === second || first === second + 1), `${String(first)} and ${String(second)}`);
    await guest.start();
    await until('a new boot', async () => (await guest.last()) === second ? true : undefined);
  });

  it('boots a Linux guest that freezes, thaws, and shuts down when asked', async () => {
    const guest = await lab.addGuest('node01', { name: 'linux', kind: 'linux', persistent: false });
    await guest.beats(2);
    const agent = await until('the guest agent', async () => (await guest.host.run('virsh', ['domfsfreeze', 'linux'], { okExit: [0, 1] })).exitCode === 0 ? true : undefined);
    assert.equal(agent, true);
    const frozen = await guest.heartbeat();
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
    assert.ok(await guest.heartbeat() <= frozen + 1, 'it beats though frozen');
    await guest.host.run('virsh', ['domfsthaw', 'linux']);
    await guest.beats(2);
    await guest.host.run('virsh', ['shutdown', 'linux', '--mode=acpi']);
    await until('the transient guest to vanish', async () => (await guest.state()) === 'absent' ? true : undefined, 20_000);
    assert.match(await guest.console(), /GOING DOWN/);
    assert.ok(await guest.heartbeatOn() > frozen);
  });

  it('refuses a second lab of the same name, and lives beside one of another', async () => {
    await assert.rejects(Lab.up({ name }), /is up already/);
    const other = await Lab.up({ name: `${name}-2`, hosts: ['node01'] });
    try {
      assert.notEqual(await other.host('node01').init(), await lab.host('node01').init());
    } finally {
      await other.down();
    }
    await lab.host('node01').run('true', []);
  });

  it('knows the roles of processes', () => {
    assert.equal(roleOf(['/usr/bin/node', '/x/bin/dr', 'run', 'web']), 'head');
    assert.equal(roleOf(['/usr/bin/node', '/x/build/src/main.js', 'agent']), 'agent');
    assert.equal(roleOf(['/usr/bin/node', '/x/bin/dr', 'agent', '--receive', 't']), 'data');
    assert.equal(roleOf(['/usr/bin/node', '/x/build/src/main.js', 'agent', '--guard']), 'guard');
    assert.equal(roleOf(['/usr/bin/qemu-storage-daemon', '--blockdev']), 'storage-daemon');
    assert.equal(roleOf(['sshd: root@notty']), 'other');
  });

  it('leaves nothing when it goes down, and goes down twice', async () => {
    const directory = labDirectory(name);
    await lab.down();
    await lab.down();
    await assert.rejects(access(directory));
    const left = await initsBelow(directory);
    assert.deepEqual([...left.inits, ...left.waiters], []);
    assert.deepEqual((await loopDevices()).filter(({ image }) => image.startsWith(directory)), []);
  });
});
