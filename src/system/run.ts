import { execFile, spawn, type ChildProcess } from 'node:child_process';
import type { Socket } from 'node:net';
import { DrError } from '../model/errors.js';

/** The only file that starts foreign programs. No shell is involved anywhere; output is in the C locale. */

export interface RunOptions {
  readonly input?: string;
  /** Milliseconds; the program is killed after that and `timeout` thrown. Default 60 s. */
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
  /** Exit codes that are no error. Default: 0. */
  readonly okExit?: readonly number[];
  readonly signal?: AbortSignal;
  readonly cwd?: string;
}

export interface RunResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/**
 * Runs a program to its end. Throws DrError `program-missing`, `timeout`, `cancelled`, or `program-failed` with the
 * last lines of what it printed on stderr.
 */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { execa, ExecaError } = await import('execa'); // loaded when it is needed: see `runLean`
  const okExit = options.okExit ?? [0];
  const result = await execa(program, [...args], {
    reject: false,
    stripFinalNewline: false,
    ...(options.input === undefined ? { stdin: 'ignore' as const } : { input: options.input }),
    timeout: options.timeoutMs ?? TIMEOUT_MS,
    killSignal: 'SIGKILL',
    env: { LC_ALL: 'C', ...options.env },
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    maxBuffer: OUTPUT_MAX,
  });
  if (result instanceof ExecaError || result.exitCode === undefined) {
    const error = result as InstanceType<typeof ExecaError>;
    if (error.code === 'ENOENT') throw missing(program);
    if (error.isCanceled) throw cancelled(program);
    if (error.timedOut) throw late(program, args, options.timeoutMs);
  }
  const exitCode = result.exitCode ?? -1;
  const stdout = typeof result.stdout === 'string' ? result.stdout : '';
  const stderr = typeof result.stderr === 'string' ? result.stderr : '';
  if (!okExit.includes(exitCode)) throw failed(program, args, result.exitCode ?? result.signal, stderr);
  return { stdout, stderr, exitCode };
}

const OUTPUT_MAX = 256 * 1024 * 1024;
const TIMEOUT_MS = 60_000;

/**
 * The same for processes that only move data, of which one is started for every disk: loading execa takes longer than all the programs that they start. Only an exit status of 0
 * is no error.
 */
export async function runLean(program: string, args: readonly string[], options: Pick<RunOptions, 'timeoutMs' | 'signal'> = {}): Promise<Pick<RunResult, 'stdout'>> {
  return await new Promise((resolve, reject) => {
    const child = execFile(program, args, {
      encoding: 'utf8', timeout: options.timeoutMs ?? TIMEOUT_MS, killSignal: 'SIGKILL', maxBuffer: OUTPUT_MAX, env: { ...process.env, LC_ALL: 'C' },
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    }, (error, stdout, stderr) => {
      if (error === null) resolve({ stdout });
      else if (error.code === 'ENOENT') reject(missing(program));
      else if (error.name === 'AbortError') reject(cancelled(program));
      else if (error.killed === true) reject(late(program, args, options.timeoutMs));
      else reject(failed(program, args, error.code ?? error.signal, stderr));
    });
    child.stdin?.on('error', () => undefined).end(); // it has ended without reading
  });
}

function missing(program: string): DrError {
  return new DrError('program-missing', `the program ${program} is not installed on this host`, `Install the package that has ${program}.`);
}

function cancelled(program: string): DrError {
  return new DrError('cancelled', `${program} was stopped because the run was cancelled`);
}

function late(program: string, args: readonly string[], timeoutMs = TIMEOUT_MS): DrError {
  return new DrError('timeout', `${program} ${args[0] ?? ''} did not answer in ${String(Math.round(timeoutMs / 1000))} s`);
}

function failed(program: string, args: readonly string[], status: number | string | null | undefined, stderr: string): DrError {
  const said = stderr.trim().split('\n').slice(-5).join('; ');
  return new DrError('program-failed', `${program} ${args.join(' ')} failed (${typeof status === 'number' ? `exit ${String(status)}` : status ?? 'no exit status'})${said === '' ? '' : `: ${said}`}`);
}

export interface StartOptions {
  /** One entry per descriptor from 0 on, as for child_process.spawn. */
  readonly stdio: readonly ('ignore' | 'pipe' | 'inherit' | 'ipc' | number | Socket)[];
  readonly env?: Readonly<Record<string, string>>;
  /** Leads a process group and session of its own: it survives us. */
  readonly detached?: boolean;
  readonly cwd?: string;
}

/** Starts a long-lived program. Callers watch `exit` and `error` themselves. */
export function start(program: string, args: readonly string[], options: StartOptions): ChildProcess {
  const child = spawn(program, [...args], {
    detached: options.detached === true,
    stdio: [...options.stdio],
    env: { ...process.env, LC_ALL: 'C', ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  child.on('error', () => undefined); // its end is reported by 'exit' and 'error', which callers watch
  return child;
}

/** This program's own entry point, to start another process of ours with: `[node, main.js]`. */
export function ourselves(): readonly [string, string] {
  return [process.execPath, new URL('../main.js', import.meta.url).pathname];
}
