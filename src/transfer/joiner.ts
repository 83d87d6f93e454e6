import { once } from 'node:events';
import { closeSync, readSync, writeSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { DrError } from '../model/errors.js';
import { hasCode } from '../system/durable.js';
import { makeNamedPipe } from '../system/pipe.js';
import { start } from '../system/run.js';
import { Refusal } from './refusals.js';
import { sideStreamPipe, sideStreamsSocket } from './side-streams.js';
import { redeem } from './ticket.js';

/** What a joiner is told first, as one line of JSON. */
export interface Joining {
  readonly ticket: string;
  readonly secret: string;
  /** From 1 on. */
  readonly stream: number;
}

/** What it answers when it has reached the receiver's socket. */
export const JOINED = 'joined\n';

const LINE_MAX = 1024;
/** How long standard input that has nothing yet is left alone, in milliseconds. */
const NOTHING_YET_MS = 20;

/**
 * The body of `dr agent --join`: the far end of a side stream. What comes on standard input after the first line goes to the receiver of the ticket, by cat(1) and a pipe and not
 * by us. Resolves to the exit status.
 */
export async function runJoiner(): Promise<number> {
  const { ticket, secret, stream } = JSON.parse(await firstLine()) as Joining; // from our own sender
  const redeemed = await redeem(ticket, secret);
  if (redeemed === undefined || !Number.isInteger(stream) || stream < 1 || stream > 255) throw new Refusal('ticket');
  const socket = connect(sideStreamsSocket(redeemed.directory));
  await once(socket, 'connect');
  const { readFd, writeFd } = await makeNamedPipe(sideStreamPipe(redeemed.directory, stream));
  await join(socket, stream);
  closeSync(readFd); // the receiver's is the only one from here on: so its end is the end of cat
  const cat = start('cat', [], { stdio: ['inherit', writeFd, 'inherit'] });
  closeSync(writeFd);
  const ended = once(cat, 'exit');
  await once(cat, 'spawn');
  // Behind a cut link nobody ends our input; the receiver, who says nothing else on this socket, goes away.
  socket.resume().once('close', () => { cat.kill('SIGKILL'); });
  writeSync(1, JOINED); // a stream would make what cat may share with it non-blocking
  const [code] = await ended as [number | null];
  socket.destroy();
  return code ?? 1;
}

/** Says which stream this is, and waits until the receiver has opened its pipe. */
async function join(socket: Socket, stream: number): Promise<void> {
  const answered = new Promise<boolean>((resolve) => { socket.once('data', () => { resolve(true); }).once('close', () => { resolve(false); }); });
  socket.write(Uint8Array.of(stream));
  if (!await answered) throw new Refusal('stream', String(stream));
}

/** Read byte by byte and never through a stream, so that what follows is left where it is. */
async function firstLine(): Promise<string> {
  const byte = Buffer.alloc(1);
  let line = '';
  while (line.length < LINE_MAX) {
    const got = await readOne(byte);
    if (!got) break;
    if (byte[0] === 0x0a) return line;
    line += byte.toString('latin1');
  }
  throw new DrError('transfer-protocol', 'a stream was to be joined to a transfer, and nothing said which');
}

async function readOne(byte: Buffer): Promise<boolean> {
  for (;;) {
    try {
      return readSync(0, byte, 0, 1, null) === 1;
    } catch (error) {
      if (hasCode(error, 'EOF')) return false;
      if (!hasCode(error, 'EAGAIN')) throw error;
      await new Promise((resolve) => { setTimeout(resolve, NOTHING_YET_MS); });
    }
  }
}
