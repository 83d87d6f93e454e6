import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { drActivate } from '../../src/commands/activate.js';
import { dr } from '../../src/commands/dr.js';
import type { Head } from '../../src/commands/head.js';
import { exitStatus } from '../../src/commands/run.js';
import { DrError } from '../../src/model/errors.js';
import type { RunReport } from '../../src/model/report.js';
import { capturedTerminal, type CapturedTerminal } from '../fixtures/captured-terminal.js';
import { stagedActivation, stagedHead } from '../fixtures/staged-head.js';

const CONFIG = `version: 1
anvils: {an-a01: {nodes: [an-a01n01, an-a01n02]}}
targets: {dr01: {host: an-dr01, store: "fs:/srv/dr"}, dr02: {host: an-dr02, store: "fs:/srv/dr"}}
jobs: {web: {anvil: an-a01, targets: [dr01, dr02], servers: [Db01, Web01, Bad01], copies: 3, capture: live}}
`;
const STAGE = new URL('../fixtures/staged-dr.js', import.meta.url).pathname;

describe('command line', () => {
  let directory: string;
  let file: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'dr-cli-'));
    file = join(directory, 'dr.yaml');
    await writeFile(file, CONFIG);
  });

  after(() => rm(directory, { recursive: true }));

  const call = async (argv: readonly string[], options: { head?: Partial<Head>; terminal?: CapturedTerminal; program?: typeof dr; signal?: AbortSignal } = {}) => {
    const terminal = options.terminal ?? capturedTerminal();
    const status = await (options.program ?? dr)(argv, {
      terminal, env: { DR_CONFIG: file }, signal: options.signal ?? new AbortController().signal,
      wiring: () => Promise.resolve({ head: { ...stagedHead(1), ...options.head }, activation: stagedActivation }),
    });
    return { status, stdout: terminal.stdout(), stderr: terminal.stderr() };
  };

  it('has help with an example for every command, no line of it wider than 80', async () => {
    const overview = await call(['--help']);
    const commands = [...overview.stdout.matchAll(/^ {2}([a-z]+) .*(?:\[options\])/gm)].map((match) => match[1] ?? '');
    assert.deepEqual(commands, ['check', 'plan', 'run', 'images', 'verify', 'definitions', 'status', 'cancel', 'release']);
    for (const argv of [...commands.map((command) => [command]), ['definitions', 'preview'], []]) {
      const { status, stdout, stderr } = await call([...argv, '--help']);
      assert.equal(status, 0);
      assert.equal(stderr, '');
      assert.match(stdout, /^Examples?:\n {2}(dr|virsh)/m, argv.join(' '));
      for (const line of stdout.split('\n')) assert(line.length <= 80, `${argv.join(' ')}: ${line}`);
    }
    assert.match((await call(['--help'], { program: drActivate })).stdout, /^Examples:\n {2}dr-activate/m);
  });

  it('has --json on every command that reports', async () => {
    for (const argv of [['check'], ['plan', 'web'], ['images'], ['verify'], ['definitions'], ['status'], ['cancel', 'web'], ['release', 'Db01']]) {
      const { stdout } = await call([...argv, '--json']);
      assert.doesNotThrow(() => { JSON.parse(stdout); }, `${argv.join(' ')}: ${stdout}`);
    }
  });

  it('prints the report of a run with --json, and nothing else anywhere', async () => {
    const { status, stdout, stderr } = await call(['run', 'web', '--json']);
    const report = JSON.parse(stdout) as RunReport;
    assert.deepEqual([status, stderr, report.job, report.outcome], [0, '', 'web', 'ok']);
    assert.deepEqual(Object.keys(report.servers[0] ?? {}), ['name', 'node', 'outcome', 'capture', 'down_ms', 'frozen_ms', 'images']);
  });

  it('prints a thrown error as {code, message, hint} with --json, and as text without', async () => {
    const head: Partial<Head> = { runJob: () => Promise.reject(new DrError('already-running', 'the job web is running already', 'See dr status.')) };
    const json = await call(['run', 'web', '--json'], { head });
    assert.deepEqual([json.status, JSON.parse(json.stdout), json.stderr], [5, { code: 'already-running', message: 'the job web is running already', hint: 'See dr status.' }, '']);
    const text = await call(['run', 'web'], { head });
    assert.deepEqual([text.status, text.stdout, text.stderr], [5, '', 'dr: the job web is running already\n    See dr status.\n']);
  });

  it('calls an unforeseen error a defect', async () => {
    const { status, stderr } = await call(['images'], { head: { listImages: () => Promise.reject(new TypeError('x is not a function')) } });
    assert.equal(status, 1);
    assert.equal(stderr, 'dr: x is not a function\n    This is a defect in dr-engine; please report it with the log.\n');
  });

  it('gives the head exactly the servers asked for, once each', async () => {
    const asked: unknown[] = [];
    const head: Partial<Head> = {
      runJob: (config, job, options) => {
        asked.push(options.servers);
        return stagedHead(1).runJob(config, job, options);
      },
    };
    await call(['run', 'web', '-s', 'Web01', '--server', 'Db01', '-s', 'Web01'], { head });
    await call(['run', 'web'], { head });
    assert.deepEqual(asked, [['Web01', 'Db01'], undefined]);
  });

  it('exits 3 and says what to run again when some servers failed', async () => {
    const { status, stdout } = await call(['run', 'web', '--server', 'Db01', '--server', 'Bad01']);
    assert.equal(status, 3);
    assert.match(stdout, /^Bad01 did not shut down within 2 min; it runs on\n {2}→ Raise shutdown_timeout/m);
    assert.match(stdout, /Next: put right what is named above, then dr run web --server Bad01\n$/);
  });

  it('maps every outcome to its exit status', () => {
    assert.deepEqual((['ok', 'partial', 'failed', 'refused', 'cancelled'] as const).map((outcome) => exitStatus({ outcome })), [0, 3, 1, 4, 130]);
    const error = (code: 'already-running' | 'space' | 'config-invalid' | 'io') => exitStatus({ outcome: 'refused', error: { code, message: '', hint: '' } });
    assert.deepEqual([error('already-running'), error('space'), error('config-invalid'), error('io')], [5, 4, 2, 4]);
  });

  it('exits as the findings say', async () => {
    assert.equal((await call(['check'])).status, 1);
    assert.equal((await call(['check'], { head: { checkAll: () => Promise.resolve([{ ok: false, level: 'warning', host: 'a', what: 'b', remedy: 'c' }]) } })).status, 0);
    assert.equal((await call(['plan', 'web'])).status, 4);
    assert.equal((await call(['verify'])).status, 1);
    assert.equal((await call(['status'])).status, 1);
    assert.equal((await call(['cancel', 'web'])).status, 0);
  });

  it('shows the rest and exits 3 when a target can\'t be asked', async () => {
    const { status, stdout, stderr } = await call(['images']);
    assert.equal(status, 3);
    assert.match(stdout, /Db01_root_2/);
    assert.equal(stderr, 'dr: dr02 is left out: ssh to an-dr02 failed: No route to host\n    Check the link.\n');
    assert.equal((await call(['images', '-t', 'dr01'])).status, 0);
  });

  it('ends a command that only looks at once when it is cancelled', async () => {
    const cancel = new AbortController();
    const looking = call(['images'], { signal: cancel.signal, head: { listImages: () => new Promise(() => undefined) } });
    setTimeout(() => { cancel.abort(new DrError('cancelled', 'cancelled by Ctrl-C')); }, 20);
    const { status, stderr } = await looking;
    assert.deepEqual([status, stderr], [130, 'dr: cancelled by Ctrl-C\n']);
  });

  describe('dr-activate', () => {
    const activate = (argv: readonly string[], answers?: readonly string[]) =>
      call(argv, { program: drActivate, terminal: capturedTerminal(answers === undefined ? {} : { answers }) });

    it('boots only after a full yes', async () => {
      for (const answer of ['', 'y', 'no', 'yes please']) {
        const { status, stderr } = await activate(['Db01'], [answer]);
        assert.equal(status, 4, answer);
        assert.match(stderr, /the answer was not yes; nothing was booted/);
      }
      const yes = await activate(['Db01'], ['yes']);
      assert.equal(yes.status, 0);
      assert.match(yes.stderr, /Boot 1 server\? Type yes: .*Db01: booted/s);
    });

    it('refuses when nobody can be asked', async () => {
      const { status, stderr } = await activate(['Db01']);
      assert.equal(status, 4);
      assert.match(stderr, /^dr-activate: nobody could be asked.*nothing was booted\n.*--yes/);
    });

    it('does not take --yes for the word that the originals are off', async () => {
      assert.equal((await activate(['--yes'])).status, 3);
      assert.equal((await activate(['--yes', '--originals-are-off'])).status, 0);
    });

    it('does not ask when there is nothing left to boot', async () => {
      const { status, stderr } = await activate(['Up01'], []);
      assert.equal(status, 0);
      assert(!stderr.includes('Type yes'), stderr);
    });

    it('says once what stands in the way of all, and what to do next', async () => {
      for (const argv of [['Web01', '--yes'], ['Web01', '--dry-run']]) {
        const { status, stdout } = await activate(argv);
        assert.equal(status, 4);
        assert.equal(stdout.split('Web01 runs on an-a01n01').length, 2, stdout);
        assert.match(stdout, /Next: put right what is named above/);
      }
    });

    it('boots nothing in a dry run, even with --yes', async () => {
      const { status, stdout, stderr } = await activate(['--dry-run', '--yes']);
      assert.equal(status, 0);
      assert.equal(stderr, '');
      assert.match(stdout, /Nothing was touched/);
    });
  });

  describe('as a process', () => {
    const run = (argv: readonly string[], ms: number): { child: ChildProcess; text: () => string; ended: Promise<number | null> } => {
      const child = spawn(process.execPath, [STAGE, ...argv], { env: { PATH: process.env['PATH'], DR_CONFIG: file, DR_STAGE_MS: String(ms) }, stdio: ['ignore', 'pipe', 'pipe'] });
      let text = '';
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => { text += chunk.toString(); });
      return { child, text: () => text, ended: new Promise((resolve) => { child.once('close', resolve); }) };
    };
    const until = async (text: () => string, wanted: RegExp): Promise<void> => {
      while (!wanted.test(text())) await new Promise((resolve) => { setTimeout(resolve, 20); });
    };

    it('cleans up at the first Ctrl-C, says so at the second, and exits 130', async () => {
      const { child, text, ended } = run(['dr', 'run', 'web', '-s', 'Db01'], 30_000);
      await until(text, /sending/);
      child.kill('SIGINT');
      await until(text, /cancelling: everything is put back as it was/);
      child.kill('SIGINT');
      assert.equal(await ended, 130);
      assert.match(text(), /still cleaning up.*Db01: runs again on an-a01n01.*Job web: cancelled/s);
    });

    for (const signal of ['SIGTERM', 'SIGHUP'] as const) {
      it(`takes ${signal} for Ctrl-C`, async () => {
        const { child, text, ended } = run(['dr', 'run', 'web', '-s', 'Db01'], 30_000);
        await until(text, /sending/);
        child.kill(signal);
        assert.equal(await ended, 130);
        assert.match(text(), /runs again/);
      });
    }

    it('goes on with a run whose reader went away', async () => {
      const { child, ended } = run(['dr', 'run', 'web', '-s', 'Db01'], 300);
      child.stdout?.destroy();
      child.stderr?.destroy();
      assert.equal(await ended, 0);
    });
  });
});
