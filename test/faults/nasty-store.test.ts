import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageRow } from '../../src/model/report.js';
import { CHECKOUT } from '../lab/layout.js';
import type { Started } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { skipBecause } from '../support/skip.js';
import { go, reached, stopAt } from '../lab/steps.js';
import { NODE, SERVER, SPARE, STORE } from './ground.js';
import { addStrangers, assertNoTwin, assertProduction, remember, sumOfStrangers, tuneDefinition, type Remembered } from './promises.js';
import { COLD, ended, LIVE, slowly, Stage, type StageJob } from './stage.js';

/** Targets that are full, booted by hand, or wanted by two at once. */

const LAB = 'nasty-store';
const OTHER = 'Web01';
const HOOK = '/etc/libvirt/hooks/qemu.d/dr-engine';

describe('trouble on the target', function () {
  this.timeout(240_000);
  let stage: Stage;
  let remembered: Remembered;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    stage = await Stage.up(LAB, { store: { sizeMiB: 512 } });
    await stage.dirty(24);
    remembered = await stage.firstRuns(1);
    await tuneDefinition(stage);
    await addStrangers(stage);
  });
  after(async () => { await Lab.down(LAB); });
  beforeEach(async () => { await stage.forget(); });
  afterEach(async function () { if (this.currentTest?.state === 'failed') await stage.settle(); });
  afterEach(async () => { await empty(); });

  it('a store that fills up while an image is written: a clear error, older sets untouched, and the next run goes on', async () => {
    await stage.dirty(24);
    const run = await stage.start(slowly(LIVE));
    await stage.sending();
    await fill();
    const { status, server, said } = await ended(run);
    assert.equal(status, 1, said);
    assert.equal(server.error?.code, 'no-space', said);
    assert.match(server.error.hint, /Free space/);
    await stage.assertPromises(remembered, 1);
    await empty();
    await stage.runsWell(LIVE, remembered);
  });

  it('a store that is full before the first byte is a clear refusal', async () => {
    await fill();
    const { status, server, said } = await stage.run(LIVE);
    assert.equal(status, 4, said);
    assert.equal(server.error?.code, 'space', said);
    assert.match(server.error.message, /Nothing was touched/);
    await stage.assertPromises(remembered, Math.min(2, remembered.size));
    await empty();
    await stage.runsWell(LIVE, remembered);
  });

  for (const step of ['intent-before', 'manifest-before'] as const) {
    it(`a store that is full at ${step}: a clear error, older sets untouched, and the next run goes on`, async () => {
      await stage.dirty(8);
      await stopAt(stage.target, step);
      const run = await stage.start(LIVE);
      await reached(stage.target, 90_000);
      await fill();
      await go(stage.target);
      const { status, server, said } = await ended(run);
      assert.equal(status, 1, said);
      assert.equal(server.error?.code, 'no-space', said);
      await stage.assertPromises(remembered, Math.min(2, remembered.size));
      await empty();
      await stage.runsWell(LIVE, remembered);
    });
  }

  describe('a copy that an admin boots by hand', () => {
    const both: StageJob = { ...LIVE, servers: [SERVER, OTHER] };

    before(async () => {
      const other = await stage.lab.addGuest(NODE, { name: OTHER, disks: [{}, { sizeMiB: 8 }] });
      await other.beats(1);
    });

    for (const hook of [false, true]) {
      it(`is left alone while it runs and after that, until dr release (${hook ? 'with' : 'without'} the libvirt hook)`, async () => {
        if (hook) await installHook();
        const copy = stage.guest.on(stage.target);
        await stage.target.run('virsh', ['create', `/shared/definitions/${SERVER}.xml`]);
        assert.ok(await copy.last() > 0);
        await copy.beats(2);
        await refusedAlone(both, /is in use|was booted or changed/);
        const running = await images();
        assert.ok(running.some(({ server, sequence, in_use: user }) => server === SERVER && sequence === 1 && user?.includes('qemu') === true), JSON.stringify(running));

        await copy.destroy();
        const booted = await sums();
        await refusedAlone(both, hook ? /booted .* as Db01/ : /changed since its proof/);
        assert.equal(await sums(), booted, 'an image of it was touched');

        const rows = await images();
        assert.ok(rows.some(({ server, sequence, state }) => server === SERVER && sequence === 1 && state === 'modified'), JSON.stringify(rows));
        await stage.head.run('dr', ['release', SERVER, '--config', await stage.configure(both)]);
        const { status, said } = await stage.run(both);
        assert.equal(status, 0, said);
        remembered = new Map(); // what he changed is no copy any more
        await remember(stage, remembered);
        await stage.runsWell(LIVE, remembered);
      });
    }

    it('the hook refuses to boot what is being written', async () => {
      const run = await standing();
      await stage.target.run('sh', ['-c', `sed "s|<source file='[^']*Db01_\\([01]\\)'|<source file='${STORE}/Db01_Db01_\\1_incomplete.raw'|" /shared/definitions/${SERVER}.xml > /root/incomplete.xml`]);
      assert.match(await stage.target.readFile('/root/incomplete.xml'), /_incomplete\.raw/);
      await assert.rejects(stage.target.run('virsh', ['create', '/root/incomplete.xml']), /is being written/);
      await go(stage.node);
      const { status, said } = await ended(run);
      assert.equal(status, 0, said);
      await remember(stage, remembered);
    });

    async function installHook(): Promise<void> {
      await stage.target.writeFile(HOOK, await readFile(join(CHECKOUT, 'hooks/libvirt-qemu'), 'utf8'), 0o755);
      await stage.target.boot(); // libvirt looks for hooks when it starts
    }

    async function images(): Promise<ImageRow[]> {
      return JSON.parse((await stage.head.run('dr', ['images', '--json', '--config', await stage.configure(both)])).stdout) as ImageRow[];
    }

    async function refusedAlone(form: StageJob, why: RegExp): Promise<void> {
      const { status, report, server, said } = await stage.run(form);
      assert.equal(status, 3, said);
      assert.equal(report.outcome, 'partial', said);
      assert.equal(server.name, SERVER);
      assert.equal(server.outcome, 'refused', said);
      assert.match(server.error?.message ?? '', why);
      if (server.error?.code === 'image-modified') assert.match(server.error.hint, /dr release Db01/);
      assert.equal(report.servers?.[1]?.outcome, 'ok', said);
      await assertProduction(stage);
    }

    async function sums(): Promise<string> {
      return (await stage.target.run('sh', ['-c', `cd ${STORE} && b2sum ${SERVER}_* && ls -i ${SERVER}_*`])).stdout;
    }
  });

  it('the same job twice on one head: the second says that it is running already', async () => {
    const first = await standing();
    const second = await stage.run(LIVE);
    assert.equal(second.status, 5, second.said);
    assert.match(second.said, /running already/);
    await go(stage.node);
    assert.equal((await ended(first)).status, 0);
    await remember(stage, remembered);
    await stage.assertPromises(remembered, 2);
  });

  it('two heads at once: one wins, the other is refused, and nothing is broken', async () => {
    const strangers = await sumOfStrangers(stage);
    const first = await standing();
    const second = await stage.run(LIVE, stage.spare);
    assert.equal(second.status, 4, second.said);
    assert.ok(['locked', 'image-in-use'].includes(second.server.error?.code ?? ''), second.said);
    await go(stage.node);
    const { status, said } = await ended(first);
    assert.equal(status, 0, said);
    await remember(stage, remembered);

    // And in the same moment.
    await stage.dirty(8);
    const [one, other] = await Promise.all([stage.run(LIVE, stage.head), stage.run(LIVE, stage.spare)]);
    assert.ok([one, other].some((ran) => ran.status === 0), `${one.said}\n${other.said}`);
    assert.ok([one, other].every((ran) => ran.status === 0 || ran.status === 4), `${one.said}\n${other.said}`);
    await remember(stage, remembered);
    await stage.assertPromises(remembered, 3);
    assert.equal(await sumOfStrangers(stage), strangers);
  });

  it('a second Anvil with a server of the same name is refused, and touches nothing', async () => {
    const theirs = await stage.lab.addGuest(SPARE, { name: SERVER });
    const before = await everything();
    const { status, server, said } = await stage.run({ ...COLD, anvil: { name: 'an-b01', nodes: [SPARE] } });
    assert.equal(status, 4, said);
    assert.equal(server.error?.code, 'foreign-image', said);
    assert.match(server.error.message, /an-a01/);
    assert.equal(await theirs.state(), 'running');
    assert.equal(await everything(), before);
    await theirs.destroy();
    await stage.spare.run('virsh', ['undefine', SERVER]);
    await assertProduction(stage);
    await assertNoTwin(stage);
    await stage.runsWell(LIVE, remembered);
  });

  /** A run in the middle of sending, which goes on when it is told to. */
  async function standing(): Promise<Started> {
    await stage.dirty(8);
    await stopAt(stage.node, 'send-after-block', 3);
    const run = await stage.start(LIVE);
    await reached(stage.node, 90_000);
    return run;
  }

  /** Every name, inode, identity and byte of the store, its definitions and its links. */
  async function everything(): Promise<string> {
    return (await stage.target.run('sh', ['-c', `cd ${STORE} && ls -laiR --time-style=full-iso . && getfattr -d -R . 2>/dev/null; b2sum *.raw; ls -laR --time-style=full-iso /shared; cat /shared/definitions/*`])).stdout;
  }

  /** Somebody else takes all the space that is left. */
  async function fill(): Promise<void> {
    // The last blocks are for small files only.
    await stage.target.run('sh', ['-c', `mkdir -p ${STORE}/somebody-elses; cd ${STORE}/somebody-elses; cat /dev/zero > large 2> /dev/null; sync -f .; `
      + 'for i in $(seq 300); do echo x > small.$i; sync -f .; [ "$(stat -f -c %a .)" != 0 ] || break; done 2> /dev/null']);
    assert.equal((await stage.target.run('stat', ['-f', '-c', '%a', STORE])).stdout.trim(), '0');
  }

  async function empty(): Promise<void> {
    await stage.target.run('rm', ['-rf', `${STORE}/somebody-elses`]);
  }
});

