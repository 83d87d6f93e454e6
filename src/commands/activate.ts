import { InvalidArgumentError, type Command } from 'commander';
import { DrError, ERRORS } from '../model/errors.js';
import { checkNamePart } from '../model/names.js';
import type { ActivationEvent, ActivationPlanView, ActivationReport } from '../model/views.js';
import { age, bytes, clock, count, moment, plain } from './format.js';
import { perform, printJson, rootCommand, type Invocation, type Surroundings, type Wrap } from './invocation.js';
import { exitStatus } from './run.js';
import { table, type Cell } from './table.js';
import { say, tell } from './tell.js';
import { paint, type Terminal } from './terminal.js';

/** The whole of `dr-activate`: arguments to exit status. */
export function drActivate(argv: readonly string[], surroundings: Surroundings): Promise<number> {
  return perform(argv, surroundings, (wrap) => program(surroundings.terminal, wrap));
}

interface ActivateFlags {
  readonly definitions: string;
  readonly current: string;
  readonly store?: string;
  readonly libvirt: string;
  readonly sequence?: number;
  readonly dryRun?: boolean;
  readonly yes?: boolean;
  readonly originalsAreOff?: boolean;
}

function program(terminal: Terminal, wrap: Wrap): Command {
  return rootCommand('dr-activate', 'Boot the copies of lost servers. Runs on the target and needs no other host.', terminal)
    .argument('[server...]', 'only these servers; else all that have a definition')
    .option('--definitions <dir>', 'where the definitions are', absolute, '/shared/definitions')
    .option('--current <dir>', 'where the links to the newest complete sets are', absolute, '/shared/dr/current')
    .option('--store <store>', 'where the images are, e.g. fs:/srv/dr (else where the links lead)')
    .option('--libvirt <uri>', 'the libvirt that boots them', 'qemu:///system')
    .option('--sequence <n>', 'boot this image set instead of the newest (1)', sequenceNumber)
    .option('--dry-run', 'show the plan and stop')
    .option('--yes', 'do not ask')
    .option('--originals-are-off', 'I have made sure that the original servers are off and stay off')
    .option('--json', 'print the report as one JSON object')
    .addHelpText('after', `
A server is refused while its original may be alive: two running is worse than
none. --yes does not change that.
A second run goes on where the first stopped; servers that run here already are
left as they are.

Examples:
  dr-activate --dry-run
  dr-activate Db01 Web01
  dr-activate --yes --originals-are-off

Exit status: 0 all run; 1 failed; 2 usage; 3 some run, some not; 4 refused or
not confirmed, nothing was booted; 130 cancelled.`)
    .action(wrap(activate));
}

async function activate(invocation: Invocation, servers: readonly string[], flags: ActivateFlags): Promise<number> {
  const { terminal, signal, json } = invocation;
  for (const server of servers) checkServerName(server);
  if (flags.store !== undefined && !/^(fs:\/.|vg:.)/.test(flags.store)) {
    throw new DrError('usage', `--store: expected fs:/directory or vg:VG[,VG…], found ${JSON.stringify(flags.store)}`,
      flags.store.startsWith('/') ? `Did you mean fs:${flags.store}?` : 'See dr-activate --help.');
  }
  const { activation } = await invocation.wiring();
  let refused = false;
  const report = await activation.activate({
    definitions: flags.definitions, current: flags.current, libvirt: flags.libvirt, servers: [...new Set(servers)],
    ...(flags.store === undefined ? {} : { store: flags.store }),
    ...(flags.sequence === undefined ? {} : { sequence: flags.sequence }),
    dryRun: flags.dryRun === true, originalsAreOff: flags.originalsAreOff === true,
  }, {
    signal,
    confirm: (plan) => {
      refused = plan.refusal !== undefined;
      return confirm(invocation, plan, flags);
    },
    onEvent: (event) => { if (!json) showEvent(terminal, event); },
  });
  if (json) printJson(terminal, report);
  else showReport(terminal, report);
  if (report.outcome === 'dry-run') return refused ? ERRORS.refused : 0;
  return exitStatus({ ...report, outcome: report.outcome });
}

