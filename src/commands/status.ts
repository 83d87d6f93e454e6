import type { Command } from 'commander';
import { ERRORS } from '../model/errors.js';
import type { CopyStatus, JobStatus, StatusReport } from '../model/views.js';
import { age, duration, moment } from './format.js';
import { orCancelled, printJson, type Invocation, type Wrap } from './invocation.js';
import { table, type Cell } from './table.js';
import { tell } from './tell.js';
import type { Terminal } from './terminal.js';

export function addStatus(program: Command, wrap: Wrap): void {
  program.command('status')
    .description('show the last, running and next run of each job, and the age of the newest copies')
    .option('--json', 'print it as JSON')
    .addHelpText('after', '\nExample:\n  dr status\n\nExit status: 0; 1 if a host still owes something; 3 if some host could not be\nasked.')
    .action(wrap(status));
}

async function status(invocation: Invocation): Promise<number> {
  const config = await invocation.config();
  const head = await invocation.head();
  const report = await orCancelled(invocation.signal, head.statusReport(config, { signal: invocation.signal }));
  if (invocation.json) printJson(invocation.terminal, report);
  else showStatus(invocation.terminal, report, new Date());
  return report.owed.length > 0 ? ERRORS.failed : report.problems.length > 0 ? 3 : 0;
}

function showStatus(terminal: Terminal, report: StatusReport, now: Date): void {
  terminal.out(table(terminal, [{ head: 'job', cut: 'middle' }, { head: 'last run' }, { head: 'outcome' }, { head: 'took', right: true }, { head: 'now', cut: 'end' }, { head: 'next run' }],
    report.jobs.map((job) => jobRow(job, now))));
  if (report.servers.length > 0) {
    terminal.out(`\n${table(terminal, [{ head: 'server', cut: 'middle' }, { head: 'target', cut: 'middle' }, { head: 'newest copy' }, { head: 'age', right: true }, { head: 'complete sets', right: true }, { head: 'remarks', cut: 'end' }],
      report.servers.map(copyRow))}`);
  }
  for (const debt of report.owed) {
    tell(terminal, debt.host, { code: 'start-owed', message: `owed since ${moment(debt.since)}: ${debt.what}${debt.stuck === null ? '' : ` (${debt.stuck})`}`,
      hint: 'The host goes on trying. If you put it right by hand, it notices.' }, 'red');
  }
  for (const problem of report.problems) tell(terminal, problem.host, problem, 'yellow');
}

function jobRow({ job, last, running, next }: JobStatus, now: Date): Cell[] {
  const outcome: Cell = last === null ? '-' : { text: last.outcome, colour: last.outcome === 'ok' ? 'green' : last.outcome === 'partial' ? 'yellow' : 'red' };
  return [
    job, moment(last?.started_at ?? null), outcome,
    last === null ? '-' : duration(Date.parse(last.finished_at) - Date.parse(last.started_at)),
    running === null ? '-' : { text: `running for ${age(now.getTime() - Date.parse(running.since))}`, colour: 'bold' },
    moment(next),
  ];
}

function copyRow(copy: CopyStatus): Cell[] {
  return [
    copy.server, copy.target,
    copy.captured_at === null ? { text: 'none', colour: 'red' } : moment(copy.captured_at),
    copy.age_ms === null ? '-' : age(copy.age_ms),
    String(copy.complete_sets),
    copy.activated === null ? '' : { text: copy.activated.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/, moment), colour: 'yellow' },
  ];
}
