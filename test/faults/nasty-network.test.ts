import assert from 'node:assert/strict';
import type { Guest } from '../lab/guest.js';
import { Lab } from '../lab/lab.js';
import { pause, until } from '../lab/namespaces.js';
import { killRole, processesOf } from '../lab/roles.js';
import { go, reached, stopAt } from '../lab/steps.js';
import { skipBecause } from '../support/skip.js';
import { NODE, SERVER, SPARE, TARGET } from './ground.js';
import { assertCurrent, assertImages, assertProduction, remember, type Remembered } from './promises.js';
import { COLD, ended, LIVE, slowly, Stage } from './stage.js';

/** Cables that are pulled without anybody being told, and servers that must not run twice. */

const LAB = 'nasty-network';

describe('cut links and second nodes', function () {
  this.timeout(240_000);
  let stage: Stage;
  let remembered: Remembered;
  /** The same server on the other node: same name, same UUID, disks of its own. */
  let twin: Guest;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    stage = await Stage.up(LAB);
    await stage.dirty(24);
    remembered = await stage.firstRuns(2);
    twin = await stage.lab.addGuest(SPARE, { name: SERVER, uuid: stage.guest.uuid, start: false });
    await stage.spare.run('virsh', ['undefine', SERVER]);
  });
  after(async () => { await Lab.down(LAB); });
  beforeEach(async () => { await stage.forget(); });
  afterEach(async function () { if (this.currentTest?.state === 'failed') await stage.settle(); });

  it('the node is cut off during a live run: both sides notice, the node puts itself right, and the next run succeeds', async () => {
    await stage.dirty(24);
    const run = await stage.start(slowly(LIVE));
    await stage.sending();
    await stage.lab.cut(NODE);
    const cut = Date.now();
    const [{ status, server, said }, headTook, nodeTook] = await Promise.all([
      ended(run),
      run.exit.then(() => Date.now() - cut),
      until('the agent of the node to give up', async () => (await processesOf(stage.node, 'agent')).length === 0 ? true : undefined, 60_000).then(() => Date.now() - cut),
    ]);
    console.log(`      the head had ended after ${seconds(headTook)}, the node's agent after ${seconds(nodeTook)}`);
    assert.equal(status, 1, said);
    assert.equal(server.error?.code, 'connection-lost', said);
    assert.match(server.error.message, /connection to node01 was lost/);
    assert.ok(headTook < 30_000 && nodeTook < 30_000, 'they noticed late');
    await stage.assertPromises(remembered, 2); // with the cable still out
    await stage.lab.restore(NODE);
    await stage.runsWell(LIVE, remembered);
    await nobodyWrites();
  });

  it('the target is cut off during a cold run: the server is back at once, and the next run succeeds', async () => {
    await stage.dirty(24);
    const run = await stage.start(slowly(COLD));
    await stage.sending();
    assert.equal(await stage.guest.state(), 'shut off');
    await stage.lab.cut(TARGET);
    const cut = Date.now();
    await until('the server to be back', async () => await stage.guest.state() === 'running' ? true : undefined, 45_000);
    console.log(`      the server was back after ${seconds(Date.now() - cut)}`);
    const { status, said } = await ended(run);
    assert.equal(status, 1, said);
    assert.match(said, /dr01/);
    await assertProduction(stage);
    await assertImages(stage, remembered, 2);
    await stage.lab.restore(TARGET);
    await assertCurrent(stage, { byHand: true });
    await stage.runsWell(COLD, remembered);
    await nobodyWrites();
  });

  it('a server that was started on the other node before this one paid is not started here', async () => {
    await stopAt(stage.node, 'shutdown-after-off');
    const run = await stage.start(COLD);
    await reached(stage.node, 90_000);
    const [guard] = await processesOf(stage.node, 'guard');
    assert.ok(guard !== undefined, 'no guard watches over the node');
    await stage.node.kill(guard.inner, 'SIGSTOP'); // slow to wake up
    await killRole(stage.node, 'agent');
    await startTwin();
    await stage.node.kill(guard.inner, 'SIGCONT');
    await runsThereOnly();
    assert.equal((await ended(run)).status, 1);
    await backHere();
  });

  it('a payer that stands still between asking and starting asks again', async () => {
    await stopAt(stage.node, 'start-before');
    const run = await stage.start(COLD);
    await reached(stage.node, 90_000);
    await startTwin();
    await pause(2_500); // so long are answers good for
    await go(stage.node);
    const { said } = await ended(run);
    assert.equal(await stage.guest.state(), 'shut off', `two are running: ${said}`);
    await runsThereOnly();
    await backHere();
  });

  it('a start that is owed stays owed and red while the other node can\'t be asked, and is paid when it can', async () => {
    await stopAt(stage.node, 'shutdown-after-off');
    const run = await stage.start(COLD);
    await reached(stage.node, 90_000);
    await stage.lab.cut(SPARE);
    await go(stage.node);
    const { status, server, said } = await ended(run);
    assert.equal(status, 1, said);
    assert.equal(server.error?.code, 'capture-void', said); // nobody could see whether the other node wrote to the disks meanwhile
    assert.match(said, /is not started here, because it can't be known that it does not run on node02/);
    assert.equal(await stage.guest.state(), 'shut off', 'it was started though nobody could know where else it runs');

    const file = await stage.configure(COLD);
    const shown = JSON.parse((await stage.head.run('dr', ['status', '--json', '--config', file], { okExit: [0, 1, 3, 4], timeoutMs: 90_000 })).stdout) as { owed: { host: string; what: string; stuck: string | null }[] };
    const owed = shown.owed.find(({ what }) => what.includes(SERVER));
    assert.ok(owed !== undefined, JSON.stringify(shown));
    assert.equal(owed.host, NODE);
    assert.match(owed.stuck ?? '', /can't be known that it does not run on node02/);
    const check = await stage.head.run('dr', ['check', '--config', file], { okExit: [0, 1, 3, 4], timeoutMs: 90_000 });
    assert.notEqual(check.exitCode, 0);
    assert.match(check.stdout, /it owes: start Db01/);

    await stage.lab.restore(SPARE);
    await remember(stage, remembered);
    await stage.assertPromises(remembered, 2, 60_000);
    await stage.runsWell(COLD, remembered);
  });

  async function startTwin(): Promise<void> {
    await stage.spare.writeFile('/root/twin.xml', twin.xml);
    await stage.spare.run('virsh', ['define', '/root/twin.xml']);
    await twin.start();
  }

  /** For a while, so that whoever tries again and again is seen. */
  async function runsThereOnly(): Promise<void> {
    await until('the debt to be settled', async () => (await stage.node.run('sh', ['-c', 'ls /var/lib/dr-engine/owed'], { okExit: [0, 2] })).stdout.trim() === '' ? true : undefined, 60_000);
    assert.equal(await twin.state(), 'running');
    assert.equal(await stage.guest.state(), 'shut off', 'two are running');
  }

  async function backHere(): Promise<void> {
    await twin.destroy();
    await stage.spare.run('virsh', ['undefine', SERVER]);
    await stage.guest.start();
    await stage.guest.beats(1);
    await stage.assertPromises(remembered, 2);
    await stage.runsWell(LIVE, remembered);
  }

  /** Nobody is left who might still write to an image of a dead run. */
  async function nobodyWrites(): Promise<void> {
    assert.deepEqual(await processesOf(stage.target, 'data'), []);
  }
});

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}
