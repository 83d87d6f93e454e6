import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, rmSync } from 'node:fs';
import { makeDirectory } from './durable.js';
import { runLean } from './run.js';
import { stateDirectory } from './state.js';

/**
 * A pipe whose ends are plain descriptors, which threads can use and child processes inherit: what node makes for a child's standard input only its event
 * loop can write to. Reading and writing block. The caller closes both.
 */
export async function makePipe(): Promise<{ readonly readFd: number; readonly writeFd: number }> {
  await makeDirectory(stateDirectory('pipes'));
  const path = stateDirectory('pipes', `${String(process.pid)}-${randomBytes(6).toString('hex')}`);
  try {
    return await makeNamedPipe(path);
  } finally {
    rmSync(path, { force: true });
  }
}

/** The same, of which another process can open an end by its name. Fails if there is something by that name. */
export async function makeNamedPipe(path: string): Promise<{ readonly readFd: number; readonly writeFd: number }> {
  await runLean('mkfifo', ['--mode=600', '--', path]);
  const opened: number[] = [];
  try {
    const open = (flags: number): number => {
      const fd = openSync(path, flags);
      opened.push(fd);
      return fd;
    };
    const first = open(constants.O_RDONLY | constants.O_NONBLOCK); // without waiting for a writer
    const writeFd = open(constants.O_WRONLY);
    const readFd = open(constants.O_RDONLY); // one that waits, as whoever inherits it expects
    closeSync(first);
    return { readFd, writeFd };
  } catch (error) {
    for (const fd of opened) closeSync(fd);
    throw error;
  }
}
