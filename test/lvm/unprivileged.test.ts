import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { connect, type Agent } from '../../src/agent/connect.js';
import type { Method, Params, Result } from '../../src/agent/protocol.js';
import { lvmState } from '../../src/system/lvm.js';
import { run } from '../../src/system/run.js';
import { CHECKOUT } from '../lab/layout.js';
import { content, setId, TestTarget } from '../support/target.js';
import { freshGroups, onlyInVm } from './ground.js';

const SUDOERS = '/etc/sudoers.d/dr-engine';

/** A target's agent as the user `dr`, who is in the group disk and may run the wrappers with sudo, and no more. */
describe('an agent that is not root', function () {
  this.timeout(300_000);
  let target: TestTarget;
  let agent: Agent | undefined;

  const asDr = (...command: readonly string[]): [string, ...string[]] => ['setpriv', '--reuid=dr', '--regid=dr', '--init-groups', '--', ...command];
  const own = (): Promise<unknown> => run('chown', ['--recursive', 'dr:', target.path]);

  before(async function () {
    onlyInVm(this);
    await freshGroups({ 'dr-a': [0], 'foreign': [1] });
    await writeFile('/etc/dr/vgs', 'dr-a\n');
    await run('useradd', ['--create-home', '--groups', 'disk', 'dr'], { okExit: [0, 9] });
    const sample = await readFile(join(CHECKOUT, 'lvm/sudoers.sample'), 'utf8');
    await writeFile(SUDOERS, sample.replaceAll('/usr/local/lib/dr-engine', CHECKOUT), { mode: 0o440 });
    await run('visudo', ['--check', '--quiet', '--file', SUDOERS]);
    target = await TestTarget.make();
    await own();
    agent = await connect({ host: hostname(), agentCommand: asDr('env', '--chdir=/', `DR_STATE_DIR=${target.path}/state`, 'HOME=/home/dr', process.execPath, join(CHECKOUT, 'build/src/main.js')) }, 'unprivileged', 120_000);
    const ask = agent;
    const ref = { ...target.ref, store: 'vg:dr-a' };
    const ticket = target.ticket.bind(target);
    Object.assign(target, {
      ref,
      call: async <M extends Method>(method: M, params: Omit<Params<M>, 'store'>): Promise<Result<M>> => await ask.call(method, { store: ref, ...params } as unknown as Params<M>),
      ticket: async (...args: Parameters<typeof ticket>) => {
        const made = await ticket(...args);
        await own(); // a receiver would have made it as dr
        return made;
      },
    });
  });
  after(async () => {
    if (process.env['DR_TEST_VM'] !== '1') return;
    await agent?.close();
    await target.remove();
    await rm(SUDOERS);
  });

  it('is nobody but dr', async () => {
    const [program, ...args] = asDr('sh', '-c', 'id -un; id -Gn; sudo -n id -u 2>&1; sudo -n -- "$1" foreign x 4096 2>&1; sudo -n -- "$2" list 2>&1; lvs 2>&1; true', 'sh', join(CHECKOUT, 'lvm/create'), join(CHECKOUT, 'lvm/lib.sh'));
    const { stdout } = await run(program, args, { timeoutMs: 120_000 });
    assert.match(stdout, /^dr\n(dr disk|disk dr)\n/);
    assert.equal(stdout.match(/sudo: a password is required/g)?.length, 2, stdout);
    assert.match(stdout, /dr-lvm: create: the volume group foreign is not in \/etc\/dr\/vgs/);
    assert.doesNotMatch(stdout, /^0$/m);
  });

  it('keeps a copy on a volume, and boots it from its link', async () => {
    await target.call('store.check', {});
    await target.run({ set: setId(1), copies: 2, disks: { root: content(1) } });
    assert.equal(await target.states(), '1: proven');
    const newest = content(1);
    assert.deepEqual((await target.booted('root')).subarray(0, newest.length), newest);
    const { volumes } = await lvmState();
    assert.deepEqual(volumes.map(({ name }) => name).sort(), ['Web01_root_1']);
    const log = await readFile('/var/log/dr-lvm.log', 'utf8');
    assert.match(log, /Z dr create dr-a Web01_root_incomplete \d+ .*: done$/m);
  });

  it('notices who has a volume open, though it can\'t see who', async () => {
    const root = await target.image('Web01_root_1');
    assert.equal(root.inUse, undefined);
    await run('sh', ['-c', 'exec 3<"$1"; setsid sleep 120 >/dev/null 2>&1 3<&3 & echo $! > /run/holder', 'sh', (await lvmState()).volumes.find(({ name }) => name === 'Web01_root_1')?.path ?? '']);
    assert.match((await target.image('Web01_root_1')).inUse ?? '', /no process of this host shows/);
    await run('sh', ['-c', 'kill $(cat /run/holder)']);
  });
});
