import { compete, type Contest } from './compete.js';
import type { Contender, Part } from './contenders/contender.js';
import { MIB, type Disk, type Ground } from './ground.js';
import type { Dr } from './contenders/dr.js';
import type { Row } from './table.js';

/** The rows of copies. */

export interface Bench {
  readonly ground: Ground;
  readonly dr: Dr;
  /** Ours, told what changed: for disks that were copied before. */
  readonly told: Dr;
  /** Ours, over two ssh connections. */
  readonly wide: Dr;
  readonly limits: readonly Contender[];
  readonly peers: readonly Contender[];
  readonly runs: number;
  readonly mebibytes: number;
  readonly say: (text: string) => void;
}

export const COPY_ROWS = ['full', 'holes', 'unchanged', 'random', 'sequential', 'slow'] as const;
export type CopyRow = typeof COPY_ROWS[number];

const PARTS = ['reading alone', 'hashing alone', 'ssh alone', 'writing alone', 'all parts at once'];
const LOOKING = ['reading and hashing'];
/** Where most blocks differ in a few parts, what is there must be read and hashed, too. */
const LOOKING_TWICE = ['that twice, at once'];
/** Who would make the whole copy again is measured once, as a first copy. */
const AGAIN = new Set([...LOOKING, ...LOOKING_TWICE, 'dd | ssh | dd', 'rsync --inplace', 'restic', 'borg', 'virtnbdbackup']);
const SLOW = { rate: '100mbit', roundTripMs: 20 };

/** Gives each row as soon as it is measured. */
export async function* copyRows(bench: Bench, wanted: ReadonlySet<CopyRow>): AsyncGenerator<Row> {
  const { ground, mebibytes, say } = bench;
  const contest = (one: Contest): Promise<Row> => compete(ground, one, bench.runs, say);
  const everybody: readonly Contender[] = [...bench.limits, bench.dr, ...bench.peers];
  const forget = async (disk: Disk): Promise<void> => { for (const each of everybody) await each.forget(disk); };

  if (wanted.has('holes')) {
    const disk = await ground.disk('holes.raw', mebibytes, (index) => index % 10 < 3);
    yield await contest({ name: 'holes', what: `first copy of ${String(mebibytes)} MiB, 70 % of it holes`, disk, contenders: everybody, limits: [], first: true });
    await forget(disk);
  }
  if (['full', 'unchanged', 'random', 'sequential'].some((name) => wanted.has(name as CopyRow))) {
    const disk = await ground.disk('full.raw', mebibytes, () => true);
    const { told } = bench;
    const again = [...everybody.filter(({ name, kind }) => kind === 'ours' || AGAIN.has(name)), told];
    if (wanted.has('full')) yield await contest({ name: 'full', what: `first copy of ${String(mebibytes)} MiB that can't be compressed`, disk, contenders: [...everybody, bench.wide], limits: PARTS, first: true });
    await bench.wide.forget(disk);
    for (const each of wanted.has('full') ? [told] : again) {
      await each.forget(disk);
      await each.run(disk);
    }
    const change = (choose: () => readonly Part[]) => async (): Promise<void> => {
      const parts = choose();
      await ground.change(disk, parts);
      for (const each of again) await each.changed?.(parts);
    };
    if (wanted.has('unchanged')) yield await contest({ name: 'unchanged', what: `${String(mebibytes)} MiB again, nothing changed`, disk, contenders: again, limits: LOOKING, first: false });
    if (wanted.has('random')) {
      yield await contest({ name: 'random', what: '1 % changed by writes of 4 KiB anywhere', disk, contenders: again, limits: LOOKING_TWICE, first: false, before: change(() => scattered(disk)) });
    }
    if (wanted.has('sequential')) {
      yield await contest({ name: 'sequential', what: '1 % changed in one piece', disk, contenders: again, limits: LOOKING, first: false, before: change(() => inOnePiece(disk)) });
    }
    await forget(disk);
    await told.forget(disk);
  }
  if (wanted.has('slow')) {
    const small = Math.min(64, mebibytes);
    const disk = await ground.disk('slow.raw', small, () => true);
    const some = [bench.dr, ...bench.peers.filter(({ name }) => ['dd | ssh | dd', 'rsync --inplace'].includes(name))];
    await ground.link(SLOW);
    yield await contest({
      name: 'slow', what: `first copy of ${String(small)} MiB over 100 Mbit/s and 20 ms`, disk, first: true, limits: ['ssh alone'],
      contenders: [...bench.limits.filter(({ name }) => name === 'ssh alone'), ...some],
    });
    yield await contest({
      name: 'slow, changed', what: 'over that link, 1 % changed by writes of 4 KiB anywhere', disk, first: false, limits: LOOKING,
      contenders: [...bench.limits.filter(({ name }) => LOOKING.includes(name)), ...some], before: async () => { await ground.change(disk, scattered(disk)); },
    });
    await ground.link(undefined);
    await forget(disk);
  }
}

/** Writes of 4 KiB at random places, 1 % of the disk in all. */
function scattered({ bytes }: Disk): readonly Part[] {
  const page = 4096;
  return Array.from({ length: Math.floor(bytes / 100 / page) }, () => [Math.floor(Math.random() * (bytes / page)) * page, page] as const);
}

function inOnePiece({ bytes }: Disk): readonly Part[] {
  const length = Math.max(1, Math.round(bytes / 100 / MIB)) * MIB;
  return [[Math.floor(Math.random() * ((bytes - length) / MIB)) * MIB, length]];
}
