import type { Command } from 'commander';
import { targetNamed } from '../config/lookup.js';
import type { ImageRow } from '../model/report.js';
import { age, bytes, moment } from './format.js';
import { orCancelled, printJson, problems, type Invocation, type Wrap } from './invocation.js';
import { table } from './table.js';
import type { Colour, Terminal } from './terminal.js';

export function addImages(program: Command, wrap: Wrap): void {
  program.command('images')
    .description('list the images and image sets on the targets')
    .option('-t, --target <name>', 'only this target')
    .option('--json', 'print the images as JSON')
    .addHelpText('after', '\nExamples:\n  dr images\n  dr images --target dr01 --json\n\nSequence 1 is the newest complete set.\n\nExit status: 0; 3 if some target could not be asked.')
    .action(wrap(images));
}

async function images(invocation: Invocation, flags: { readonly target?: string }): Promise<number> {
  const { terminal, signal } = invocation;
  const config = await invocation.config();
  if (flags.target !== undefined) targetNamed(config, flags.target);
  const head = await invocation.head();
  const unasked = problems(invocation);
  const rows = await orCancelled(signal, head.listImages(config, flags.target, { signal, onProblem: unasked.note }));
  if (invocation.json) printJson(terminal, rows);
  else showImages(terminal, rows, new Date());
  return unasked.exitStatus();
}

const COLOURS: Readonly<Record<ImageRow['state'], Colour>> = { complete: 'green', incomplete: 'yellow', unproven: 'yellow', modified: 'yellow', damaged: 'red' };

function showImages(terminal: Terminal, rows: readonly ImageRow[], now: Date): void {
  if (rows.length === 0) {
    terminal.out('No images yet. The first dr run JOB makes them.\n');
    return;
  }
  const used = rows.some((row) => row.in_use !== null);
  terminal.out(table(terminal, [
    { head: 'target', cut: 'middle' }, { head: 'image', cut: 'middle' }, { head: 'state' }, { head: 'size', right: true },
    { head: 'captured' }, { head: 'age', right: true }, ...(used ? [{ head: 'in use by', cut: 'end' as const }] : []),
  ], rows.map((row) => [
    row.target, row.name, { text: row.state, colour: COLOURS[row.state] }, bytes(row.bytes),
    moment(row.captured_at), row.captured_at === null ? '-' : age(now.getTime() - Date.parse(row.captured_at)), row.in_use ?? '',
  ])));
}
