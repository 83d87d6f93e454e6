import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, unlinkSync } from 'node:fs';
import { makeDirectory } from './durable.js';
import { runLean } from './run.js';
import { stateDirectory } from './state.js';

/**
 * A pipe whose ends are plain descriptors, which threads can use and child processes inherit: what node makes for a child's standard input only its event
 * loop can write to. Writing blocks. The caller closes both.
 */
export async function makePipe(): Promise<{ readonly readFd: number; readonly writeFd: number }> {
  await makeDirectory(stateDirectory('pipes'));
  const path = stateDirectory('pipes', `${String(process.pid)}-${randomBytes(6).toString('hex')}`);
  await runLean('mkfifo', ['--mode=600', '--', path]);
  let readFd: number | undefined;
  try {
    readFd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK); // without waiting for a writer
    return { readFd, writeFd: openSync(path, constants.O_WRONLY) };
  } catch (error) {
    if (readFd !== undefined) closeSync(readFd);
    throw error;
  } finally {
    unlinkSync(path);
  }
}
