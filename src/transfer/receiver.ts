import { writeSync } from 'node:fs';
import { DrError } from '../model/errors.js';
import { lock } from '../system/flock.js';
import { log } from '../system/log.js';
import { BlockPool } from './block-pool.js';
import type { Hello } from './frames.js';
import { BLOCK_BYTES } from './geometry.js';
import { Inlet } from './inlet.js';
import { receive, type Admission } from './receive.js';
import { Refusal } from './refusals.js';
import { imageLockPath, isAlive, markReceiver, processMark, redeem, type Offer } from './ticket.js';
import { within } from './within.js';

/** How long another writer of the same image may take to end, in seconds: ours may have just died on the far side of a cut link. */
const LOCK_SECONDS = 15;
/** Blocks in memory: on their way to the disk, or kept because their sender has asked about them. */
const SLOTS = 20;
/** More than a small host has cores: they mostly wait for the disk, which parts of blocks are written to and read back from one by one. */
const WORKERS = 4;
/** How long our last words may take, and then the sender to end what we read, in milliseconds. */
const LAST_MS = 2_000;
/** How often it is seen whether the agent that made the offer is still there. */
const OWNER_MS = 3_000;

/**
 * The body of `dr agent --receive`: frames on standard input and output, nothing else. Resolves to the exit status: 0 if the image
 * was received and proven.
 */
export async function runReceiver(): Promise<number> {
  process.umask(0o077);
  const aborted = new AbortController();
  const pool = new BlockPool({ slots: SLOTS, workers: WORKERS });
  const inlet = new Inlet(0, pool.memory); // node's stream of standard input is never opened
  // A thread that waits for a link that was cut would keep a process that has crashed, and the image's lock with it.
  process.once('uncaughtExceptionMonitor', (error) => {
    writeSync(2, `${String(error.stack)}\n`);
    process.kill(process.pid, 'SIGKILL');
  });
  const flushed = new Promise<void>((resolve) => { process.stdout.once('close', resolve).once('finish', resolve); });
  let status = 0;
  try {
    await receive(inlet, process.stdout, { pool, blockBytes: BLOCK_BYTES, signal: aborted.signal, admit: (hello) => admit(hello, aborted) });
  } catch (error) {
    log.error('receiving failed', { error: DrError.from(error).message });
    status = 1;
  }
  await within(LAST_MS, flushed, undefined);
  // Leaving in the ordinary way waits for all threads, and behind a cut link nobody ends what one of them reads.
  if (!await Inlet.settled(LAST_MS)) process.kill(process.pid, 'SIGKILL');
  await pool[Symbol.asyncDispose]();
  return status;
}

/** Lets a sender in who has the secret, once nobody else writes the image, for as long as the agent that made the offer lives. */
export async function admit(hello: Hello, abort: AbortController, lockSeconds: number = LOCK_SECONDS): Promise<Admission> {
  const redeemed = await redeem(hello.ticket, hello.secret);
  if (redeemed === undefined) throw new Refusal('ticket');
  const { directory, offer } = redeemed;
  const held = await lock(imageLockPath(offer.path), `the image ${offer.path}`, lockSeconds);
  try {
    const mark = await processMark(process.pid);
    if (mark === undefined) throw new DrError('internal', 'this process does not find itself in /proc');
    await checkOwner(offer);
    const first = await markReceiver(directory, mark);
    if (await redeem(hello.ticket, hello.secret) === undefined) throw new Refusal('ticket', 'it was revoked'); // whoever revoked it looks for us after that
    const watch = setInterval(() => {
      checkOwner(offer).catch((error: unknown) => { abort.abort(error); });
    }, OWNER_MS);
    return {
      directory, offer, usedBefore: !first,
      [Symbol.asyncDispose]: async () => {
        clearInterval(watch);
        await held.release();
      },
    };
  } catch (error) {
    await held.release();
    throw error;
  }
}

async function checkOwner(offer: Offer): Promise<void> {
  if (await isAlive(offer.owner)) return;
  throw new DrError('connection-lost', `the agent that prepared ${offer.path} for receiving has ended, so nobody guards it any more. The image being written was not completed; complete copies are untouched.`, 'Run the job again.');
}
