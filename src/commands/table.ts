import Table from 'cli-table3';
import { plain } from './format.js';
import { paint, type Colour, type Terminal } from './terminal.js';

export interface Column {
  readonly head: string;
  readonly right?: boolean;
  /** May be cut when the table is too wide for the terminal: at its end, or in the middle, where names differ least. */
  readonly cut?: 'end' | 'middle';
}

export type Cell = string | { readonly text: string; readonly colour: Colour | undefined };

const GAP = 2;
/** Narrower than this no column is made. */
const LEAST = 8;

/** A table without lines, for stdout: as wide as it needs on a pipe, cut to the terminal's width on a terminal. */
export function table(terminal: Terminal, columns: readonly Column[], rows: readonly (readonly Cell[])[]): string {
  const texts = rows.map((row) => columns.map((_, index) => plain(textOf(row[index]))));
  const widths = fit(columns, columns.map((column, index) => Math.max(column.head.length, ...texts.map((row) => row[index]?.length ?? 0))), terminal.columns);
  const grid = new Table({
    chars: { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '',
      left: '', 'left-mid': '', mid: '', 'mid-mid': '', right: '', 'right-mid': '', middle: ' '.repeat(GAP) },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
    colAligns: columns.map((column) => column.right === true ? 'right' : 'left'),
  });
  grid.push(columns.map((column) => paint(terminal.outColour, 'bold', column.head.toUpperCase())));
  for (const [at, row] of rows.entries()) {
    grid.push(columns.map((column, index) => {
      const cell = row[index];
      const short = cut(texts[at]?.[index] ?? '', widths[index] ?? 0, column.cut ?? 'end');
      return paint(terminal.outColour, typeof cell === 'object' ? cell.colour : undefined, short);
    }));
  }
  return grid.toString().split('\n').map((line) => `${line.trimEnd()}\n`).join('');
}

function textOf(cell: Cell | undefined): string {
  return typeof cell === 'string' ? cell : cell?.text ?? '';
}

/** Takes what is too much from the widest of the columns that may be cut. */
function fit(columns: readonly Column[], natural: readonly number[], width: number | undefined): readonly number[] {
  const widths = [...natural];
  let surplus = width === undefined ? 0 : widths.reduce((sum, one) => sum + one, 0) + GAP * (columns.length - 1) - width;
  for (; surplus > 0; surplus--) {
    const widest = columns.reduce<number | undefined>((best, column, index) =>
      column.cut !== undefined && (widths[index] ?? 0) > LEAST && (best === undefined || (widths[index] ?? 0) > (widths[best] ?? 0)) ? index : best, undefined);
    if (widest === undefined) break;
    widths[widest] = (widths[widest] ?? 0) - 1;
  }
  return widths;
}

/** `Web01_database_incomplete` → `Web01_da…complete` */
export function cut(text: string, width: number, where: 'end' | 'middle'): string {
  if (text.length <= width) return text;
  if (where === 'end') return `${text.slice(0, Math.max(0, width - 1))}…`;
  const tail = Math.floor((width - 1) / 2);
  return `${text.slice(0, width - 1 - tail)}…${text.slice(text.length - tail)}`;
}
