import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { access, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRecord, listRecords, newId, newSession, owedDirectory, sessions, writeIdentity } from '../../src/capture/owed-records.js';
import { payStart } from '../../src/capture/pay-start.js';
import { inOrder, payInOrder, payOrphans, payRecord } from '../../src/capture/pay.js';
import { notRemovable, payBackup, payKill, payRemove, payResume, payThaw } from '../../src/capture/payments.js';
import type { Debt, Obligation } from '../../src/model/obligation.js';
import { makeDirectory } from '../../src/system/durable.js';
import { bootId, startTime } from '../../src/system/processes.js';
import { VirshStandIn } from '../support/virsh-stand-in.js';

const UUID = '11111111-2222-3333-4444-555555555555';
const OTHER = '22222222-2222-3333-4444-555555555555';
const guard = [process.execPath, fileURLToPath(new URL('../support/guard-main.js', import.meta.url))];

describe('paying what is owed', () => {
  let home: string;
  let virsh: VirshStandIn;
  const children: ChildProcess[] = [];

  beforeEach(async () => {
    home = await mkdtemp(join(tmpdir(), 'pay-'));
    process.env['DR_STATE_DIR'] = join(home, 'state');
    await makeDirectory(join(home, 'state'));
    virsh = await VirshStandIn.install(join(home, 'virsh'));
  });
  afterEach(async () => {
    virsh.remove();
    for (const child of children.splice(0)) child.kill('SIGKILL');
    delete process.env['DR_STATE_DIR'];
    await rm(home, { recursive: true, maxRetries: 5 });
  });

  const sleeper = (): number => {
    const child = spawn('sleep', ['600'], { stdio: 'ignore' });
    children.push(child);
    assert.ok(child.pid !== undefined);
    return child.pid;
  };
  const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false);

  describe('kill', () => {
    const debt = async (pid: number): Promise<Extract<Debt, { kind: 'kill' }>> =>
      ({ kind: 'kill', pid, startTime: await startTime(pid) ?? '', bootId: await bootId(), what: 'a sleeper' });

    it('kills the process, and is settled the second time', async () => {
      const owed = await debt(sleeper());
      assert.deepEqual(await payKill(owed), { kind: 'settled', how: 'killed' });
      assert.equal(await startTime(owed.pid), undefined);
      assert.deepEqual(await payKill(owed), { kind: 'settled', how: 'it has ended' });
    });

    it('never kills another process that has the number now', async () => {
      const pid = sleeper();
      const owed = await debt(pid);
      assert.equal((await payKill({ ...owed, startTime: String(Number(owed.startTime) - 1) })).kind, 'settled');
      assert.equal((await payKill({ ...owed, bootId: 'another-boot' })).kind, 'settled');
      assert.equal(await startTime(pid), owed.startTime, 'it must live');
    });
  });

  describe('thaw', () => {
    const debt: Extract<Debt, { kind: 'thaw' }> = { kind: 'thaw', uri: 'test:///', server: 'Web01', uuid: UUID, dueAt: new Date().toISOString() };

    it('thaws a running server, twice', async () => {
      await virsh.domain('Web01', UUID, 'running');
      await virsh.set(UUID, 'frozen', '');
      assert.deepEqual(await payThaw(debt), { kind: 'settled', how: 'thawed' });
      assert.equal(await virsh.get(UUID, 'frozen'), undefined);
      assert.equal((await payThaw(debt)).kind, 'settled');
    });

    it('owes nothing to a server that is off or gone', async () => {
      assert.equal((await payThaw(debt)).kind, 'settled');
      await virsh.domain('Web01', UUID, 'shut off');
      assert.equal((await payThaw(debt)).kind, 'settled');
    });

    it('stays owed while the guest agent is silent or libvirt does not answer', async () => {
      await virsh.domain('Web01', UUID, 'running');
      await virsh.set(UUID, 'silent', '');
      await assert.rejects(payThaw(debt));
      await virsh.unset(UUID, 'silent');
      await virsh.reachable(false);
      await assert.rejects(payThaw(debt), { code: 'unreachable' });
    });
  });

  describe('resume', () => {
    const debt = async (pid: number): Promise<Extract<Debt, { kind: 'resume' }>> =>
      ({ kind: 'resume', uri: 'test:///', server: 'Web01', uuid: UUID, pid, startTime: await startTime(pid) ?? '', bootId: await bootId(), dueAt: new Date().toISOString() });

    it('lets a server run on that we suspended, and is settled the second time', async () => {
      await virsh.domain('Web01', UUID, 'paused');
      const owed = await debt(sleeper());
      assert.deepEqual(await payResume(owed), { kind: 'settled', how: 'resumed' });
      assert.equal(await virsh.get(UUID, 'state'), 'running');
      assert.deepEqual(await payResume(owed), { kind: 'settled', how: 'it runs' });
    });

    it('leaves alone what is paused for another reason, or is another start of the server', async () => {
      await virsh.domain('Web01', UUID, 'paused');
      const owed = await debt(sleeper());
      assert.equal((await payResume({ ...owed, startTime: String(Number(owed.startTime) - 1) })).kind, 'settled');
      assert.equal((await payResume({ ...owed, bootId: 'another-boot' })).kind, 'settled');
      for (const reason of ['I/O error', 'migrating']) {
        await virsh.set(UUID, 'reason', reason);
        assert.deepEqual(await payResume(owed), { kind: 'settled', how: `it is paused by something else: ${reason}` });
      }
      assert.equal(await virsh.get(UUID, 'state'), 'paused');
    });

    it('waits for a suspension that is still on its way, and stays owed while libvirt does not answer', async () => {
      await virsh.domain('Web01', UUID, 'running');
      const owed = await debt(sleeper());
      const late = spawn('sh', ['-c', 'sleep 0.7; echo paused > "$1"', 'suspend', virsh.file(UUID, 'state'), `--domain=${UUID}`, 'suspend'], { stdio: 'ignore' });
      children.push(late);
      await new Promise((resolve) => { late.once('spawn', resolve); });
      assert.deepEqual(await payResume(owed), { kind: 'settled', how: 'resumed' });
      await virsh.reachable(false);
      await assert.rejects(payResume(owed), { code: 'unreachable' });
    });
  });

  describe('backup', () => {
    const socket = '/var/lib/dr-engine/captures/x/nbd';
    const job = (path: string): string => `<domainbackup mode='pull'><server transport='unix' socket='${path}'/></domainbackup>`;
    const debt: Extract<Debt, { kind: 'backup' }> = { kind: 'backup', uri: 'test:///', server: 'Web01', uuid: UUID, socket, dueAt: new Date().toISOString() };

    it('aborts our job and resumes the guest that it paused, and is settled the second time', async () => {
      await virsh.domain('Web01', UUID, 'paused');
      await virsh.set(UUID, 'reason', 'I/O error');
      await virsh.set(UUID, 'backup', job(socket));
      await virsh.set(UUID, 'job', 'Backup');
      assert.deepEqual(await payBackup(debt), { kind: 'settled', how: 'aborted; resumed' });
      assert.equal(await virsh.get(UUID, 'state'), 'running');
      assert.equal((await payBackup(debt)).kind, 'settled');
    });

    it('leaves a job with another socket, a migration and a pause of somebody else alone', async () => {
      await virsh.domain('Web01', UUID, 'running');
      await virsh.set(UUID, 'backup', job(`${socket}2`));
      assert.equal((await payBackup(debt)).kind, 'settled');
      assert.ok(await virsh.get(UUID, 'backup') !== undefined);
      await virsh.unset(UUID, 'backup');
      await virsh.set(UUID, 'state', 'paused');
      await virsh.set(UUID, 'reason', 'user');
      assert.equal((await payBackup(debt)).kind, 'settled');
      await virsh.set(UUID, 'reason', 'I/O error');
      await virsh.set(UUID, 'job', 'Outgoing migration');
      assert.equal((await payBackup(debt)).kind, 'settled');
      assert.equal(await virsh.get(UUID, 'state'), 'paused');
      assert.ok(!(await virsh.calls()).includes('domjobabort'));
    });
  });

  describe('remove', () => {
    it('refuses every path that is not ours by its name', () => {
      for (const path of ['/', '/etc', '/srv/images', '/mnt/cache', '/mnt/cache/dr-engine', '/srv/dr-engine/../x', '/srv//dr-engine-1', 'dr-engine-1/x', '/srv/dr-x',
        join(home, 'state'), join(home, 'state', 'owed'), join(home, 'state', 'owed', 'x'), join(home, 'state', 'locks', 'x')]) {
        assert.notEqual(notRemovable(path), undefined, path);
      }
      for (const path of ['/mnt/cache/dr-engine/run', '/srv/dr-engine-1', '/srv/.dr-x/y', '/var/lib/libvirt/dr-engine/dr-0123456789abcdef', '/scratch/dr-0123456789abcdef', join(home, 'state', 'captures', 'x')]) {
        assert.equal(notRemovable(path), undefined, path);
      }
    });

    it('removes a tree of ours, and is settled when it is gone', async () => {
      const path = join(home, 'dr-engine-1');
      await mkdir(join(path, 'a'), { recursive: true });
      await writeFile(join(path, 'a', 'b'), 'x');
      assert.equal((await payRemove({ kind: 'remove', path })).kind, 'settled');
      assert.equal(await exists(path), false);
      assert.equal((await payRemove({ kind: 'remove', path })).kind, 'settled');
      assert.equal((await payRemove({ kind: 'remove', path: join(path, 'a', 'b') })).kind, 'settled');
    });

    it('does not follow a link that took the place of our directory', async () => {
      await mkdir(join(home, 'precious'));
      await writeFile(join(home, 'precious', 'x'), 'x');
      await symlink(join(home, 'precious'), join(home, 'dr-engine-1'));
      await assert.rejects(payRemove({ kind: 'remove', path: join(home, 'dr-engine-1', 'x') }), { code: 'not-ours' });
      assert.equal((await payRemove({ kind: 'remove', path: join(home, 'dr-engine-1') })).kind, 'settled');
      assert.equal(await exists(join(home, 'precious', 'x')), true);
    });
  });

  describe('start', () => {
    const debt: Extract<Debt, { kind: 'start' }> = {
      kind: 'start', uri: 'test:///', server: 'Web01', uuid: UUID, persistent: true, xml: `<domain><name>Web01</name><uuid>${UUID}</uuid></domain>`,
      peers: ['n2'], agentCommand: ['dr'], watchUntil: new Date(Date.now() + 60_000).toISOString(), wentDown: true,
    };
    const off = { state: 'shut off', uuid: UUID };

    it('starts a server that is off everywhere, and does so once', async () => {
      await virsh.domain('Web01', UUID, 'shut off');
      await virsh.peer('n2', off);
      assert.deepEqual(await payStart(debt, home), { kind: 'settled', how: 'started' });
      assert.deepEqual(await payStart(debt, home), { kind: 'settled', how: 'it runs here' });
      assert.equal((await virsh.calls()).filter((call) => call === 'start').length, 1);
    });

    it('does not start it when a peer can\'t be asked, and says which', async () => {
      await virsh.domain('Web01', UUID, 'shut off');
      const outcome = await payStart(debt, home);
      assert.equal(outcome.kind, 'stuck');
      assert.match(outcome.kind === 'stuck' ? outcome.why : '', /can't be known that it does not run on n2: .*No route to host/);
      assert.equal(await virsh.get(UUID, 'state'), 'shut off');
    });

    for (const [what, answer] of [['runs', { state: 'running', uuid: UUID }], ['is paused', { state: 'paused', uuid: UUID }]] as const) {
      it(`is settled when it ${what} on a peer`, async () => {
        await virsh.domain('Web01', UUID, 'shut off');
        await virsh.peer('n2', answer);
        assert.deepEqual(await payStart(debt, home), { kind: 'settled', how: 'it runs on n2' });
        assert.equal(await virsh.get(UUID, 'state'), 'shut off');
      });
    }

    for (const [what, answer] of [['a domain of that name with another UUID runs', { state: 'running', uuid: 'other' }],
      ['it is neither running nor off', { state: 'other', uuid: UUID }], ['an answer is not understood', { hello: 1 }]] as const) {
      it(`stays owed when on a peer ${what}`, async () => {
        await virsh.domain('Web01', UUID, 'shut off');
        await virsh.peer('n2', answer);
        assert.equal((await payStart(debt, home)).kind, 'stuck');
        assert.equal(await virsh.get(UUID, 'state'), 'shut off');
      });
    }

    it('creates a domain that is no longer defined from what was written down, and leaves no file', async () => {
      await virsh.peer('n2', { state: 'absent', uuid: UUID });
      await mkdir(join(home, 'session'));
      assert.deepEqual(await payStart(debt, join(home, 'session')), { kind: 'settled', how: 'started' });
      assert.equal(await virsh.get(UUID, 'created'), debt.xml);
      assert.deepEqual(await readdir(join(home, 'session')), []);
    });

    it('watches a server that ignored the request until its time is over', async () => {
      await virsh.domain('Web01', UUID, 'running');
      const watching = { ...debt, wentDown: false };
      assert.equal((await payStart(watching, home)).kind, 'waiting');
      assert.equal((await payStart(watching, home, () => Date.parse(debt.watchUntil) + 1)).kind, 'settled');
      await virsh.set(UUID, 'state', 'shut off');
      await virsh.peer('n2', off);
      assert.deepEqual(await payStart(watching, home), { kind: 'settled', how: 'started' });
    });

    it('remembers that it went down when it can\'t be started yet', async () => {
      await virsh.domain('Web01', UUID, 'shut off');
      const outcome = await payStart({ ...debt, wentDown: false }, home);
      assert.ok(outcome.kind === 'stuck' && outcome.debt?.kind === 'start' && outcome.debt.wentDown);
    });

    it('uses the start command, which knows the cluster, without asking peers', async () => {
      await virsh.domain('Web01', UUID, 'shut off');
      assert.deepEqual(await payStart({ ...debt, startCommand: ['touch', join(home, 'started-{server}')] }, home), { kind: 'settled', how: 'started' });
      assert.equal(await exists(join(home, 'started-Web01')), true);
      assert.equal((await payStart({ ...debt, startCommand: ['false'] }, home)).kind, 'stuck');
    });

    it('stays owed when libvirt refuses or does not answer', async () => {
      await virsh.domain('Web01', UUID, 'shut off');
      await virsh.peer('n2', off);
      await virsh.set(UUID, 'no-start', '');
      const outcome = await payStart(debt, home);
      assert.match(outcome.kind === 'stuck' ? outcome.why : '', /no memory for it/);
      await virsh.reachable(false);
      await assert.rejects(payStart(debt, home), { code: 'unreachable' });
    });
  });

  const session = async (debts: readonly Debt[], boot: string, pid = 1_000_000): Promise<{ directory: string; owed: Obligation[] }> => {
    const directory = owedDirectory(newSession());
    await makeDirectory(directory);
    await writeIdentity(directory, 'owner', { pid, startTime: await startTime(pid) ?? '1', bootId: boot });
    const owed: Obligation[] = [];
    for (const debt of debts) {
      const obligation = { id: newId(owed.length + 1, debt.kind), createdAt: new Date().toISOString(), debt };
      await createRecord(directory, obligation);
      owed.push(obligation);
    }
    return { directory, owed };
  };

  it('pays in the order kill, resume, thaw, backup and snapshot, remove from drives, unmount, remove, start', () => {
    const server = { uri: 'x', server: 's', uuid: UUID };
    const debts: Debt[] = [
      { kind: 'start', ...server, persistent: true, xml: '', peers: [], agentCommand: [], watchUntil: '', wentDown: true },
      { kind: 'remove', path: '/a/dr-engine/x' }, { kind: 'remove', path: '/mnt/1/dr-engine/x' }, { kind: 'unmount', mountPoint: '/mnt/1', source: '/dev/x' },
      { kind: 'remove', path: '/mnt/1' }, { kind: 'backup', ...server, socket: '', dueAt: '' }, { kind: 'thaw', ...server, dueAt: '' },
      { kind: 'kill', pid: 2, startTime: '', bootId: '', what: '' },
      { kind: 'snapshot', ...server, vg: 'a', name: 'b', owner: 'c', thin: false, dueAt: '' },
      { kind: 'resume', ...server, pid: 2, startTime: '', bootId: '', dueAt: '' },
    ];
    const order = inOrder(debts.map((debt, at) => ({ id: String(at), createdAt: '', debt })));
    assert.deepEqual(order.map((rank) => rank.map(({ id }) => id)), [['7'], ['9'], ['6'], ['5', '8'], ['2'], ['3'], ['1', '4'], ['0']]);
  });

  it('makes one payment at a time, however many ask, and forgets the debt', async () => {
    await virsh.domain('Web01', UUID, 'shut off');
    const { directory, owed: [first] } = await session([{ kind: 'start', uri: 'test:///', server: 'Web01', uuid: UUID, persistent: true, xml: '<x/>', peers: [], agentCommand: ['dr'], watchUntil: new Date().toISOString(), wentDown: true }], await bootId());
    assert.ok(first !== undefined);
    const outcomes = await Promise.all([1, 2, 3].map(() => payRecord(directory, first.id)));
    assert.ok(outcomes.every(({ kind }) => kind === 'settled'));
    assert.equal((await virsh.calls()).filter((call) => call === 'start').length, 1);
    assert.deepEqual(await listRecords(directory), []);
    assert.equal((await payRecord(directory, first.id)).kind, 'settled');
  });

  it('keeps scratch as long as a backup job may write to it, and starts servers all the same', async () => {
    await virsh.domain('Db01', OTHER, 'running');
    await virsh.set(OTHER, 'backup', '<domainbackup><server socket=\'/nbd\'/></domainbackup>');
    await virsh.set(OTHER, 'no-abort', '');
    await virsh.domain('Web01', UUID, 'shut off');
    const path = join(home, 'dr-engine-1');
    await mkdir(path);
    const { directory } = await session([
      { kind: 'remove', path }, { kind: 'backup', uri: 'test:///', server: 'Db01', uuid: OTHER, socket: '/nbd', dueAt: new Date().toISOString() },
      { kind: 'start', uri: 'test:///', server: 'Web01', uuid: UUID, persistent: true, xml: '<x/>', peers: [], agentCommand: ['dr'], watchUntil: new Date().toISOString(), wentDown: true },
    ], await bootId(), process.pid);
    await payInOrder(directory, await listRecords(directory));
    assert.equal(await virsh.get(UUID, 'state'), 'running');
    assert.equal(await exists(path), true);
    await virsh.unset(OTHER, 'no-abort');
    await payInOrder(directory, await listRecords(directory));
    assert.deepEqual(await listRecords(directory), []);
    assert.equal(await exists(path), false);
  });

  it('pays at boot what a power cut left', async () => {
    const path = join(home, 'dr-engine-1');
    await mkdir(path);
    const pid = sleeper();
    await session([{ kind: 'remove', path }, { kind: 'kill', pid, startTime: await startTime(pid) ?? '', bootId: 'before the power cut', what: 'a sleeper' }], 'before the power cut', process.pid);
    assert.deepEqual(await payOrphans(guard), []);
    assert.equal(await exists(path), false);
    assert.notEqual(await startTime(pid), undefined, 'a process of this boot is not the one that was meant');
    assert.deepEqual(await sessions(), []);
  });

  it('leaves alone what a living agent owes', async () => {
    const path = join(home, 'dr-engine-1');
    await mkdir(path);
    const { directory } = await session([{ kind: 'remove', path }], await bootId(), process.pid);
    assert.deepEqual(await payOrphans(guard), []);
    assert.equal(await exists(path), true);
    assert.equal((await listRecords(directory)).length, 1);
  });

  it('gives what can\'t be paid at boot to a guard that goes on trying', async function () {
    this.timeout(20_000);
    await virsh.domain('Web01', UUID, 'shut off');
    await session([{ kind: 'start', uri: 'test:///', server: 'Web01', uuid: UUID, persistent: true, xml: '<x/>', peers: ['n2'], agentCommand: ['dr'], watchUntil: new Date().toISOString(), wentDown: true }], 'before the power cut');
    const [still] = await payOrphans(guard);
    assert.match(still?.stuck ?? '', /n2/);
    await virsh.peer('n2', { state: 'absent', uuid: UUID });
    while (await virsh.get(UUID, 'state') !== 'running' || (await sessions()).length > 0) await new Promise((done) => { setTimeout(done, 50); });
  });

  it('leaves a damaged record where it is', async () => {
    const { directory } = await session([], 'another boot');
    const path = join(directory, `${newId(1, 'remove')}.json`);
    await writeFile(path, '{"id":');
    await payOrphans(guard);
    assert.equal(await exists(path), true);
  });
});
