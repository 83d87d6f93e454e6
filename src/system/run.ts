import { spawn, type ChildProcess } from 'node:child_process';
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
  const { execa, ExecaError } = await import('execa'); // processes that only move data never need it, and start sooner
  const okExit = options.okExit ?? [0];
  const result = await execa(program, [...args], {
    reject: false,
    stripFinalNewline: false,
    ...(options.input === undefined ? { stdin: 'ignore' as const } : { input: options.input }),
    timeout: options.timeoutMs ?? 60_000,
    killSignal: 'SIGKILL',
    env: { LC_ALL: 'C', ...options.env },
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    maxBuffer: 256 * 1024 * 1024,
  });
  if (result instanceof ExecaError || result.exitCode === undefined) {
    const error = result as InstanceType<typeof ExecaError>;
    if (error.code === 'ENOENT') throw new DrError('program-missing', `the program ${program} is not installed on this host`, `Install the package that has ${program}.`);
    if (error.isCanceled) throw new DrError('cancelled', `${program} was stopped because the run was cancelled`);
    if (error.timedOut) throw new DrError('timeout', `${program} ${args[0] ?? ''} did not answer in ${String(Math.round((options.timeoutMs ?? 60_000) / 1000))} s`);
  }
  const exitCode = result.exitCode ?? -1;
  const stdout = typeof result.stdout === 'string' ? result.stdout : '';
  const stderr = typeof result.stderr === 'string' ? result.stderr : '';
  if (!okExit.includes(exitCode)) {
    const said = stderr.trim().split('\n').slice(-5).join('; ');
    throw new DrError('program-failed', `${program} ${args.join(' ')} failed (${result.exitCode === undefined ? (result.signal ?? 'no exit status') : `exit ${String(exitCode)}`})${said === '' ? '' : `: ${said}`}`);
  }
  return { stdout, stderr, exitCode };
}

export interface StartOptions {
  /** One entry per descriptor from 0 on, as for child_process.spawn. */
  readonly stdio: readonly ('ignore' | 'pipe' | 'inherit' | 'ipc' | number)[];
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
