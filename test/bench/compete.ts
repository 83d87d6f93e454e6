import { run } from '../../src/system/run.js';
import type { Contender } from './contenders/contender.js';
import type { Disk, Ground } from './ground.js';
import { summarise, type Run } from './statistics.js';
import type { Row } from './table.js';

/** One row of the table: all contenders copy the same disk, in turn, as often as asked. */
export interface Contest {
  readonly name: string;
  readonly what: string;
  readonly disk: Disk;
  readonly contenders: readonly Contender[];
  /** Names of the limits that the row is held against. */
  readonly limits: readonly string[];
  /** Every copy is a first one; otherwise all have copied the disk before. */
  readonly first: boolean;
  /** Happens to the disk before each round. */
  readonly before?: (round: number) => Promise<void>;
}

/** Throws if a copy is not what it should be: who copies nothing is soon done. */
export async function compete(ground: Ground, contest: Contest, rounds: number, say: (text: string) => void): Promise<Row> {
  const { disk } = contest;
  const runs = new Map<Contender, Run[]>();
  for (let round = 0; round < rounds; round++) {
    await contest.before?.(round);
    // Nobody always comes first, or always after the same one.
    const order = contest.contenders.map((_, index, all) => all[(index + round) % all.length]).filter((one) => one !== undefined);
    for (const contender of order) {
      if (contest.first) await contender.forget(disk);
      await ground.dropCaches(disk);
      const measured = await ground.measure(() => contender.run(disk), contender.kind !== 'ours');
      runs.set(contender, [...runs.get(contender) ?? [], measured]);
      say(`${contest.name} ${String(round + 1)}/${String(rounds)}: ${contender.name} ${measured.seconds.toFixed(2)} s`);
    }
  }
  for (const { name, copy } of contest.contenders) {
    if (copy !== undefined && !await ground.isCopy(disk, copy)) throw new Error(`${contest.name}: what ${name} made is no copy`);
  }
  return {
    name: contest.name, what: contest.what, limits: contest.limits, notes: [...new Set(contest.contenders.flatMap(({ note }) => note ?? []))],
    entries: contest.contenders.map((contender) => ({ name: contender.name, kind: contender.kind, ...summarise(runs.get(contender) ?? []) })),
  };
}

/** Those whose programs are here; of the others, a note each. */
export async function present(contenders: readonly Contender[]): Promise<{ readonly here: readonly Contender[]; readonly notes: readonly string[] }> {
  const here: Contender[] = [];
  const notes: string[] = [];
  for (const contender of contenders) {
    const found = contender.needs === undefined ? 0 : (await run('sh', ['-c', 'command -v "$1"', 'sh', contender.needs], { okExit: [0, 1, 127] })).exitCode;
    if (found === 0) here.push(contender);
    else notes.push(`${contender.name} is not installed, and left out.`);
  }
  return { here, notes };
}
