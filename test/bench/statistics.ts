/** What is made of several runs. Pure. */

/** The middle value; of an even number the mean of the two in the middle. Throws if there is none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const [low, high] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted[Math.floor(sorted.length / 2)]];
  if (low === undefined || high === undefined) throw new Error('there is no median of nothing');
  return (low + high) / 2;
}

/** One run of one contender. */
export interface Run {
  readonly seconds: number;
  /** Of all processes on both hosts that took part; undefined where it can't be known. */
  readonly cpuSeconds?: number;
  /** What left the sending host, in bytes, all wrapping included. */
  readonly wireBytes: number;
  /** Largest resident memory of each kind of process, in bytes. */
  readonly peaks: Readonly<Record<string, number>>;
}

/** All runs of one contender, in brief. */
export interface Summary {
  readonly runs: number;
  readonly seconds: number;
  readonly least: number;
  readonly most: number;
  readonly cpuSeconds?: number;
  readonly wireBytes: number;
  readonly peaks: Readonly<Record<string, number>>;
}

/** Medians; of memory the largest. */
export function summarise(runs: readonly Run[]): Summary {
  const seconds = runs.map((run) => run.seconds);
  const cpu = runs.flatMap((run) => run.cpuSeconds ?? []);
  const peaks: Record<string, number> = {};
  for (const run of runs) for (const [kind, bytes] of Object.entries(run.peaks)) peaks[kind] = Math.max(peaks[kind] ?? 0, bytes);
  return {
    runs: runs.length, seconds: median(seconds), least: Math.min(...seconds), most: Math.max(...seconds),
    ...(cpu.length === 0 ? {} : { cpuSeconds: median(cpu) }), wireBytes: median(runs.map((run) => run.wireBytes)), peaks,
  };
}
