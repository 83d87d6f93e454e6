import assert from 'node:assert/strict';
import type { Capture } from '../../src/agent/protocol.js';
import type { Guest } from '../lab/guest.js';
import type { Host } from '../lab/host.js';
import type { Lab } from '../lab/lab.js';
import { heartbeatIn } from '../lab/guest.js';
import { Hands } from './hands.js';
import { coldParams, digest, diskDigest, eventually, leftovers, liveParams, nodeOrSkip, see, URI } from './node.js';

function source(capture: Capture, target: string): string {
  const found = capture.sources[target];
  assert.ok(found, `no source for ${target}`);
  return found.path;
}

describe('live capture, with real guests', function () {
  this.timeout(60_000);
  let lab: Lab;
  let host: Host;
  let hands: Hands;
  let guest: Guest;

  before(async function () {
    ({ lab, host } = await nodeOrSkip(this, 'capture-live'));
    guest = await lab.addGuest('node01', { name: 'Web01', kind: 'sector-pair', disks: [{}, { format: 'qcow2', backing: true }] });
    await guest.beats(1);
  });
  after(async () => { await (lab as Lab | undefined)?.down(); }); // not up if it was skipped
  beforeEach(async () => { hands = await Hands.start(host); });
  afterEach(async function () {
    if ((this as { test?: unknown }).test === undefined) return;
    await hands.end();
    assert.equal(await leftovers(host, 'Web01'), '', 'something was left behind');
  });

  const scratchOn = async (mib: number, path: string): Promise<void> => {
    await host.run('sh', ['-c', 'mkdir -p "$1" && mount -t tmpfs -o size="$2"m scratch "$1"', 'sh', path, String(mib)]);
  };
  const fill = (path: string): Promise<unknown> => host.run('sh', ['-c', 'head -c 1G /dev/zero > "$1/filler" 2>/dev/null; true', 'sh', path]);

  it('takes a raw disk and a qcow2 disk with a backing file at one instant, and shows it unchanged while the guest writes on', async () => {
    const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Web01')));
    assert.equal(capture.consistency, 'crash');
    const first = await heartbeatIn(host, source(capture, 'vda'), 'raw', 1);
    const second = await heartbeatIn(host, source(capture, 'vdb'));
    assert.ok(first === second || first === second + 1, `vda has beat ${String(first)}, vdb ${String(second)}`);
    const before = await digest(host, source(capture, 'vdb'));
    await guest.beats(5);
    assert.equal(await digest(host, source(capture, 'vdb')), before);
    assert.equal(await heartbeatIn(host, source(capture, 'vda'), 'raw', 1), first);
    assert.ok(await guest.heartbeatOn() > second);
    assert.deepEqual(await hands.call('capture.close', { id: capture.id }), { verdict: 'valid' });
    assert.deepEqual(await hands.call('test.owed'), []);
    assert.deepEqual(await hands.call('capture.close', { id: capture.id }), { verdict: 'valid' }, 'asked twice');
    await guest.beats(1);
  });

  it('shows of a paused guest what is on its disks, and leaves it paused', async () => {
    await host.run('virsh', ['suspend', 'Web01']);
    try {
      const server = await see(hands, 'Web01');
      assert.equal(server.state, 'paused');
      const capture = await hands.call('capture.openLive', liveParams(server));
      for (const disk of server.disks) assert.equal(await digest(host, source(capture, disk.target)), await diskDigest(host, disk.path ?? '', disk.format));
      for (const disk of server.disks) {
        const map = capture.sources[disk.target]?.zeroMap;
        assert.ok(map);
        const zeros = await hands.call('test.zeros', map);
        assert.ok(zeros.length > 0 && zeros.every(({ start, length }) => start + length <= disk.bytes));
      }
      assert.deepEqual(await hands.call('capture.close', { id: capture.id }), { verdict: 'valid' });
      assert.equal(await guest.state(), 'paused');
    } finally {
      await host.run('virsh', ['resume', 'Web01']);
    }
  });

  it('captures a transient domain', async () => {
    const other = await lab.addGuest('node01', { name: 'Temp01', persistent: false });
    await other.beats(1);
    const server = await see(hands, 'Temp01');
    assert.equal(server.persistent, false);
    const capture = await hands.call('capture.openLive', liveParams(server));
    assert.ok(await heartbeatIn(host, source(capture, 'vdb')) > 0);
    assert.deepEqual(await hands.call('capture.close', { id: capture.id }), { verdict: 'valid' });
    await other.destroy();
  });

  it('holds captures of two servers at once', async () => {
    const other = await lab.addGuest('node01', { name: 'Web02' });
    await other.beats(1);
    const [one, two] = await Promise.all([see(hands, 'Web01'), see(hands, 'Web02')]);
    const [first, second] = await Promise.all([hands.call('capture.openLive', liveParams(one)), hands.call('capture.openLive', liveParams(two))]);
    assert.ok(await heartbeatIn(host, source(first, 'vdb')) > 0 && await heartbeatIn(host, source(second, 'vdb')) > 0);
    assert.deepEqual(await hands.call('capture.close', { id: first.id }), { verdict: 'valid' });
    assert.ok(await heartbeatIn(host, source(second, 'vdb')) > 0, 'the other one can still be read');
    assert.deepEqual(await hands.call('capture.close', { id: second.id }), { verdict: 'valid' });
    await other.destroy();
  });

  it('leaves a backup job of somebody else alone', async () => {
    await host.writeFile('/root/foreign.xml', "<domainbackup mode='pull'><server transport='unix' socket='/var/lib/libvirt/foreign'/></domainbackup>");
    await host.run('virsh', ['backup-begin', 'Web01', '--backupxml', '/root/foreign.xml']);
    await assert.rejects(hands.call('capture.openLive', liveParams(await see(hands, 'Web01'))), { code: 'refused', message: /busy with a job of its own \(a backup job\)/ });
    assert.match((await host.run('virsh', ['backup-dumpxml', 'Web01'])).stdout, /foreign/);
    await host.run('virsh', ['domjobabort', 'Web01']);
    await eventually('the end of the foreign job', 5, () => hands.call('test.job', { uri: URI, name: 'Web01' }), (job) => job === null);
  });

  it('gives up early when the scratch place fills up: the guest runs on and the capture is void', async () => {
    await scratchOn(64, '/mnt/full');
    try {
      const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Web01'), { scratch: '/mnt/full/dr-engine', scratchReserveBytes: 32 << 20 }));
      await fill('/mnt/full');
      await eventually('giving up', 8, () => hands.call('test.owed'), (owed) => owed.length === 0);
      const verdict = await hands.call('capture.close', { id: capture.id });
      assert.ok(verdict.verdict === 'void' && verdict.reason.includes('left in the scratch place'), JSON.stringify(verdict));
      assert.equal(await guest.state(), 'running');
      await guest.beats(2);
    } finally {
      await host.run('umount', ['--lazy', '/mnt/full']);
    }
  });

  it('resumes a guest that a full scratch place has paused', async () => {
    // Zeros that are overwritten take no room in the scratch place, so this guest's disk is full of something else.
    const other = await lab.addGuest('node01', { name: 'Full01', start: false });
    await host.run('sh', ['-c', `tr '\\000' '\\377' < /dev/zero | dd of="$1" bs=32K seek=1 count=1200 conv=notrunc iflag=fullblock status=none`, 'sh', other.disks[1]?.path ?? '']);
    await other.start();
    await other.beats(1);
    await scratchOn(64, '/mnt/full');
    try {
      const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Full01'), { scratch: '/mnt/full/dr-engine', scratchReserveBytes: 0 }));
      await fill('/mnt/full');
      await eventually('giving up', 20, () => hands.call('test.owed'), (owed) => owed.length === 0);
      const verdict = await hands.call('capture.close', { id: capture.id });
      assert.ok(verdict.verdict === 'void' && verdict.reason.includes('paused by an I/O error'), JSON.stringify(verdict));
      assert.equal(await other.state(), 'running');
      await other.beats(2);
    } finally {
      await host.run('umount', ['--lazy', '/mnt/full']);
      await other.destroy();
    }
  });

  it('refuses a scratch place on a cache drive, and one without its reserve', async () => {
    const server = await see(hands, 'Web01');
    await scratchOn(8, '/mnt/cache');
    try {
      await assert.rejects(hands.call('capture.openLive', liveParams(server, { scratch: '/mnt/cache/dr-engine', scratchReserveBytes: 64 << 20 })), { code: 'space', message: /its reserve is/ });
      await assert.rejects(hands.call('capture.openLive', liveParams(server, { scratch: `/mnt/cache/${'x'.repeat(90)}` })), { code: 'refused', message: /too long/ });
      await host.run('touch', ['/mnt/cache/.mark']);
      await assert.rejects(hands.call('capture.openLive', liveParams(server, { scratch: '/mnt/cache/dr-engine', signature: '.mark' })), { code: 'refused', message: /cache drive/ });
    } finally {
      await host.run('umount', ['--lazy', '/mnt/cache']);
    }
  });

  it('ends a capture that was held too long', async () => {
    const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Web01'), { maxSeconds: 2 }));
    await eventually('giving up', 10, () => leftovers(host, 'Web01'), (left) => left === '');
    const verdict = await hands.call('capture.close', { id: capture.id });
    assert.equal(verdict.verdict, 'void');
    await guest.beats(1);
  });

  it('is void when the server is destroyed while it is read', async () => {
    const other = await lab.addGuest('node01', { name: 'Doomed' });
    const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Doomed')));
    await other.destroy();
    const verdict = await hands.call('capture.close', { id: capture.id });
    assert.equal(verdict.verdict, 'void');
  });

  it('is void when a storage daemon has died', async () => {
    const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Web01')));
    const daemon = (await hands.call('test.owed')).find(({ debt }) => debt.kind === 'kill')?.debt;
    assert.ok(daemon?.kind === 'kill');
    await host.kill(daemon.pid);
    await eventually('the verdict', 5, () => leftovers(host), (left) => left.match(/qemu-storage-daemon/g)?.length === 1);
    const verdict = await hands.call('capture.close', { id: capture.id });
    assert.ok(verdict.verdict === 'void' && verdict.reason.includes('storage daemon'), JSON.stringify(verdict));
  });

  it('lets go of a stopped storage daemon with a reader hanging on it', async () => {
    const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Web01')));
    for (const { debt } of await hands.call('test.owed')) if (debt.kind === 'kill') await host.kill(debt.pid, 'SIGSTOP');
    const reader = await host.spawn('dd', [`if=${source(capture, 'vdb')}`, 'of=/dev/null', 'bs=1M', 'iflag=direct']);
    const began = Date.now();
    await hands.call('capture.close', { id: capture.id });
    assert.ok(Date.now() - began < 5_000, 'a server must be free within 5 s');
    assert.notEqual(await reader.exit, 0);
  });

  it('is paid for by the guard when the agent is killed and the storage daemons are stopped', async () => {
    await hands.call('capture.openLive', liveParams(await see(hands, 'Web01')));
    for (const { debt } of await hands.call('test.owed')) if (debt.kind === 'kill') await host.kill(debt.pid, 'SIGSTOP');
    await hands.started.kill('SIGKILL');
    await eventually('payment', 30, () => leftovers(host, 'Web01'), (left) => left === '');
    assert.equal(await guest.state(), 'running');
    await guest.beats(1);
  });

  it('leaves nothing when it is cancelled while it opens', async () => {
    const server = await see(hands, 'Web01');
    for (const wait of [0, 60, 150, 300]) {
      const opening = hands.call('capture.openLive', liveParams(server));
      await new Promise((resolve) => { setTimeout(resolve, wait); });
      hands.cancel(hands.last);
      const end = await opening.then((capture) => hands.call('capture.close', { id: capture.id }), (error: unknown) => error);
      assert.ok(end instanceof Error ? 'code' in end && end.code === 'cancelled' : true, String(end));
      assert.equal(await leftovers(host, 'Web01'), '');
    }
  });

  it('refuses disks that are not what was planned', async () => {
    const params = liveParams(await see(hands, 'Web01'));
    const [vda, vdb] = params.disks;
    assert.ok(vda && vdb);
    await assert.rejects(hands.call('capture.openLive', { ...params, disks: [vda, { ...vdb, bytes: vdb.bytes * 2 }] }), { code: 'state-changed' });
    await assert.rejects(hands.call('capture.openLive', { ...params, disks: [vda, { ...vdb, path: '/elsewhere' }] }), { code: 'state-changed' });
    await assert.rejects(hands.call('capture.openLive', { ...params, disks: [] }), { code: 'state-changed' });
    await assert.rejects(hands.call('capture.openCold', coldParams(await see(hands, 'Web01'))), { code: 'state-changed', message: /is running/ });
  });

  it('freezes file systems around the instant if a guest agent answers, and thaws them at once', async () => {
    const linux = await lab.addGuest('node01', { name: 'Db01', kind: 'linux' });
    await linux.last();
    await eventually('the guest agent', 20, () => hands.call('test.frozen', { uri: URI, name: 'Db01' }), (frozen) => frozen === false);
    const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Db01')));
    assert.equal(capture.consistency, 'frozen');
    assert.ok(capture.frozenMs > 0 && capture.frozenMs < 8_000, String(capture.frozenMs));
    assert.equal(await hands.call('test.frozen', { uri: URI, name: 'Db01' }), false);
    // A frozen file system is clean: nothing to be replayed.
    await host.run('sh', ['-c', 'cp "$1" /tmp/copy && e2fsck -fn /tmp/copy; r=$?; rm /tmp/copy; exit $r', 'sh', source(capture, 'vdb')]);
    assert.deepEqual(await hands.call('capture.close', { id: capture.id }), { verdict: 'valid' });

    await host.run('virsh', ['domfsfreeze', 'Db01']);
    const second = await hands.call('capture.openLive', liveParams(await see(hands, 'Db01')));
    assert.equal(second.consistency, 'crash');
    assert.equal(await hands.call('test.frozen', { uri: URI, name: 'Db01' }), true, 'what somebody else froze stays frozen');
    await hands.call('capture.close', { id: second.id });
    await linux.destroy();
  });
});
