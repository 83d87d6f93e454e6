import type { Command } from 'commander';
import { checkServersOfJob, resolveJob } from '../config/lookup.js';
import { ERRORS } from '../model/errors.js';
import type { PlanView } from '../model/views.js';
import { bytes, plain, wrap as wrapped } from './format.js';
import { collect, orCancelled, printJson, type Invocation, type Wrap } from './invocation.js';
import { say, tell } from './tell.js';
import { table } from './table.js';
import { paint, type Terminal } from './terminal.js';

export function addPlan(program: Command, wrap: Wrap): void {
  program.command('plan')
    .description('show what `run` would do, step by step; touches nothing')
    .argument('<job>', 'a job of the configuration')
    .option('-s, --server <name>', 'only this server of the job (may be repeated)', collect)
    .option('--json', 'print the plan as JSON')
    .addHelpText('after', '\nExample:\n  dr plan web\n\nExit status: 0 it would run; 4 it would be refused, in whole or for some server.')
    .action(wrap(plan));
}

async function plan(invocation: Invocation, jobName: string, flags: { readonly server?: readonly string[] }): Promise<number> {
  const config = await invocation.config();
  checkServersOfJob(resolveJob(config, jobName).job, flags.server ?? []);
  const head = await invocation.head();
  const view = await orCancelled(invocation.signal, head.planJobView(config, jobName, {
    ...(flags.server === undefined ? {} : { servers: [...new Set(flags.server)] }),
    signal: invocation.signal,
  }));
  if (invocation.json) printJson(invocation.terminal, view);
  else showPlan(invocation.terminal, view);
  return view.refusal !== undefined || view.servers.some((server) => server.refusal !== undefined) ? ERRORS.refused : 0;
}

function showPlan(terminal: Terminal, view: PlanView): void {
  if (view.servers.length > 0) {
    terminal.out(table(terminal, [
      { head: 'server', cut: 'middle' }, { head: 'node', cut: 'middle' }, { head: 'capture' }, { head: 'disks', cut: 'end' }, { head: 'size', right: true },
    ], view.servers.map((server) => [
      server.name, server.node ?? '-',
      server.refusal === undefined ? server.capture ?? '-' : { text: 'refused', colour: 'red' },
      server.disks.map((disk) => disk.disk).join(' ') || '-',
      bytes(server.disks.reduce((sum, disk) => sum + disk.bytes, 0)),
    ])));
  }
  if (view.steps.length > 0) {
    terminal.out('\n');
    const digits = String(view.steps.length).length;
    for (const [index, step] of view.steps.entries()) {
      const who = `[${plain([step.server, step.host].filter((word) => word !== null && word !== '').join(' @ '))}]`;
      const [first = '', ...rest] = wrapped(`${who} ${plain(step.text)}`, (terminal.columns ?? Infinity) - digits - 2);
      terminal.out(`${String(index + 1).padStart(digits)}. ${first.replace(who, paint(terminal.outColour, 'dim', who))}\n`);
      for (const line of rest) terminal.out(`${' '.repeat(digits + 2)}${line}\n`);
    }
  }
  for (const note of view.notes) say(terminal, note, '  ');
  for (const server of view.servers) if (server.refusal !== undefined) tell(terminal, server.name, server.refusal, 'red');
  const told = view.servers.some((server) => server.refusal?.message === view.refusal?.message);
  if (view.refusal !== undefined && !told) tell(terminal, `job ${view.job}`, view.refusal, 'red');
  if (view.refusal === undefined) terminal.out(`\nNothing was touched. Next: dr run ${view.job}\n`);
}
