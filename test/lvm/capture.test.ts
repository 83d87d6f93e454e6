import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Capture, Params } from '../../src/agent/protocol.js';
import type { Verdict } from '../../src/capture/open-captures.js';
import type { Obligation } from '../../src/model/obligation.js';
import type { ServerSeen } from '../../src/model/server.js';
import { startTime, bootId } from '../../src/system/processes.js';
import { run } from '../../src/system/run.js';
import { DigestKeeper } from '../../src/transfer/kept-digests.js';
import { Hands } from '../capture/hands.js';
import { coldParams, digest, eventually, liveParams, see, URI } from '../capture/node.js';
import { heartbeatIn, makeGuest, type Guest } from '../lab/guest.js';
import { inSoak } from '../support/skip.js';
import { allow, freshGroups, onlyInVm } from './ground.js';
import { thisHost } from './this-host.js';

const MIB = 2 ** 20;
const OWED = '/var/lib/dr-engine/owed';
const STEPS = '/run/capture-steps';

/** `VG/LV` of all volumes with their names, except what the tests stand on. */
const GROUND = ['cap_a/idle-root', 'cap_a/pair-root', 'cap_a/pool', 'cap_a/thin-data', 'cap-b/idle-data'];

async function volumes(): Promise<string[]> {
  const { stdout } = await run('lvs', ['--noheadings', '--options', 'vg_name,lv_name', '--separator', '/']);
  return stdout.split('\n').map((line) => line.trim()).filter((line) => line !== '' && !GROUND.includes(line)).sort();
}

function snapshotParams(server: ServerSeen, changes: Partial<Params<'capture.openSnapshots'>> = {}): Params<'capture.openSnapshots'> {
  return { ...coldParams(server), snapshotSize: { percent: 20 }, maxSeconds: 600, ...changes };
}

function source(capture: Capture, target: string): string {
  return capture.sources[target]?.path ?? assert.fail(`no source for ${target}`);
}

/** Writes so many MiB that cost a snapshot room. */
async function overwrite(path: string, mebibytes: number, seek = 4): Promise<void> {
  await run('sh', ['-c', 'dd if=/dev/urandom of="$1" bs=1M count="$2" seek="$3" oflag=direct conv=notrunc status=none; true', 'sh', path, String(mebibytes), String(seek)]);
}

