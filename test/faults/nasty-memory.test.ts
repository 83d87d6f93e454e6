import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { Lab } from '../lab/lab.js';
import { killRole, roleOf } from '../lab/roles.js';
import { skipBecause } from '../support/skip.js';
import { HEAD, NODE, TARGET } from './ground.js';
import { ended, Stage, type StageJob } from './stage.js';

/** Memory does not grow with the disk. */

const LAB = 'nasty-memory';
const MOST_MIB = 300;
const FORM: StageJob = { capture: 'live', copies: 2, anvil: { name: 'an-a01', nodes: [NODE] } };

describe('an 8 GiB disk', function () {
  this.timeout(300_000);
  let stage: Stage;
  /** The highest peak seen of each kind of process, in MiB. */
  const peaks = new Map<string, number>();

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    stage = await Stage.up(LAB, { hosts: [NODE, TARGET, HEAD], store: { sizeMiB: 20 * 1024 }, disks: [{}, { sizeMiB: 8192 }] });
    for (const gibibyte of [1, 3, 5, 7]) await stage.dirty(24, gibibyte * 1024);
  });
  after(async () => {
    for (const [role, peak] of [...peaks].sort(([, a], [, b]) => b - a)) console.log(`      ${role.padEnd(16)} ${String(Math.round(peak))} MiB at most`);
    await Lab.down(LAB);
  });

  it('is imaged into new images and into recycled ones, and read again after a death, with bounded memory', async () => {
    const watch = setInterval(() => { void look(); }, 100);
    try {
      for (let run = 0; run < 3; run++) {
        const { status, said } = await stage.run(FORM);
        assert.equal(status, 0, said);
        await stage.dirty(24, 2048);
      }
      const dies = await stage.start({ ...FORM, target: { bandwidth_limit: '2MiB/s' } });
      await stage.sending(3);
      await killRole(stage.target, 'data');
      const { status, server, said } = await ended(dies); // it goes on: what is there is read, all of it
      assert.equal(status, 0, said);
      assert.match(server.notes?.join('\n') ?? '', /is tried again/);
      assert.equal(server.images?.[1]?.bytes, 8 * 2 ** 30);
    } finally {
      clearInterval(watch);
    }
    for (const role of ['head', 'agent', 'data', 'storage-daemon']) {
      const peak = peaks.get(role);
      assert.ok(peak !== undefined, `no ${role} was seen`);
      assert.ok(peak < MOST_MIB, `a ${role} took ${String(Math.round(peak))} MiB`);
    }
  });

  async function look(): Promise<void> {
    for (const host of [stage.node, stage.target, stage.head]) {
      for (const { pid, argv } of await host.processes()) {
        const role = roleOf(argv);
        if (!['head', 'agent', 'data', 'guard', 'storage-daemon'].includes(role)) continue;
        const peak = Number(/^VmHWM:\s+(\d+) kB/m.exec(await readFile(`/proc/${String(pid)}/status`, 'utf8').catch(() => ''))?.[1] ?? '0') / 1024; // it has just ended
        peaks.set(role, Math.max(peaks.get(role) ?? 0, peak));
      }
    }
  }
});
