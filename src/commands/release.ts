import type { Command } from 'commander';
import { checkServersOfAny, targetNamed } from '../config/lookup.js';
import { printJson, problems, type Invocation, type Wrap } from './invocation.js';

export function addRelease(program: Command, wrap: Wrap): void {
  program.command('release')
    .description('let jobs use the images of a server again that was booted on a target')
    .argument('<server>', 'a server of the configuration')
    .option('-t, --target <name>', 'only on this target')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', `
What the booted copy wrote since is given up: its image set may be overwritten
by the next runs.

Example:
  dr release Web01 --target dr01`)
    .action(wrap(release));
}

async function release(invocation: Invocation, server: string, flags: { readonly target?: string }): Promise<number> {
  const { terminal, signal } = invocation;
  const config = await invocation.config();
  checkServersOfAny(config, [server]);
  if (flags.target !== undefined) targetNamed(config, flags.target);
  const head = await invocation.head();
  const unasked = problems(invocation);
  const rows = await head.releaseServer(config, server, { signal, onProblem: unasked.note, ...(flags.target === undefined ? {} : { target: flags.target }) });
  if (invocation.json) printJson(terminal, rows);
  else for (const row of rows) terminal.out(`${row.target}: ${row.released ? `${row.server} is released; jobs use its images again.` : `${row.server} was not marked as booted.`}\n`);
  return unasked.exitStatus();
}