describe('captures of logical volumes', function () {
  this.timeout(240_000);
  let hands: Hands;
  /** Writes all the time: one disk is plain, the other thin. Off, except in the tests that need it, for it takes half of the machine. */
  let pair: Guest;
  /** Does nothing at all: both disks are plain, in two volume groups. */
  let idle: Guest;

  before(async function () {
    onlyInVm(this);
    await freshGroups({ 'cap_a': [0], 'cap-b': [1] });
    const make = (group: string, name: string, ...how: readonly string[]): Promise<unknown> => run('lvcreate', ['--quiet', '--yes', '--name', name, ...how, group], { timeoutMs: 120_000 });
    await make('cap_a', 'pair-root', '--size', '32M');
    await make('cap_a', 'idle-root', '--size', '32M');
    await make('cap-b', 'idle-data', '--size', '256M');
    await make('cap_a', 'pool', '--type', 'thin-pool', '--size', '256M');
    await make('cap_a/pool', 'thin-data', '--thin', '--virtualsize', '256M');
    pair = await makeGuest(thisHost, { name: 'Pair01', kind: 'sector-pair', start: false, disks: [{ path: '/dev/cap_a/pair-root' }, { path: '/dev/cap_a/thin-data' }] });
    idle = await makeGuest(thisHost, { name: 'Idle01', start: false, disks: [{ path: '/dev/cap_a/idle-root' }, { path: '/dev/mapper/cap--b-idle--data' }] });
    // Instead of what makes it work: cli, hlt, for ever. Without a boot sector the firmware would be busy looking for one.
    await run('sh', ['-c', 'printf "\\372\\364\\353\\374" | dd of=/dev/cap_a/idle-root conv=notrunc status=none']);
    await idle.start();
    hands = await Hands.start(thisHost);
  });
  after(async () => {
    for (const guest of [pair, idle] as readonly (Guest | undefined)[]) await guest?.destroy(); // not there if it was skipped
    await (hands as Hands | undefined)?.end();
  });
  afterEach(async function () {
    if ((this as { test?: unknown }).test === undefined || (hands as Hands | undefined) === undefined) return;
    assert.deepEqual(await volumes(), [], 'a volume was left behind');
    assert.deepEqual(await owed(), []);
    assert.equal(await idle.state(), 'running');
  });

  /** Whatever is written down as owed on this host. */
  async function owed(): Promise<readonly string[]> {
    return existsSync(OWED) ? (await readdir(OWED, { recursive: true })).filter((name) => /\d-[a-z]+-[0-9a-f]+\.json$/.test(name)) : [];
  }

  const close = (capture: Capture): Promise<Verdict> => hands.call('capture.close', { id: capture.id });

  describe('as they are', () => {
    inSoak('names a disk for its volume, whatever its path, and says what is wrong with one that is not there', async () => {
      const { stdout } = await run('lvs', ['--noheadings', '--options', 'vg_uuid,lv_uuid,lv_kernel_minor', 'cap-b/idle-data']);
      const [group = '', volume = '', minor = ''] = stdout.trim().split(/\s+/);
      const paths = ['/dev/cap-b/idle-data', '/dev/mapper/cap--b-idle--data', '/dev/disk/by-id/dm-name-cap--b-idle--data', `/dev/disk/by-id/dm-uuid-LVM-${`${group}${volume}`.replaceAll('-', '')}`, `/dev/dm-${minor}`, '/dev/cap_a/gone', '/dev/cap_a/asleep'];
      await run('lvcreate', ['--quiet', '--yes', '--activate', 'n', '--zero', 'n', '--name', 'asleep', '--size', '4M', 'cap_a']);
      const disks = paths.map((path, index) => `<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='${path}'/><target dev='vd${'cdefghi'.charAt(index)}' bus='virtio'/></disk>`).join('');
      await thisHost.writeFile('/root/names.xml', `<domain type='qemu'><name>Names</name><uuid>${randomUUID()}</uuid><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os><devices>${disks}</devices></domain>`);
      await run('virsh', ['define', '/root/names.xml']);
      try {
        const server = await see(hands, 'Names');
        assert.deepEqual(server.disks.map(({ name, bytes, problem }) => [name, bytes, problem === undefined]), [
          ...Array.from({ length: 5 }, () => ['idle-data', 256 * MIB, true]), ['gone', 0, false], ['asleep', 0, false],
        ]);
        assert.match(server.disks[6]?.problem ?? '', /there is no \/dev\/cap_a\/asleep; if it is a logical volume, it is missing or not active/);
      } finally {
        await run('virsh', ['undefine', 'Names']);
        await run('lvremove', ['--quiet', '--yes', 'cap_a/asleep']);
      }
    });

    it('are read cold, plain and thin', async () => {
      const server = await see(hands, 'Pair01');
      const capture = await hands.call('capture.openCold', coldParams(server));
      assert.equal(capture.consistency, 'clean');
      assert.deepEqual(server.disks.map(({ target }) => source(capture, target)), server.disks.map(({ path }) => path));
      assert.deepEqual(await close(capture), { verdict: 'valid' });
    });

    it('are no good cold if they were written to or deactivated meanwhile, or are mounted', async () => {
      const server = await see(hands, 'Pair01');
      const whileOpen = async (act: () => Promise<unknown>): Promise<string> => {
        const capture = await hands.call('capture.openCold', coldParams(server));
        await act();
        return JSON.stringify(await close(capture));
      };
      assert.match(await whileOpen(() => overwrite('/dev/cap_a/thin-data', 1, 200)), /void.*was written to meanwhile/);
      assert.match(await whileOpen(() => run('blkdiscard', ['--offset', '209715200', '--length', '1048576', '/dev/cap_a/thin-data'])), /void.*was written to meanwhile/);
      assert.match(await whileOpen(() => run('lvchange', ['--activate', 'n', 'cap_a/pair-root']).then(() => run('lvchange', ['--activate', 'y', 'cap_a/pair-root']))), /void.*is another file or device than before/);
      await run('sh', ['-c', 'mkfs.ext4 -q -F "$1" && mkdir -p /mnt/thin && mount "$1" /mnt/thin', 'sh', '/dev/cap_a/thin-data']);
      try {
        await assert.rejects(hands.call('capture.openCold', coldParams(server)), { code: 'state-changed', message: /is mounted at \/mnt\/thin/ });
      } finally {
        await run('umount', ['/mnt/thin']);
      }
    });
  });

  describe('of a server that writes all the time', () => {
    before(async () => {
      await pair.start();
      await pair.beats(1, 120_000);
    });
    after(() => pair.destroy());

    async function assertOneInstant(capture: Capture): Promise<void> {
      const first = await heartbeatIn(thisHost, source(capture, 'vda'), 'raw', 1);
      const second = await heartbeatIn(thisHost, source(capture, 'vdb'));
      assert.ok(first === second || first === second + 1, `vda has beat ${String(first)}, vdb ${String(second)}`);
      const before = await digest(thisHost, source(capture, 'vda'));
      await pair.beats(3, 120_000);
      assert.equal(await heartbeatIn(thisHost, source(capture, 'vdb')), second);
      assert.equal(await digest(thisHost, source(capture, 'vda')), before);
      assert.ok(await pair.heartbeatOn() > second);
    }

    inSoak('show one instant by a backup job', async () => {
      const capture = await hands.call('capture.openLive', liveParams(await see(hands, 'Pair01')));
      await assertOneInstant(capture);
      assert.deepEqual(await close(capture), { verdict: 'valid' });
    });

    it('show one instant by snapshots, of a plain and a thin volume', async () => {
      const capture = await hands.call('capture.openSnapshots', snapshotParams(await see(hands, 'Pair01')));
      assert.equal(await pair.state(), 'running');
      assert.equal(capture.consistency, 'crash');
      assert.ok(capture.frozenMs > 0, 'it stood still');
      await assertOneInstant(capture);
      assert.deepEqual((await hands.call('test.owed')).map(({ debt }) => debt.kind).sort(), ['remove', 'snapshot', 'snapshot']);
      const { stdout } = await run('lvs', ['--noheadings', '--options', 'lv_tags,pool_lv', '--select', 'lv_name=~^dr_', '--sort', 'lv_name']);
      assert.match(stdout, /^\s*(?=.*dr-engine-snapshot)(?=.*dr\.of=Pair01)(?=.*dr\.owner=[0-9a-f]{16})\S+\s*\n\s*\S*dr\.of=Pair01\S*\s+pool\s*$/);
      assert.deepEqual(await close(capture), { verdict: 'valid' });
      assert.deepEqual(await close(capture), { verdict: 'valid' }, 'asked twice');
    });
  });

  describe('by snapshots that are kept', () => {
    before(() => run('virsh', ['start', '--paused', 'Pair01']));
    after(() => pair.destroy());

    inSoak('leave the one of a thin disk that was sent to the next capture, until one does not want it', async () => {
      const params = snapshotParams(await see(hands, 'Pair01'), { keepBase: true });
      const open = async (changes: Partial<typeof params> = {}): Promise<Capture> => hands.call('capture.openSnapshots', { ...params, ...changes });

      const unsent = await open();
      assert.deepEqual([unsent.sources['vda']?.keepDigests, unsent.sources['vdb']?.hint], [undefined, undefined]);
      assert.deepEqual(await close(unsent), { verdict: 'valid' });
      assert.deepEqual(await volumes(), [], 'what was not sent is of no use to anybody');

      const sent = await open();
      await using keeper = await DigestKeeper.open(sent.sources['vdb']?.keepDigests ?? assert.fail('no digests are wanted'));
      for (let block = 0; block < 256; block += 1) await keeper.add(randomBytes(32)); // as who sends it does
      await keeper.keep({ bytes: 256 * MIB, readSince: new Date().toISOString() });
      assert.deepEqual(await close(sent), { verdict: 'valid' });
      const base = await volumes();
      assert.equal(base.length, 1);
      assert.deepEqual(await owed(), [], 'the next boot would remove it');

      const next = await open();
      assert.deepEqual(JSON.parse(await readFile(next.sources['vdb']?.hint?.changed ?? assert.fail('there is no hint'), 'utf8')), []);
      assert.deepEqual(await close(next), { verdict: 'valid' });
      assert.deepEqual(await volumes(), base, 'it was not sent, so the base stays');

      assert.deepEqual(await close(await open({ keepBase: false })), { verdict: 'valid' });
    });
  });

  describe('by snapshots', () => {
    const open = async (changes: Partial<Params<'capture.openSnapshots'>> = {}): Promise<Capture> => hands.call('capture.openSnapshots', snapshotParams(await see(hands, 'Idle01'), changes));

    inSoak('read a qcow2 image inside a volume as what it is', async () => {
      await run('lvcreate', ['--quiet', '--yes', '--name', 'cow', '--size', '32M', 'cap_a']);
      const cow = await makeGuest(thisHost, { name: 'Cow01', disks: [{ path: '/dev/cap_a/cow', format: 'qcow2' }], start: false });
      const content = (await run('sh', ['-c', 'qemu-img convert -U -f qcow2 -O raw /dev/cap_a/cow /var/tmp/flat && sha256sum < /var/tmp/flat'])).stdout.slice(0, 64);
      try {
        await run('virsh', ['start', '--paused', 'Cow01']);
        const capture = await hands.call('capture.openSnapshots', snapshotParams(await see(hands, 'Cow01')));
        assert.equal(capture.sources['vda']?.bytes, 8 * MIB);
        assert.equal(await digest(thisHost, source(capture, 'vda')), content);
        assert.equal(await cow.state(), 'paused', 'what somebody else paused stays so');
        assert.deepEqual(await close(capture), { verdict: 'valid' });
      } finally {
        await cow.destroy();
        await run('virsh', ['undefine', 'Cow01']);
        await run('lvremove', ['--quiet', '--force', '--yes', 'cap_a/cow']);
      }
    });

    it('are never an image once a snapshot was overrun', async () => {
      const capture = await open({ snapshotSize: { bytes: 1 } });
      await overwrite('/dev/cap-b/idle-data', 80);
      const verdict = await close(capture);
      assert.ok(verdict.verdict === 'void' && verdict.error?.code === 'snapshot-full', JSON.stringify(verdict));
      assert.match(verdict.error.message, /Idle01 .*(ran full: the server wrote more than it holds|% full).*The server runs on/);
      assert.match(verdict.error.hint, /snapshot_size.*live: backup/);
    });

    inSoak('are given up before one is full; who of ours reads it is ended, and the server is free', async () => {
      const capture = await open({ snapshotSize: { bytes: 1 } });
      const reader = await thisHost.spawn('sh', ['-c', 'exec sleep 600 < "$1"', 'sh', source(capture, 'vdb')]);
      const record = await oweReader(reader.pid);
      await overwrite('/dev/cap-b/idle-data', 59);
      await eventually('giving up', 180, volumes, (left) => left.length === 0);
      await reader.exit;
      await rm(record, { force: true });
      const verdict = await close(capture);
      assert.ok(verdict.verdict === 'void' && verdict.error?.code === 'snapshot-full', JSON.stringify(verdict));
      assert.match(verdict.reason, /the snapshot cap-b\/dr_\w+_1 is \d+ % full/);
    });

    /** Writes down that this session owes the end of a process, as it does for those that send data. */
    async function oweReader(pid: number): Promise<string> {
      const [session = ''] = await sessions();
      const debt: Obligation = { id: '000099-kill-00000000', createdAt: new Date().toISOString(), debt: { kind: 'kill', pid, startTime: await startTime(pid) ?? '', bootId: await bootId(), what: 'a reader' } };
      const record = join(OWED, session, `${debt.id}.json`);
      await writeFile(record, JSON.stringify(debt));
      return record;
    }

    inSoak('end by themselves after the longest time', async () => {
      const capture = await open({ maxSeconds: 15 });
      await eventually('the end', 180, volumes, (left) => left.length === 0);
      const verdict = await close(capture);
      assert.ok(verdict.verdict === 'void' && verdict.error?.code === 'timeout' && verdict.reason.includes('max_job_time'), JSON.stringify(verdict));
    });

    inSoak('are void when somebody removed one', async () => {
      const capture = await open();
      const [snapshot = ''] = await volumes();
      await run('lvremove', ['--quiet', '--yes', snapshot]);
      const verdict = await close(capture);
      assert.ok(verdict.verdict === 'void' && verdict.reason.includes('is gone'), JSON.stringify(verdict));
    });

    inSoak('leave nothing when the capture is cancelled while it opens', async () => {
      const params = snapshotParams(await see(hands, 'Idle01'));
      for (const wait of [500, 4_000]) {
        const opening = hands.call('capture.openSnapshots', params);
        await new Promise((resolve) => { setTimeout(resolve, wait); });
        hands.cancel(hands.last);
        const end = await opening.then(close, (error: unknown) => error);
        assert.ok(end instanceof Error ? 'code' in end && end.code === 'cancelled' : true, String(end));
        assert.deepEqual(await volumes(), []);
      }
    });

    inSoak('are refused before anything is touched when there is no room, or a volume group is not allowed', async () => {
      const server = await see(hands, 'Idle01');
      const planned = async (): Promise<string> =>
        JSON.stringify((await hands.call('node.servers', { uri: URI, names: ['Idle01'], snapshotSize: { percent: 20 } })).servers[0]?.snapshotProblem ?? 'none');
      assert.equal(await planned(), '"none"');
      await run('lvcreate', ['--quiet', '--yes', '--zero', 'n', '--name', 'full', '--extents', '100%FREE', 'cap-b']);
      try {
        await assert.rejects(hands.call('capture.openSnapshots', snapshotParams(server)), { code: 'space', message: /need 64 MiB in the volume group cap-b, which has 0 MiB free\. Nothing was touched/ });
        assert.match(await planned(), /space.*cap-b.*has 0 MiB free/);
      } finally {
        await run('lvremove', ['--quiet', '--yes', 'cap-b/full']);
      }
      await allow('cap_a');
      try {
        await assert.rejects(hands.call('capture.openSnapshots', snapshotParams(server)), { code: 'disk-unsupported', message: /vdb \(\/dev\/mapper\/cap--b-idle--data\) is no logical volume .* \(allowed: cap_a\)/, hint: /\/etc\/dr\/vgs/ });
        assert.match(await planned(), /disk-unsupported.*etc\/dr\/vgs/);
      } finally {
        await allow('cap_a', 'cap-b');
      }
      assert.deepEqual(await hands.call('test.owed'), []);
    });
  });

  async function sessions(): Promise<readonly string[]> {
    return (await readdir(OWED)).filter((name) => /^[0-9a-f]{16}$/.test(name));
  }

  describe('by snapshots, when the agent is killed', () => {
    before(() => hands.end());
    after(async () => { hands = await Hands.start(thisHost); });

    /** Hands that stand still at a step, and are killed there. */
    async function killedAt(step: string): Promise<void> {
      await rm(STEPS, { recursive: true, force: true });
      await mkdir(STEPS);
      const doomed = await Hands.start(thisHost, { DR_STEPS: STEPS });
      const server = await see(doomed, 'Idle01');
      await writeFile(join(STEPS, 'stop-at'), `${step} 1`);
      doomed.call('capture.openSnapshots', snapshotParams(server)).catch(() => undefined); // it dies meanwhile
      await eventually(step, 180, () => Promise.resolve(existsSync(join(STEPS, 'reached'))), Boolean);
      await doomed.started.kill('SIGKILL');
    }

    for (const step of ['suspend-after', 'snapshot-before-create', 'snapshot-after-create']) {
      inSoak(`lets the server run on and removes the snapshots: killed at ${step}`, async () => {
        await killedAt(step);
        await eventually('the server to run', 30, () => idle.state(), (state) => state === 'running');
        await eventually('payment', 180, async () => [...await volumes(), ...await owed()], (left) => left.length === 0);
      });
    }

    it('removes exactly what that agent made, and nothing that has such a name, tag or place', async () => {
      const doomed = await Hands.start(thisHost);
      await doomed.call('capture.openSnapshots', snapshotParams(await see(doomed, 'Idle01')));
      const [first = '', second = ''] = await volumes();
      // An administrator's snapshot; one that looks like another run's; and a volume that took the name of one of ours meanwhile.
      await run('lvcreate', ['--quiet', '--yes', '--snapshot', '--name', 'mine', '--size', '8M', 'cap_a/idle-root']);
      await run('lvcreate', ['--quiet', '--yes', '--snapshot', '--name', 'dr_00000000_0', '--addtag', 'dr-engine-snapshot', '--addtag', 'dr.owner=0123456789abcdef', '--size', '8M', 'cap_a/idle-root']);
      await run('lvremove', ['--quiet', '--yes', second]);
      await run('lvcreate', ['--quiet', '--yes', '--zero', 'n', '--name', second.split('/')[1] ?? '', '--size', '8M', second.split('/')[0] ?? '']);
      await doomed.started.kill('SIGKILL');
      await eventually('payment', 180, owed, (left) => left.length === 0);
      const strangers = ['cap_a/dr_00000000_0', 'cap_a/mine', second].sort();
      assert.ok(!strangers.includes(first));
      assert.deepEqual(await volumes(), strangers);
      for (const each of strangers) await run('lvremove', ['--quiet', '--force', '--yes', each]);
    });

    inSoak('is paid for later by dr agent --pay, when the guard is dead, too; twice is fine', async () => {
      const doomed = await Hands.start(thisHost);
      await doomed.call('capture.openSnapshots', snapshotParams(await see(doomed, 'Idle01')));
      const [session = ''] = await sessions();
      doomed.started.child.kill('SIGSTOP'); // or it would start another guard
      const guard = JSON.parse(await readFile(join(OWED, session, 'guard.json'), 'utf8')) as { pid: number };
      process.kill(guard.pid, 'SIGKILL');
      await doomed.started.kill('SIGKILL');
      assert.equal((await volumes()).length, 2);
      const main = new URL('../../src/main.js', import.meta.url).pathname;
      for (let time = 0; time < 2; time += 1) await run(process.execPath, [main, 'agent', '--pay'], { timeoutMs: 120_000 });
      assert.deepEqual([...await volumes(), ...await owed()], []);
    });
  });
});