/** Shows the plan and asks. Whoever can't be asked has not said yes. */
async function confirm({ terminal, signal, json }: Invocation, plan: ActivationPlanView, flags: ActivateFlags): Promise<boolean> {
  if (!json) {
    showPlan(terminal, plan, new Date());
    // Without --dry-run the refusal is the report's.
    const told = plan.servers.some((server) => server.reason?.message === plan.refusal?.message);
    if (flags.dryRun === true && plan.refusal !== undefined && !told) tell(terminal, 'dr-activate', plan.refusal, 'red');
  }
  if (flags.dryRun === true || plan.refusal !== undefined) return false;
  if (flags.yes === true) return true;
  const boots = plan.servers.filter((server) => server.action === 'boot').length;
  if (boots === 0) return true; // nothing to say yes to: all run already, or are refused
  const answer = await terminal.ask(`\nBoot ${count(boots, 'server')}? Type yes: `, signal);
  if (signal.aborted) throw new DrError('cancelled', 'cancelled; nothing was booted');
  if (answer === undefined) {
    throw new DrError('not-confirmed', 'nobody could be asked, since standard input is no terminal; nothing was booted', 'Look at dr-activate --dry-run, then say --yes.');
  }
  if (answer.trim().toLowerCase() === 'yes') return true;
  throw new DrError('not-confirmed', 'the answer was not yes; nothing was booted', 'Run dr-activate again when you are ready, or name the servers to boot.');
}

const ACTIONS = { boot: 'green', running: 'dim', refused: 'red' } as const;

function showPlan(terminal: Terminal, plan: ActivationPlanView, now: Date): void {
  if (plan.servers.length > 0) {
    terminal.out(table(terminal, [
      { head: 'server', cut: 'middle' }, { head: 'action' }, { head: 'seq', right: true }, { head: 'captured' }, { head: 'age', right: true },
      { head: 'memory', right: true }, { head: 'definition', cut: 'middle' },
    ], plan.servers.map((server): Cell[] => [
      server.server, { text: server.action, colour: ACTIONS[server.action] }, server.sequence === null ? '-' : String(server.sequence),
      moment(server.captured_at), server.captured_at === null ? '-' : age(now.getTime() - Date.parse(server.captured_at)),
      server.memory_bytes === null ? '-' : bytes(server.memory_bytes), server.definition,
    ])));
  }
  for (const server of plan.servers) if (server.reason !== undefined) tell(terminal, server.server, server.reason, 'red');
  for (const note of plan.notes) say(terminal, note, '  ');
}

function showEvent(terminal: Terminal, event: ActivationEvent): void {
  const line = event.kind === 'note' ? event.text
    : event.kind === 'failed' ? `${event.server}: failed: ${event.error.message}`
    : `${event.server}: ${event.kind}${event.detail === undefined ? '' : `: ${event.detail}`}`;
  const colour = event.kind === 'failed' ? 'red' : event.kind === 'booted' ? 'green' : undefined;
  terminal.err(`${clock(new Date())} ${paint(terminal.errColour, colour, plain(line))}\n`);
}

function showReport(terminal: Terminal, report: ActivationReport): void {
  for (const server of report.servers) {
    if (server.outcome === 'failed' && server.error !== undefined) tell(terminal, server.server, server.error, 'red');
  }
  // What stands in the way of every server was said of each when the plan was shown.
  const told = report.servers.some((server) => server.error?.message === report.error?.message);
  if (report.error !== undefined && !told) tell(terminal, 'dr-activate', report.error, 'red');
  const up = report.servers.filter((server) => server.outcome === 'booted' || server.outcome === 'running').length;
  const words = {
    'dry-run': `Nothing was touched. Next: ${report.servers.some((server) => server.outcome === 'planned') ? '' : 'put right what is named above, then '}dr-activate without --dry-run.`,
    ok: `${count(up, 'server')} running. Marked as booted: no job touches the images of ${up === 1 ? 'this server' : 'these servers'} until dr release.`,
    partial: `${String(up)} of ${count(report.servers.length, 'server')} running. Next: put right what is named above and run dr-activate again; it goes on where it stopped.`,
    failed: 'No server could be booted. Next: put right what is named above and run dr-activate again.',
    refused: 'Refused; nothing was booted. Next: put right what is named above and run dr-activate again.',
    cancelled: `Cancelled; ${count(up, 'server')} running. dr-activate goes on where it stopped.`,
  };
  say(terminal, words[report.outcome]);
}

function checkServerName(server: string): void {
  try {
    checkNamePart('server', server);
  } catch (error) {
    throw new DrError('usage', DrError.from(error).message, 'Name servers as their definitions are named, without .xml; dr-activate --dry-run lists them.', { cause: error });
  }
}

function absolute(value: string): string {
  if (!value.startsWith('/')) throw new InvalidArgumentError('Expected an absolute directory.');
  return value.replace(/(.)\/+$/, '$1');
}

function sequenceNumber(value: string): number {
  if (!/^[1-9][0-9]?$/.test(value)) throw new InvalidArgumentError('Expected a number from 1 to 99.');
  return Number(value);
}

