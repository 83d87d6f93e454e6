import type { Command } from 'commander';
import { checkServersOfJob, resolveJob } from '../config/lookup.js';
import { printJson, type Invocation, type Wrap } from './invocation.js';

export function addCancel(program: Command, wrap: Wrap): void {
  program.command('cancel')
    .description('stop a running job cleanly, or free one server of it')
    .argument('<job>', 'a job of the configuration')
    .option('-s, --server <name>', 'only this server; the rest of the job goes on')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', '\nExamples:\n  dr cancel web\n  dr cancel web --server Web01\n\nExit status: 0, also if the job was not running.')
    .action(wrap(cancel));
}

async function cancel(invocation: Invocation, jobName: string, flags: { readonly server?: string }): Promise<number> {
  const { terminal, signal } = invocation;
  const config = await invocation.config();
  checkServersOfJob(resolveJob(config, jobName).job, flags.server === undefined ? [] : [flags.server]);
  const head = await invocation.head();
  const report = await head.cancelJob(config, jobName, { signal, ...(flags.server === undefined ? {} : { server: flags.server }) });
  if (invocation.json) printJson(terminal, report);
  else if (report.outcome === 'not-running') terminal.out(`Job ${jobName} is not running; there was nothing to cancel.\n`);
  else terminal.out(report.server === null ? `Job ${jobName} was cancelled.\n` : `Server ${report.server} is free; the rest of job ${jobName} goes on.\n`);
  return 0;
}
