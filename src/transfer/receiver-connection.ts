import { closeSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { DrError } from '../model/errors.js';
import { makePipe } from '../system/pipe.js';
import { bulkOptions, startThere } from '../system/ssh.js';
import { Outlet } from './outlet.js';
import { within } from './within.js';

/** A receiver at the far end of ssh, or as a child process. */
export interface ReceiverConnection {
  readonly input: Readable;
  readonly output: Writable;
  /** Resolves when the far end's process has ended, with why that was, for people; after `waitMs` at the latest. */
  ended(waitMs: number): Promise<string>;
  kill(): void;
}

/** How the destination is reached; see `Route` of the agent's protocol. */
export interface Destination {
  readonly host: string;
  readonly agentCommand: readonly string[];
  /** Options of ssh for disks, where they are known: see `bulkOptions`. */
  readonly sshOptions?: readonly string[];
}

const STDERR_KEPT = 4096;
/** How long what was printed last may take to arrive after the end of the process. */
const LAST_LINES_MS = 100;

/** Starts `dr agent --receive` there. What is written to it from `memory` is not copied on the way to the kernel. */
export async function connectReceiver(to: Destination, memory: SharedArrayBuffer): Promise<ReceiverConnection> {
  const { child, writeFd } = await startOverPipe(to, '--receive');
  return overChild(child, new Outlet(writeFd, memory), to.host);
}

export type Child = ReturnType<typeof startThere>;

/** Starts our agent there in a mode; `options` are ssh's, besides those for disks. Its standard input is a pipe, to be written to and closed by the caller. */
export async function startOverPipe(to: Destination, mode: '--receive' | '--join', options: readonly string[] = []): Promise<{ readonly child: Child; readonly writeFd: number }> {
  const [forDisks, { readFd, writeFd }] = await Promise.all([to.sshOptions ?? bulkOptions(to.host), makePipe()]);
  try {
    return { child: startThere(to.host, to.agentCommand, ['agent', mode], [...forDisks, ...options], readFd), writeFd };
  } catch (error) {
    closeSync(writeFd);
    throw error;
  } finally {
    closeSync(readFd); // the child's alone: so its end is the end of every write
  }
}

/** The streams of a child process that is, or leads to, a receiver. */
function overChild(child: Child, output: Writable, host: string): ReceiverConnection {
  const { stdout, stderr } = child;
  if (stdout === null || stderr === null) throw new DrError('internal', 'a receiver needs its streams');
  let said = '';
  stderr.on('data', (chunk: Buffer) => { said = (said + chunk.toString('utf8')).slice(-STDERR_KEPT); });
  const end = new Promise<string>((resolve) => {
    child.once('error', (error) => { resolve(`it could not be started: ${error.message}`); });
    const told = (code: number | null, signal: NodeJS.Signals | null): void => { resolve(signal === null ? `it ended with status ${String(code)}` : `it was ended by ${signal}`); };
    child.once('close', told);
    // A shared ssh connection stays behind in the background and keeps our pipes open: then there is no 'close'.
    child.once('exit', (code, signal) => { setTimeout(told, LAST_LINES_MS, code, signal).unref(); });
  });
  return {
    input: stdout,
    output,
    ended: async (waitMs) => {
      const how = await within(waitMs, end, 'it closed its end');
      const last = said.trim().split('\n').slice(-3).join('; ');
      return `the receiver on ${host}: ${how}${last === '' ? '' : ` (${last})`}`;
    },
    kill: () => { child.kill('SIGKILL'); },
  };
}
