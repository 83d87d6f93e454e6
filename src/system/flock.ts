import type { ChildProcess } from 'node:child_process';
import { dirname } from 'node:path';
import { DrError } from '../model/errors.js';
import { makeDirectory } from './durable.js';
import { start } from './run.js';

/** A lock that vanishes with its holder: a child of ours holds flock(2) until its standard input closes. */
export interface Lock extends AsyncDisposable {
  readonly path: string;
  release(): Promise<void>;
}

/**
 * Takes the lock on `path` (the file is created and stays). Throws `locked` if somebody else holds it after `waitSeconds`.
 */
export async function lock(path: string, what: string, waitSeconds = 0): Promise<Lock> {
  await makeDirectory(dirname(path));
  const wait = waitSeconds === 0 ? ['--nonblock'] : ['--wait', String(waitSeconds)];
  // `cat` ends when we do, however we end; --no-fork makes the locking process and `cat` one.
  const child = start('flock', ['--exclusive', ...wait, '--conflict-exit-code', '75', '--no-fork', path, 'sh', '-c', 'echo held; exec cat'],
    { stdio: ['pipe', 'pipe', 'ignore'], env: {}, detached: true });
  const held = await new Promise<boolean>((resolve, reject) => {
    child.once('error', (error) => { reject(new DrError('program-missing', `flock could not be started: ${error.message}`, 'Install util-linux.')); });
    child.once('exit', (code) => {
      if (code === 75) resolve(false);
      else reject(new DrError('io', `flock on ${path} ended with status ${String(code)}`));
    });
    child.stdout?.once('data', () => { resolve(true); });
  });
  if (!held) throw new DrError('locked', `${what} is held by another run`, 'Wait until it has ended, or cancel it.');
  return { path, release: () => end(child), [Symbol.asyncDispose]: () => end(child) };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => { resolve(); }));
  child.stdin?.end();
  await ended;
}
