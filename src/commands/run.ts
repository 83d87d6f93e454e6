import type { Command } from 'commander';
import { checkServersOfJob, resolveJob } from '../config/lookup.js';
import type { Config } from '../model/config.js';
import { ERRORS } from '../model/errors.js';
import type { RunReport, ServerReport } from '../model/report.js';
import { bytes, count, duration } from './format.js';
import { collect, printJson, type Invocation, type Wrap } from './invocation.js';
import { openDisplay, type Display } from './progress.js';
import { table, type Cell } from './table.js';
import { say, tell } from './tell.js';
import type { Terminal } from './terminal.js';

export function addRun(program: Command, wrap: Wrap): void {
  program.command('run')
    .description('image the servers of a job')
    .argument('<job>', 'a job of the configuration')
    .option('-s, --server <name>', 'only this server of the job (may be repeated)', collect)
    .option('--json', 'print the report as one JSON object, and nothing else')
    .addHelpText('after', `
Production is brought back before anything else if you press Ctrl-C.

Examples:
  dr run web
  dr run web --server Web01 --json

Exit status: 0 all done; 1 failed; 2 usage or configuration; 3 some servers
done, some not; 4 refused, nothing was touched; 5 the job is already running;
130 cancelled.`)
    .action(wrap(run));
}

interface RunFlags {
  readonly server?: readonly string[];
}

async function run(invocation: Invocation, jobName: string, flags: RunFlags): Promise<number> {
  const { terminal, signal, json } = invocation;
  const config = await invocation.config();
  checkServersOfJob(resolveJob(config, jobName).job, flags.server ?? []);
  const head = await invocation.head();
  const report = await displaying(invocation, (display) => head.runJob(config, jobName, {
    ...(flags.server === undefined ? {} : { servers: [...new Set(flags.server)] }),
    signal,
    onEvent: (event) => { display.show(event); },
  }));
  if (json) printJson(terminal, report);
  else showReport(terminal, config, report);
  return exitStatus(report);
}

/** Shows progress while something runs, and that Ctrl-C was heard. */
export async function displaying<T>({ terminal, signal, json }: Invocation, work: (display: Display) => Promise<T>): Promise<T> {
  const display = openDisplay(terminal, json);
  const heard = (): void => { display.say('cancelling: everything is put back as it was; this can take some seconds'); };
  signal.addEventListener('abort', heard, { once: true });
  try {
    return await work(display);
  } finally {
    signal.removeEventListener('abort', heard);
    display.close();
  }
}

/** The exit status that a report stands for. */
export function exitStatus(report: Pick<RunReport, 'outcome' | 'error'>): number {
  switch (report.outcome) {
    case 'ok': return 0;
    case 'partial': return 3;
    case 'cancelled': return ERRORS.cancelled;
    case 'failed': return ERRORS.failed;
    case 'refused': {
      const status = report.error === undefined ? ERRORS.refused : ERRORS[report.error.code];
      return status === 2 || status === 5 ? status : ERRORS.refused;
    }
  }
}

const OUTCOMES = { ok: 'green', partial: 'yellow', skipped: 'yellow', failed: 'red', refused: 'red', cancelled: 'yellow' } as const;

function showReport(terminal: Terminal, config: Config, report: RunReport): void {
  const rows = report.servers.flatMap((server) => rowsOf(config, server));
  if (rows.length > 0) {
    terminal.out(`${terminal.outTty ? '\n' : ''}${table(terminal, [
      { head: 'server', cut: 'middle' }, { head: 'disk', cut: 'middle' }, { head: 'target', cut: 'middle' },
      { head: 'size', right: true }, { head: 'sent', right: true }, { head: 'state', cut: 'end' }, { head: 'down', right: true },
    ], rows)}`);
  }
  for (const server of report.servers) {
    if (server.error !== undefined) tell(terminal, server.name, server.error, server.outcome === 'cancelled' ? 'yellow' : 'red');
    for (const note of server.notes ?? []) say(terminal, `${server.name}: ${note}`, '  ');
  }
  const told = report.servers.some((server) => server.error?.message === report.error?.message);
  if (report.error !== undefined && !told) tell(terminal, `job ${report.job}`, report.error, 'red');
  say(terminal, lastWords(report));
}

function rowsOf(config: Config, server: ServerReport): Cell[][] {
  const down = server.down_ms > 0 ? duration(server.down_ms) : '-';
  const state = (text: string): Cell => ({ text, colour: OUTCOMES[server.outcome] });
  const rows: Cell[][] = server.images.map((image) =>
    [server.name, image.disk, image.target, bytes(image.bytes), bytes(image.bytes_sent), { text: 'complete', colour: 'green' }, down]);
  // A target that got nothing has a line too: what is missing must be seen.
  const targets = [...config.jobs.values()].find((job) => job.servers.includes(server.name))?.targets ?? [];
  const missing = server.outcome === 'partial' ? targets.filter((target) => !server.images.some((image) => image.target === target)) : [];
  for (const target of missing) rows.push([server.name, '-', target, '-', '-', { text: 'no new copy', colour: 'red' }, down]);
  return rows.length === 0 ? [[server.name, '-', '-', '-', '-', state(server.outcome), down]] : rows;
}

/** What happened in one line, and what to do next in another. */
function lastWords(report: RunReport): string {
  const took = duration(Date.parse(report.finished_at) - Date.parse(report.started_at));
  const done = report.servers.filter((server) => server.outcome === 'ok');
  const open = report.servers.filter((server) => server.outcome !== 'ok');
  const again = `dr run ${report.job}${done.length === 0 ? '' : open.map((server) => ` --server ${server.name}`).join('')}`;
  switch (report.outcome) {
    case 'ok': return `Job ${report.job}: ${count(done.length, 'server')} imaged in ${took}.\nNext: dr images shows the copies, dr status when the next run is due.`;
    case 'partial': return `Job ${report.job}: ${String(done.length)} of ${count(report.servers.length, 'server')} imaged in ${took}; the others keep their older copies.\nNext: put right what is named above, then ${again}`;
    case 'failed': return `Job ${report.job}: failed after ${took}; older copies are as they were.\nNext: put right what is named above, then ${again}`;
    case 'refused': return `Job ${report.job}: refused; nothing was touched.\nNext: put right what is named above; dr plan ${report.job} looks again without touching anything.`;
    case 'cancelled': return `Job ${report.job}: cancelled after ${took}; older copies are as they were.\nNext: ${again} when you are ready.`;
  }
}
