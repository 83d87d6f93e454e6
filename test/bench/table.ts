import type { Summary } from './statistics.js';

/** What the bench found, as people and programs read it. Pure. */

export interface Entry extends Summary {
  readonly name: string;
  /** `limit`: a part of the work alone, which nobody who does all of it can beat. */
  readonly kind: 'limit' | 'ours' | 'peer';
}

export interface Row {
  readonly name: string;
  /** What is done, and to how much data. */
  readonly what: string;
  readonly entries: readonly Entry[];
  /** The entries of kind `limit` that this row is held against: the slowest of them counts. */
  readonly limits: readonly string[];
  /** What was left out, and why. */
  readonly notes: readonly string[];
}

const MIB = 2 ** 20;
const WIDTHS = [25, 8, 13, 7, 6, 8, 6, 6] as const;
const HEAD = ['', 'seconds', 'least-most', 'x ours', 'limit', 'MiB', 'CPU s', 'RSS'] as const;

/** The slowest of the parts that the row is held against. */
export function limitOf(row: Row): Entry | undefined {
  return row.entries.filter(({ kind, name }) => kind === 'limit' && row.limits.includes(name)).sort((a, b) => b.seconds - a.seconds)[0];
}

/**
 * 80 columns. `x ours`: how many times our time it took; `limit`: the slowest part's time over this one's, 1 is the best there can be; `MiB` on the
 * wire; `RSS`: the largest resident memory of one process, in MiB. The slowest part is marked.
 */
export function table(rows: readonly Row[]): string {
  return `${[line(HEAD), ...rows.flatMap(lines)].join('\n')}\n`;
}

function lines(row: Row): readonly string[] {
  const ours = row.entries.find(({ kind }) => kind === 'ours');
  const limit = limitOf(row);
  return [
    '', `${row.name}: ${row.what}`,
    ...row.entries.map((entry) => line([
      `  ${entry.name}${entry === limit ? ' <' : ''}`, entry.seconds.toFixed(2), `${entry.least.toFixed(2)}-${entry.most.toFixed(2)}`,
      ours === undefined || entry === ours || entry.kind === 'limit' ? '' : (entry.seconds / ours.seconds).toFixed(2),
      limit === undefined || entry.kind === 'limit' ? '' : (limit.seconds / entry.seconds).toFixed(2),
      (entry.wireBytes / MIB).toFixed(entry.wireBytes < 100 * MIB ? 1 : 0), entry.cpuSeconds?.toFixed(1) ?? '',
      (Math.max(0, ...Object.values(entry.peaks)) / MIB).toFixed(0),
    ])),
    ...row.entries.filter(({ kind, peaks }) => kind === 'ours' && Object.keys(peaks).length > 0).slice(0, 1).map(({ peaks }) => `  memory: ${Object.entries(peaks).map(([kind, bytes]) => `${kind} ${(bytes / MIB).toFixed(0)}`).join(', ')} MiB`),
    ...row.notes.map((note) => `  ${note}`),
  ].flatMap((text) => fold(text));
}

function line(cells: readonly string[]): string {
  return cells.map((cell, index) => index === 0 ? cell.padEnd(WIDTHS[0]) : cell.padStart(WIDTHS[index] ?? 0)).join('').trimEnd();
}

function fold(text: string): readonly string[] {
  if (text.length <= 80) return [text];
  const at = text.lastIndexOf(' ', 80);
  return [text.slice(0, at), ...fold(`    ${text.slice(at + 1)}`)];
}
