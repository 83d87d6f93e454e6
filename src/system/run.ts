import { execFile, spawn, type ChildProcess, type ExecFileException } from 'node:child_process';
import { DrError } from '../model/errors.js';

/** The only file that starts foreign programs. No shell is involved anywhere; output is in the C locale. */

const TIMEOUT_MS = 60_000;
/** No program that we call prints more, in bytes. */
const MAX_OUTPUT = 256 * 1024 * 1024;

export interface RunOptions {
  readonly input?: string;
  /** The program is killed after so many milliseconds and `timeout` thrown. Default 60 s. */
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
  const { error, stdout, stderr } = await ended(program, args, options);
  if (error?.code === 'ENOENT') throw new DrError('program-missing', `the program ${program} is not installed on this host`, `Install the package that has ${program}.`);
  if (error?.code === 'ABORT_ERR') throw new DrError('cancelled', `${program} was stopped because the run was cancelled`);
  if (error?.killed === true && error.code === null) throw new DrError('timeout', `${program} ${args[0] ?? ''} did not answer in ${String(Math.round((options.timeoutMs ?? TIMEOUT_MS) / 1000))} s`);
  const exitCode = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
  if (!(options.okExit ?? [0]).includes(exitCode)) {
    const said = stderr.trim().split('\n').slice(-5).join('; ');
    const how = exitCode === -1 ? error?.signal ?? error?.code ?? 'no exit status' : `exit ${String(exitCode)}`;
    throw new DrError('program-failed', `${program} ${args.join(' ')} failed (${how})${said === '' ? '' : `: ${said}`}`);
  }
  return { stdout, stderr, exitCode };
}

/** Node's own, and no library: loading one takes every process of a run a tenth of a second, and there are many. */
function ended(program: string, args: readonly string[], options: RunOptions): Promise<{ readonly error: ExecFileException | null; readonly stdout: string; readonly stderr: string }> {
  return new Promise((resolve) => {
    const child = execFile(program, [...args], {
      timeout: options.timeoutMs ?? TIMEOUT_MS, killSignal: 'SIGKILL', maxBuffer: MAX_OUTPUT, env: { ...process.env, LC_ALL: 'C', ...options.env },
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    }, (error, stdout, stderr) => { resolve({ error, stdout, stderr }); });
    child.stdin?.on('error', () => undefined); // it did not want its input, and says why itself
    child.stdin?.end(options.input);
  });
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
