import type { Command } from 'commander';
import { checkServersOfAny } from '../config/lookup.js';
import { ERRORS } from '../model/errors.js';
import type { VerifyRow } from '../model/views.js';
import { count } from './format.js';
import { printJson, problems, type Invocation, type Wrap } from './invocation.js';
import { displaying } from './run.js';
import { table } from './table.js';
import { say } from './tell.js';
import type { Colour, Terminal } from './terminal.js';

export function addVerify(program: Command, wrap: Wrap): void {
  program.command('verify')
    .description('read images again and compare them with their manifests')
    .argument('[server...]', 'only these servers')
    .option('--adopt', 'bind images again that were moved by hand and whose digests match')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', '\nExamples:\n  dr verify\n  dr verify Web01 --adopt\n\nExit status: 0 all are as they were proven; 1 some are not; 3 some target could\nnot be asked.')
    .action(wrap(verify));
}

async function verify(invocation: Invocation, servers: readonly string[], flags: { readonly adopt?: boolean }): Promise<number> {
  const { terminal, signal } = invocation;
  const config = await invocation.config();
  checkServersOfAny(config, servers);
  const head = await invocation.head();
  const unasked = problems(invocation);
  const rows = await displaying(invocation, (display) => head.verifyImages(config, [...new Set(servers)], {
    adopt: flags.adopt === true, signal, onProgress: (event) => { display.show(event); }, onProblem: unasked.note,
  }));
  if (invocation.json) printJson(terminal, rows);
  else showResults(terminal, rows);
  return rows.some((row) => row.outcome === 'damaged' || row.outcome === 'unproven') ? ERRORS['verify-failed'] : unasked.exitStatus();
}

const COLOURS: Readonly<Record<VerifyRow['outcome'], Colour>> = { ok: 'green', damaged: 'red', unproven: 'red', 'in-use': 'yellow', modified: 'yellow' };

function showResults(terminal: Terminal, rows: readonly VerifyRow[]): void {
  if (rows.length === 0) {
    terminal.out('There are no images to verify.\n');
    return;
  }
  terminal.out(table(terminal, [{ head: 'target', cut: 'middle' }, { head: 'image', cut: 'middle' }, { head: 'result' }, { head: 'detail', cut: 'end' }],
    rows.map((row) => [row.target, row.name, { text: row.outcome, colour: COLOURS[row.outcome] }, row.detail])));
  const bad = rows.filter((row) => row.outcome === 'damaged' || row.outcome === 'unproven').length;
  const unread = rows.filter((row) => row.outcome === 'in-use').length;
  say(terminal, `${count(rows.length - unread, 'image')} read: ${bad === 0 ? 'nothing is damaged.' : `${String(bad)} not as proven. The next run does not recycle them; older sets are untouched.`}${
    unread === 0 ? '' : ` ${String(unread)} not read, being in use.`}`);
}
