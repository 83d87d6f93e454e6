import assert from 'node:assert/strict';
import { run } from '../../src/system/run.js';
import { freshGroups, onlyInVm, soil } from './ground.js';

describe('the ground of tests with logical volumes', function () {
  this.timeout(120_000);
  before(function () { onlyInVm(this); });

  it('has a device-mapper of its own: volumes, snapshots, thin pools, and old data in what is new', async () => {
    await freshGroups({});
    await soil(0, 64);
    await freshGroups({ ground_a: [0], ground_b: [1, 2] });
    await run('lvcreate', ['--quiet', '--yes', '--name', 'plain', '--size', '32M', 'ground_a']);
    await run('lvcreate', ['--quiet', '--yes', '--snapshot', '--name', 'before', '--size', '8M', 'ground_a/plain']);
    await run('lvcreate', ['--quiet', '--yes', '--type', 'thin-pool', '--name', 'pool', '--size', '64M', 'ground_b'], { timeoutMs: 60_000 });
    await run('lvcreate', ['--quiet', '--yes', '--thin', '--name', 'thin', '--virtualsize', '128M', 'ground_b/pool']);
    const { stdout } = await run('lvs', ['--noheadings', '--separator', ' ', '--options', 'vg_name,lv_name,segtype,lv_active']);
    assert.deepEqual(stdout.trim().split('\n').map((line) => line.trim()).sort(),
      ['ground_a before linear active', 'ground_a plain linear active', 'ground_b pool thin-pool active', 'ground_b thin thin active']);
    const old = await run('sh', ['-c', 'dd if=/dev/ground_a/plain bs=1M skip=8 count=1 iflag=direct status=none | tr -d Z | wc -c']);
    assert.equal(old.stdout.trim(), '0', 'a new plain volume holds what lay there');
  });
});
