import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { listMounts } from '../../src/system/mounts.js';
import { run, start } from '../../src/system/run.js';
import { CHECKOUT } from '../lab/layout.js';
import { pause } from '../lab/namespaces.js';
import { everything, remains } from './remains.js';
import type { TestEvent } from './suite-reporter.js';

/**
 * Runs all suites, each file of tests in a mocha process of its own, three at a time (tests with hosts and guests wait more than they work, and virtual machines work), and prints what came out. The last line is `N passed, N failed, N skipped`;
 * the exit status is 1 if anything failed. A process that hangs is killed, and that is a failure.
 */

interface Suite {
  /** A folder of build/test. */
  readonly name: string;
  /** Seconds that one file of it may take. */
  readonly limit: number;
  /** One process for all files: they are quick, or share a virtual machine. */
  readonly together: boolean;
  /** What runs a part; `run-part` unless it must happen elsewhere. */
  readonly runner?: 'run-in-vm';
  /** Files that work with virtual machines. Under emulation one keeps a core busy, so there is one such part at a time. */
  readonly virtual?: RegExp;
}

const SUITES: readonly Suite[] = [
  { name: 'unit', limit: 600, together: false },
  { name: 'conformance', limit: 600, together: false },
  { name: 'capture', limit: 600, together: false },
  { name: 'lvm', limit: 3600, together: true, runner: 'run-in-vm', virtual: /./ },
  { name: 'lab-tests', limit: 2400, together: false, virtual: /across-machines|job-volumes|\/vm\./ },
  { name: 'faults', limit: 3600, together: false, virtual: /on-volumes/ },
];

interface Part {
  readonly suite: Suite;
  readonly files: readonly string[];
}

interface PartResult {
  readonly part: Part;
  readonly events: readonly TestEvent[];
  readonly output: string;
  readonly seconds: number;
  /** Why the process ended badly though no test says so. */
  readonly death?: string;
}

interface Count {
  passed: number;
  failed: number;
  skipped: number;
}

const build = join(CHECKOUT, 'build/test');

/** Files named `….soak.test.ts` take long, or try one more of what others try, and are run by `make soak` alone. */
async function partsOf(suite: Suite, only: readonly string[], soak: boolean): Promise<readonly Part[]> {
  const entries = await readdir(join(build, suite.name), { recursive: true }).catch(() => []); // there is no such suite (yet)
  const files: string[] = [];
  for (const entry of entries.filter((name) => name.endsWith('.test.js') && (soak || !name.endsWith('.soak.test.js'))).sort()) {
    const source = join(CHECKOUT, 'test', suite.name, entry.replace(/\.js$/, '.ts'));
    // What was compiled from a file that is gone is no test.
    if (await readFile(source).then(() => true, () => false)) files.push(join(build, suite.name, entry));
  }
  const wanted = only.length === 0 ? files : files.filter((file) => only.some((word) => file.includes(word)));
  if (wanted.length === 0) return [];
  return suite.together ? [{ suite, files: wanted }] : wanted.map((file) => ({ suite, files: [file] }));
}

async function runPart(part: Part, scratch: string, soak: boolean): Promise<PartResult> {
  const events = join(scratch, `${part.suite.name}-${String(process.hrtime.bigint())}.jsonl`);
  const begun = Date.now();
  const program = part.suite.runner === 'run-in-vm' ? ['run-in-vm.js', '--events', events] : ['run-part.js'];
  const child = start(process.execPath, [join(build, 'support', program[0] ?? ''), ...program.slice(1), ...part.files],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { DR_SUITE_EVENTS: events, FORCE_COLOR: '0', TMPDIR: scratch }, cwd: CHECKOUT });
  const output: string[] = [];
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text: string) => output.push(text));
  const limit = part.suite.limit * (soak ? 20 : 1);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL'); // its labs go down by themselves when it is gone
  }, limit * 1000);
  const status = await new Promise<string>((resolve) => {
    child.once('error', (error) => { resolve(error.message); });
    child.once('exit', (code, signal) => { resolve(code === null ? `was killed by ${String(signal)}` : `ended with status ${String(code)}`); });
  });
  clearTimeout(timer);
  await Promise.race([Promise.all([child.stdout, child.stderr].map((stream) => stream?.readableEnded === false
    ? new Promise((resolve) => stream.once('end', resolve)) : undefined)), pause(1000)]); // a child that it left may hold the pipe
  const seen = (await readFile(events, 'utf8').catch(() => '')).split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as TestEvent);
  const seconds = (Date.now() - begun) / 1000;
  const ended = seen.some(({ kind }) => kind === 'end');
  const last = seen.findLast(({ kind }) => kind === 'begin');
  const during = last?.kind === 'begin' ? ` during "${last.title}"` : '';
  const death = late ? `took more than ${String(limit)} s and was killed${during}` : ended ? undefined : `${status}${during} before all tests were done`;
  return { part, events: seen, output: output.join(''), seconds, ...(death === undefined ? {} : { death }) };
}

function count(events: readonly TestEvent[]): Count {
  const total: Count = { passed: 0, failed: 0, skipped: 0 };
  for (const { kind } of events) {
    if (kind === 'pass') total.passed++;
    else if (kind === 'fail') total.failed++;
    else if (kind === 'skip') total.skipped++;
  }
  return total;
}

const isVirtual = ({ suite, files }: Part): boolean => files.some((file) => suite.virtual?.test(file) === true);
const line = (text: string): void => { process.stdout.write(`${text}\n`); };
const titleOf = (part: Part): string => part.files.length === 1 ? relative(build, part.files[0] ?? '').replace(/\.test\.js$/, '') : part.suite.name;

