import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { checkServersOfAny, targetNamed } from '../config/lookup.js';
import { DrError } from '../model/errors.js';
import type { DefinitionRow } from '../model/views.js';
import { plain } from './format.js';
import { orCancelled, printJson, problems, type Invocation, type Wrap } from './invocation.js';
import { table } from './table.js';
import { paint, type Colour, type Terminal } from './terminal.js';

export function addDefinitions(program: Command, wrap: Wrap): void {
  const definitions = program.command('definitions')
    .description('show the definitions on the targets and how they differ from their sources')
    .option('--json', 'print them as JSON')
    .addHelpText('after', `
Nothing is applied: a definition that exists is the admin's.

Examples:
  dr definitions
  dr definitions preview --file Web01.xml --server Web01 --target dr01`)
    .action(wrap(report));
  definitions.command('preview')
    .description('print what would be published for a domain XML')
    .requiredOption('-f, --file <file>', 'domain XML as virsh dumpxml prints it; - is standard input')
    .requiredOption('-s, --server <name>', 'the server it is for')
    .requiredOption('-t, --target <name>', 'the target it would be published on')
    .addHelpText('after', '\nExample:\n  virsh dumpxml --inactive Web01 > Web01.xml\n  dr definitions preview --file Web01.xml --server Web01 --target dr01')
    .action(wrap(preview));
}

async function report(invocation: Invocation): Promise<number> {
  const { terminal, signal } = invocation;
  const config = await invocation.config();
  const head = await invocation.head();
  const unasked = problems(invocation);
  const rows = await orCancelled(signal, head.definitionsReport(config, { signal, onProblem: unasked.note }));
  if (invocation.json) printJson(terminal, rows);
  else showDefinitions(terminal, rows);
  return unasked.exitStatus();
}

async function preview(invocation: Invocation, flags: { readonly file: string; readonly server: string; readonly target: string }): Promise<number> {
  const config = await invocation.config();
  checkServersOfAny(config, [flags.server]);
  targetNamed(config, flags.target);
  const xml = await readXml(flags.file);
  const head = await invocation.head();
  const published = await head.previewDefinition(config, { xml, server: flags.server, target: flags.target });
  invocation.terminal.out(published.endsWith('\n') ? published : `${published}\n`);
  return 0;
}

async function readXml(file: string): Promise<string> {
  try {
    return await readFile(file === '-' ? '/dev/stdin' : file, 'utf8');
  } catch (error) {
    throw new DrError('usage', `the domain XML can't be read: ${error instanceof Error ? error.message : String(error)}`,
      'Name a readable file with --file, or - for standard input.', { cause: error });
  }
}

const COLOURS: Readonly<Record<DefinitionRow['state'], Colour>> = { fits: 'green', drifted: 'yellow', missing: 'yellow', orphan: 'dim', unknown: 'yellow' };

function showDefinitions(terminal: Terminal, rows: readonly DefinitionRow[]): void {
  if (rows.length === 0) {
    terminal.out('There are no definitions yet. The first dr run JOB publishes them.\n');
    return;
  }
  terminal.out(table(terminal, [{ head: 'target', cut: 'middle' }, { head: 'server', cut: 'middle' }, { head: 'state' }, { head: 'definition', cut: 'middle' }],
    rows.map((row) => [row.target, row.server, { text: row.state, colour: COLOURS[row.state] }, row.path])));
  for (const row of rows) {
    if (row.difference.length === 0) continue;
    terminal.out(`\n${row.server} on ${row.target}:\n`);
    for (const line of row.difference) {
      const colour = line.startsWith('+') ? 'green' : line.startsWith('-') ? 'red' : undefined;
      terminal.out(`  ${paint(terminal.outColour, colour, plain(line))}\n`);
    }
  }
}
