import type { Dr } from './contenders/dr.js';
import { MIB, type Ground } from './ground.js';
import { summarise, type Run } from './statistics.js';
import type { Row } from './table.js';

const TIB_IN_MIB = 2 ** 20;

/** An almost empty disk of 8 TiB: how long, and how much memory, whatever the number of blocks. */
export async function sparseRow(ground: Ground, dr: Dr, runs: number, say: (text: string) => void): Promise<Row> {
  const disk = await ground.disk('sparse.raw', 1, () => false);
  const huge = { ...disk, bytes: 8 * TIB_IN_MIB * MIB };
  await ground.node.run('truncate', ['-s', String(huge.bytes), huge.path]);
  await ground.change(huge, Array.from({ length: 64 }, (_, index) => [index * 100_003 * MIB, MIB] as const));
  const first: Run[] = [];
  const again: Run[] = [];
  for (let round = 0; round < Math.min(runs, 2); round++) {
    await dr.forget(huge);
    for (const [kind, list] of [['first', first], ['again', again]] as const) {
      await ground.dropCaches(disk);
      const measured = await ground.measure(() => dr.run(huge), false);
      list.push(measured);
      say(`sparse, ${kind}: ${measured.seconds.toFixed(2)} s`);
    }
  }
  await dr.forget({ ...disk, bytes: 0 });
  return {
    name: 'sparse', what: 'a disk of 8 TiB with 64 MiB of data in it', limits: [], notes: [],
    entries: [{ name: 'dr-engine, first copy', kind: 'ours', ...summarise(first) }, { name: 'dr-engine, unchanged', kind: 'ours', ...summarise(again) }],
  };
}
