import type { Command } from 'commander';
import { resolveJob } from '../config/lookup.js';
import { ERRORS } from '../model/errors.js';
import type { Finding } from '../model/host.js';
import { count, plain, wrap as wrapped } from './format.js';
import { orCancelled, printJson, type Invocation, type Wrap } from './invocation.js';
import { paint, type Terminal } from './terminal.js';

export function addCheck(program: Command, wrap: Wrap): void {
  program.command('check')
    .description('ask every host for everything that a run or an activation needs')
    .argument('[job]', 'only the hosts of this job')
    .option('--json', 'print the findings as JSON')
    .addHelpText('after', '\nExamples:\n  dr check\n  dr check web --json\n\nExit status: 0 nothing is red; 1 something is.')
    .action(wrap(check));
}

async function check(invocation: Invocation, jobName: string | undefined): Promise<number> {
  const config = await invocation.config();
  if (jobName !== undefined) resolveJob(config, jobName);
  const head = await invocation.head();
  const findings = await orCancelled(invocation.signal, head.checkAll(config, jobName, { signal: invocation.signal }));
  if (invocation.json) printJson(invocation.terminal, findings);
  else showFindings(invocation.terminal, findings);
  return findings.some((finding) => finding.level === 'error') ? ERRORS.failed : 0;
}

const WORDS = { ok: 'ok  ', warning: 'warn', error: 'FAIL' } as const;
const COLOURS = { ok: 'green', warning: 'yellow', error: 'red' } as const;

function showFindings(terminal: Terminal, findings: readonly Finding[]): void {
  const hosts = Math.max(0, ...findings.map((finding) => finding.host.length));
  const width = (terminal.columns ?? Infinity) - hosts - 8;
  const margin = ' '.repeat(hosts + 8);
  for (const { level, host, what, remedy } of findings) {
    const [first = '', ...rest] = wrapped(plain(what), width);
    terminal.out(`${paint(terminal.outColour, COLOURS[level], WORDS[level])}  ${plain(host).padEnd(hosts)}  ${first}\n${rest.map((line) => `${margin}${line}\n`).join('')}`);
    if (remedy === '') continue;
    terminal.out(wrapped(plain(remedy), width - 2).map((line, index) => `${margin}${index === 0 ? '→ ' : '  '}${line}\n`).join(''));
  }
  const red = findings.filter((finding) => finding.level === 'error').length;
  const yellow = findings.filter((finding) => finding.level === 'warning').length;
  terminal.out(`\n${count(findings.length, 'finding')}: ${String(red)} red, ${count(yellow, 'warning')}.${red === 0 ? '' : ' Put right what is red, then check again.'}\n`);
}