/** Runs a check that is no mocha test and counts it as one. */
async function check(name: string, work: () => Promise<readonly string[]>): Promise<Count> {
  const begun = Date.now();
  const complaints = await work();
  line(`${name}: ${complaints.length === 0 ? 'ok' : 'FAILED'} (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
  for (const complaint of complaints) line(`  ${complaint}`);
  return { passed: complaints.length === 0 ? 1 : 0, failed: complaints.length === 0 ? 0 : 1, skipped: 0 };
}

async function lint(): Promise<readonly string[]> {
  const child = start('npm', ['run', '--silent', 'lint'], { stdio: ['ignore', 'pipe', 'pipe'], cwd: CHECKOUT });
  const output: string[] = [];
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text: string) => output.push(text));
  const code = await new Promise<number>((resolve) => child.once('close', (status) => { resolve(status ?? 1); }));
  return code === 0 ? [] : output.join('').trim().split('\n');
}

/** What died may take a moment to go, and labs take themselves down. */
async function nothingLeft(before: ReadonlySet<string>): Promise<readonly string[]> {
  const end = Date.now() + 15_000;
  for (;;) {
    const left = await remains(before);
    if (left.length === 0 || Date.now() > end) return left.map((each) => `left behind: ${each}`);
    await pause(500);
  }
}

/** What a test that failed has left mounted must not keep the rest, nor end us before the count. */
async function removeScratch(scratch: string): Promise<readonly string[]> {
  const mounted = (await listMounts()).map(({ mountPoint }) => mountPoint).filter((mountPoint) => mountPoint.startsWith(`${scratch}/`));
  for (const mountPoint of mounted.reverse()) await run('umount', ['--lazy', mountPoint], { okExit: [0, 1, 32] });
  return rm(scratch, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }).then(() => [], (error: unknown) => [String(error)]);
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: {
    'build-status': { type: 'string', default: '0' }, soak: { type: 'boolean', default: false }, suite: { type: 'string', multiple: true }, 'no-lint': { type: 'boolean', default: false },
  } });
  if (values['build-status'] !== '0') {
    line('the build failed; nothing was tested');
    line('0 passed, 1 failed, 0 skipped');
    return 1;
  }
  const begun = Date.now();
  const total: Count = { passed: 0, failed: 0, skipped: 0 };
  const add = ({ passed, failed, skipped }: Count): void => {
    total.passed += passed;
    total.failed += failed;
    total.skipped += skipped;
  };
  const root = process.getuid?.() === 0;
  const before: ReadonlySet<string> = root ? await everything() : new Set();
  // Not /tmp, which may be a tmpfs: tests want files that O_DIRECT can read.
  const scratch = await mkdtemp('/var/tmp/dr-tests-');
  const chosen = SUITES.filter(({ name }) => values.suite === undefined ? !values.soak || name !== 'conformance' : values.suite.includes(name));
  try {
    if (!values['no-lint'] && !values.soak) add(await check('lint', lint));
    const parts = (await Promise.all(chosen.map((suite) => partsOf(suite, positionals, values.soak)))).flat();
    // Those with virtual machines first: one after the other they take longest.
    const waiting = [...parts].sort((a, b) => Number(isVirtual(b)) - Number(isVirtual(a)));
    let emulating = 0;
    const results: PartResult[] = [];
    // From both ends: the long campaigns at the end of the list begin at once, and no worker is left with one at the last.
    const next = (from: 'front' | 'back'): Part | undefined => {
      const fits = (part: Part): boolean => emulating === 0 || !isVirtual(part);
      const at = from === 'front' ? waiting.findIndex(fits) : waiting.findLastIndex(fits);
      return at === -1 ? undefined : waiting.splice(at, 1)[0];
    };
    const worker = async (from: 'front' | 'back'): Promise<void> => {
      for (let part = next(from); part !== undefined; part = next(from)) {
        if (isVirtual(part)) emulating += 1;
        const result = await runPart(part, scratch, values.soak);
        if (isVirtual(part)) emulating -= 1;
        results.push(result);
        line(`\n── ${titleOf(part)} (${result.seconds.toFixed(1)} s)`);
        line(result.output.trimEnd());
        if (result.death !== undefined) line(`  ${titleOf(part)} ${result.death}`);
      }
    };
    await Promise.all([worker('front'), worker('back'), worker('back')]);

    line('\nsuite            passed  failed  skipped   seconds');
    for (const { name } of chosen) {
      const own = results.filter(({ part }) => part.suite.name === name);
      const sum = count(own.flatMap(({ events }) => events));
      sum.failed += own.filter(({ death }) => death !== undefined).length;
      add(sum);
      const seconds = own.reduce((all, { seconds: each }) => all + each, 0);
      line(`${name.padEnd(16)} ${String(sum.passed).padStart(6)}  ${String(sum.failed).padStart(6)}  ${String(sum.skipped).padStart(7)}  ${seconds.toFixed(1).padStart(8)}`);
    }
    for (const { part, events, death } of results) {
      for (const event of events) {
        if (event.kind === 'skip') line(`skipped: ${titleOf(part)}: ${event.title}: ${event.reason}`);
        if (event.kind === 'fail') line(`FAILED: ${titleOf(part)}: ${event.title}: ${event.error.split('\n')[0] ?? ''}`);
      }
      if (death !== undefined) line(`FAILED: ${titleOf(part)}: ${death}`);
    }
    if (root) add(await check('nothing is left behind', () => nothingLeft(before)));
  } finally {
    add(await check('scratch files are removed', () => removeScratch(scratch)));
  }
  line(`all of it took ${((Date.now() - begun) / 1000).toFixed(0)} s`);
  line(`${String(total.passed)} passed, ${String(total.failed)} failed, ${String(total.skipped)} skipped`);
  return total.failed === 0 ? 0 : 1;
}

process.exitCode = await main();
