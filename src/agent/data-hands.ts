import { createInterface } from 'node:readline';
import { DrError } from '../model/errors.js';
import type { Debts } from '../model/obligation.js';
import { ourselves, start } from '../system/run.js';
import { bulkOptions } from '../system/ssh.js';
import type { SendOrder, Sent } from '../transfer/send.js';
import type { SenderLine } from '../transfer/sender.js';
import { isAlive, makeTicket, processMark, receiverOf, removeTicket, resultOf, revoke, sweepTickets, ticketDirectory } from '../transfer/ticket.js';
import { within } from '../transfer/within.js';
import type { CallContext, Handlers, Progress } from './protocol.js';

/** What moving data needs of a session. */
export interface DataSession {
  readonly ledger: Debts;
  atEnd(what: string, letGo: () => Promise<void>): void;
}

/** How long a sender that was told to stop may take before it is killed, and then to be gone. A hung source makes it unkillable. */
const STOP_MS = 3_000;
const GONE_MS = 2_000;

/** What the hands do when data is to be moved. The bytes themselves move in processes of their own. */
export function dataHands(session: DataSession, program: readonly string[] = ourselves()): Handlers<'transfer.offer' | 'transfer.send' | 'transfer.accept' | 'transfer.abort'> {
  const tickets = new Set<string>();
  let swept: Promise<void> | undefined;
  /** Asked for once for each destination: there are as many transfers as disks. */
  const sshOptions = new Map<string, Promise<readonly string[]>>();
  const optionsTo = (host: string): Promise<readonly string[]> => {
    const known = sshOptions.get(host) ?? bulkOptions(host);
    sshOptions.set(host, known);
    return known;
  };
  const endAll = async (): Promise<void> => {
    for (const ticket of tickets) await abort(ticket);
  };
  return {
    'transfer.offer': async (params) => {
      if (swept === undefined) {
        swept = sweepTickets();
        session.atEnd('transfers into images of this host', endAll);
      }
      await swept;
      const made = await makeTicket(params);
      tickets.add(made.ticket);
      return made;
    },
    'transfer.send': async (params, context) => sendInChild(session.ledger, program, { ...params, to: { ...params.to, sshOptions: await optionsTo(params.to.host) } }, context),
    'transfer.accept': (params) => resultOf(params.ticket),
    'transfer.abort': async ({ ticket }) => {
      await abort(ticket);
      tickets.delete(ticket);
      return {};
    },
  };
}

/** Kills the ticket's receiver, if there is one, and forgets the ticket. Throws `image-in-use` if it can't be killed. */
async function abort(ticket: string): Promise<void> {
  const directory = ticketDirectory(ticket);
  await revoke(ticket); // from here on no receiver begins: each looks again after it has said who it is
  const receiver = await receiverOf(directory);
  if (receiver !== undefined) {
    for (const deadline = Date.now() + GONE_MS; await isAlive(receiver);) {
      if (Date.now() > deadline) {
        throw new DrError('image-in-use', `the process ${String(receiver.pid)} that writes an image could not be ended: its disk does not answer`, 'Check that disk (kernel log).');
      }
      kill(receiver.pid);
      await new Promise((resolve) => { setTimeout(resolve, 20); });
    }
  }
  await removeTicket(ticket);
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has just ended, which is what is wanted
  }
}

/** Sends in a process of its own: a source that hangs must not hang the agent. */
async function sendInChild(ledger: Debts, [node = '', ...args]: readonly string[], order: SendOrder, { signal, progress }: CallContext): Promise<Sent> {
  if (signal.aborted) throw new DrError('cancelled', 'the transfer was cancelled');
  const child = start(node, [...args, 'agent', '--send'], { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
  let said = '';
  child.stderr?.on('data', (chunk: Buffer) => { said = (said + chunk.toString('utf8')).slice(-4096); });
  child.stdin?.on('error', () => undefined); // it ended: seen below
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => { resolve(error.message); });
    child.once('close', (code, by) => { resolve(by === null ? `it ended with status ${String(code)}` : `it was ended by ${by}`); });
  });
  const outcome = readOutcome(child.stdout, progress);

  // It does nothing before it has its order, so what is owed is written down first.
  const mark = child.pid === undefined ? undefined : await processMark(child.pid);
  const debt = mark === undefined ? undefined : await ledger.owe({ kind: 'kill', ...mark, what: `the process that sends ${order.source.path}` }).catch((error: unknown) => {
    child.stdin?.end();
    throw error;
  });
  let stop: () => void = () => undefined;
  const stopped = new Promise<undefined>((resolve) => { stop = () => { resolve(undefined); }; });
  signal.addEventListener('abort', stop);
  if (signal.aborted) stop(); // cancelled while the debt was written down
  try {
    child.stdin?.write(`${JSON.stringify(order)}\n`);
    const found = await Promise.race([outcome, stopped]);
    if (signal.aborted) throw new DrError('cancelled', 'the transfer was cancelled');
    if (found?.kind === 'result') return found.result;
    if (found?.kind === 'error') throw DrError.fromData(found.error);
    throw new DrError('sender-died', `the process that sends ${order.source.path} died: ${await within(GONE_MS, ended, 'it closed its output')}${said.trim() === '' ? '' : ` (${said.trim().split('\n').slice(-3).join('; ')})`}. The image being written was not completed; complete copies are untouched.`, 'Run the job again; look at the kernel log if it happens twice.');
  } finally {
    signal.removeEventListener('abort', stop);
    child.stdin?.end();
    let gone = await within(STOP_MS, ended, undefined);
    if (gone === undefined) {
      child.kill('SIGKILL');
      gone = await within(GONE_MS, ended, undefined);
    }
    if (debt !== undefined && gone !== undefined) await ledger.settled(debt.id); // else the debt stays, and is paid when the source lets go
    child.unref();
  }
}

/** Passes progress on; the last line that is more than that, or undefined if there was none. */
async function readOutcome(output: NodeJS.ReadableStream | null, progress: (report: Progress) => void): Promise<Exclude<SenderLine, { kind: 'progress' }> | undefined> {
  if (output === null) return undefined;
  let outcome: Exclude<SenderLine, { kind: 'progress' }> | undefined;
  for await (const text of createInterface({ input: output })) {
    const line = parseLine(text);
    if (line?.kind === 'progress') progress({ done: line.done, total: line.total, sent: line.sent });
    else if (line !== undefined) outcome = line;
  }
  return outcome;
}

/** A line from our own process; one that was cut short by its death says nothing. */
function parseLine(text: string): SenderLine | undefined {
  try {
    return JSON.parse(text) as SenderLine;
  } catch {
    return undefined;
  }
}
