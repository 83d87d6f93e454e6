import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdir, mkdtemp, readFile, readlink, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { allOwed, readIdentity, sessions, type ProcessIdentity } from '../../src/capture/owed-records.js';
import type { Debt, Obligation } from '../../src/model/obligation.js';
import { makeDirectory } from '../../src/system/durable.js';
import { bootId, startTime } from '../../src/system/processes.js';
import { VirshStandIn } from '../support/virsh-stand-in.js';

const UUID = '11111111-2222-3333-4444-555555555555';
const DEAD_MS = 4_000; // longer than the 2 s between two heartbeats; 10 s outside of tests

/** Real agents, real guards, real kills. */
describe('the guard', function () {
  this.timeout(30_000);
  let home: string;
  let virsh: VirshStandIn;
  const children: ChildProcess[] = [];
  const guards: ProcessIdentity[] = [];

  beforeEach(async () => {
    home = await mkdtemp(join(tmpdir(), 'guard-'));
    process.env['DR_STATE_DIR'] = join(home, 'state');
    process.env['GUARD_DEAD_MS'] = String(DEAD_MS);
    await makeDirectory(join(home, 'state'));
    virsh = await VirshStandIn.install(join(home, 'virsh'));
  });
  afterEach(async () => {
    virsh.remove();
    for (const child of children.splice(0)) child.kill('SIGKILL');
    for (const { pid, startTime: started } of guards.splice(0)) if (await startTime(pid) === started) process.kill(pid, 'SIGKILL');
    delete process.env['DR_STATE_DIR'];
    delete process.env['GUARD_DEAD_MS'];
    await rm(home, { recursive: true, maxRetries: 5 });
  });

  const thing = async (name: string): Promise<Debt> => {
    const path = join(home, `dr-engine-${name}`);
    await mkdir(path);
    return { kind: 'remove', path };
  };
  const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false);
  const until = async (what: string, holds: () => Promise<boolean>, seconds = 15): Promise<number> => {
    const begun = performance.now();
    while (!await holds()) {
      assert.ok(performance.now() - begun < seconds * 1000, `${what}: not within ${String(seconds)} s`);
      await sleep(25);
    }
    return performance.now() - begun;
  };
  const allPaid = async (): Promise<boolean> => (await sessions()).length === 0;

  const debtor = async (debts: readonly Debt[]): Promise<{ agent: ChildProcess; directory: string; obligations: Obligation[]; guard: ProcessIdentity; say: (line: string) => void; heard: () => Promise<string> }> => {
    const agent = spawn(process.execPath, [fileURLToPath(new URL('../support/debtor.js', import.meta.url)), JSON.stringify(debts)], { stdio: ['pipe', 'pipe', 'inherit'] });
    children.push(agent);
    const heard = async (): Promise<string> => String((await once(agent.stdout, 'data'))[0]);
    const { directory, obligations } = JSON.parse(await heard()) as { directory: string; obligations: Obligation[] };
    const guard = await readIdentity(directory, 'guard');
    assert.ok(guard !== undefined);
    guards.push(guard);
    return { agent, directory, obligations, guard, heard, say: (line) => agent.stdin.write(`${line}\n`) };
  };

  const start = (change: Partial<Extract<Debt, { kind: 'start' }>> = {}): Debt => ({
    kind: 'start', uri: 'test:///', server: 'Web01', uuid: UUID, persistent: true, xml: '<domain/>', peers: [], agentCommand: ['dr'],
    watchUntil: new Date(Date.now() + 60_000).toISOString(), wentDown: true, ...change,
  });

  it('pays everything when the agent is killed, and ends', async () => {
    await virsh.domain('Web01', UUID, 'shut off');
    const sleeper = spawn('sleep', ['600'], { stdio: 'ignore' });
    children.push(sleeper);
    const pid = sleeper.pid ?? 0;
    const { agent, guard } = await debtor([await thing('a'), start(), { kind: 'kill', pid, startTime: await startTime(pid) ?? '', bootId: await bootId(), what: 'sleep' }]);
    agent.kill('SIGKILL');
    await until('payment', allPaid);
    assert.equal(await exists(join(home, 'dr-engine-a')), false);
    assert.equal(await virsh.get(UUID, 'state'), 'running');
    assert.equal(await startTime(pid), undefined);
    await until('the guard ends', async () => await startTime(guard.pid) !== guard.startTime);
  });

  it('kills an agent that missed its deadline, and pays', async () => {
    const { agent } = await debtor([await thing('a')]);
    agent.kill('SIGSTOP');
    const took = await until('payment', allPaid);
    assert.ok(took > DEAD_MS - 2_500, String(took));
    assert.equal(agent.signalCode ?? (await once(agent, 'exit'))[1], 'SIGKILL');
  });

  it('touches nothing while the agent lives, however long that takes', async () => {
    const { agent } = await debtor([await thing('a')]);
    await sleep(DEAD_MS + 1_500);
    assert.equal(await exists(join(home, 'dr-engine-a')), true);
    assert.equal(agent.exitCode, null);
    assert.equal((await allOwed()).length, 1);
  });

  it('thaws when that is overdue, while the agent lives', async () => {
    await virsh.domain('Web01', UUID, 'running');
    await virsh.set(UUID, 'frozen', '');
    const due = Date.now() + 2_500;
    const { agent } = await debtor([{ kind: 'thaw', uri: 'test:///', server: 'Web01', uuid: UUID, dueAt: new Date(due).toISOString() }, await thing('a')]);
    await until('thaw', async () => await virsh.get(UUID, 'frozen') === undefined);
    assert.ok(Date.now() >= due - 50, 'not before it is due');
    await until('the record goes', async () => (await allOwed()).length === 1);
    assert.equal(agent.exitCode, null);
    assert.equal(await exists(join(home, 'dr-engine-a')), true);
  });

  it('is started again when somebody kills it', async () => {
    const { agent, directory, guard } = await debtor([await thing('a')]);
    process.kill(guard.pid, 'SIGKILL');
    await until('another guard', async () => {
      const now = await readIdentity(directory, 'guard');
      if (now === undefined || now.pid === guard.pid) return false;
      guards.push(now);
      return true;
    });
    agent.kill('SIGKILL');
    await until('payment', allPaid);
  });

  it('holds nothing of the agent but its pipe', async () => {
    const { guard } = await debtor([await thing('a')]);
    const at = `/proc/${String(guard.pid)}`;
    assert.equal(await readlink(join(at, 'cwd')), '/');
    const fields = (await readFile(join(at, 'stat'), 'utf8')).replace(/.*\) /, '').split(' ');
    assert.equal(fields[3], String(guard.pid), 'a session of its own');
    const open = await Promise.all((await readdir(join(at, 'fd'))).map((fd) => readlink(join(at, 'fd', fd)).catch(() => '')));
    assert.deepEqual(open.filter((target) => target.startsWith('/') && !target.startsWith('/dev/null') && !target.endsWith('guard.log') && !target.startsWith('/proc')), []);
  });

  it('ends with an agent that paid, and leaves no trace', async () => {
    const { obligations, say, heard, guard } = await debtor([await thing('a')]);
    say(`pay ${obligations[0]?.id ?? ''}`);
    assert.equal(await heard(), 'paid\n');
    say('close');
    await until('the guard ends', async () => await startTime(guard.pid) !== guard.startTime);
    assert.deepEqual(await sessions(), []);
  });

  it('goes on watching a server that ignored the shutdown, and starts it when it goes down after all', async () => {
    await virsh.domain('Web01', UUID, 'running');
    const { say, heard, obligations } = await debtor([start({ wentDown: false })]);
    say(`pay ${obligations[0]?.id ?? ''}`);
    assert.equal(await heard(), 'watching\n');
    say('close');
    await sleep(2_500);
    assert.equal((await allOwed()).length, 1);
    await virsh.set(UUID, 'state', 'shut off');
    await until('start', async () => await virsh.get(UUID, 'state') === 'running');
    await until('payment', allPaid);
  });

  it('starts a server as soon as all peers answer, while the agent lives', async () => {
    await virsh.domain('Web01', UUID, 'shut off');
    const { say, heard, obligations } = await debtor([start({ peers: ['n2'] })]);
    say(`pay ${obligations[0]?.id ?? ''}`);
    assert.match(await heard(), /can't be known that it does not run on n2/);
    assert.match((await allOwed())[0]?.stuck ?? '', /n2/);
    await virsh.peer('n2', { state: 'shut off', uuid: UUID });
    await until('start', async () => await virsh.get(UUID, 'state') === 'running');
  });

  it('hands a server\'s start debt to the next run that shuts it down', async () => {
    await virsh.domain('Web01', UUID, 'running');
    const first = await debtor([start({ wentDown: false })]);
    first.agent.kill('SIGKILL');
    await until('it watches', async () => (await allOwed())[0]?.stuck !== undefined);
    const second = await debtor([start({ wentDown: false })]);
    assert.deepEqual((await allOwed()).map(({ id }) => id), second.obligations.map(({ id }) => id));
    await until('the first guard ends', async () => await startTime(first.guard.pid) !== first.guard.startTime);
    await virsh.set(UUID, 'state', 'shut off');
    await sleep(2_500);
    assert.equal(await virsh.get(UUID, 'state'), 'shut off', 'the second run is imaging it');
    second.agent.kill('SIGKILL');
    await until('start', async () => await virsh.get(UUID, 'state') === 'running');
  });

  it('does not let a payment that can\'t be made hold up the others', async () => {
    await virsh.domain('Web01', UUID, 'shut off');
    const { agent } = await debtor([{ kind: 'remove', path: join(home, 'dr-engine-file', 'x') }, start()]);
    await writeFile(join(home, 'dr-engine-file'), 'a file where our directory was');
    agent.kill('SIGKILL');
    await until('start', async () => await virsh.get(UUID, 'state') === 'running');
    await until('the reason', async () => (await allOwed())[0]?.stuck?.includes('no directory any more') === true);
    await rm(join(home, 'dr-engine-file'));
    await until('payment', allPaid);
  });
});
