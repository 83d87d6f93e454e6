import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import { makeDirectory, readIfThere, readJson, removeDurable, syncDirectory, writeDurable } from '../system/durable.js';
import { bootId, startTime } from '../system/processes.js';
import { stateDirectory } from '../system/state.js';
import { parseReceived, type Received } from './frames.js';
import { imageDigestOfFile } from './image-digest.js';
import { identify } from './image-file.js';

/**
 * A ticket lets one sender write one image once. It is a directory, 0700, on the destination:
 *
 *   offer.json      what may be written where, and the digest of the secret; written by the agent
 *   receiver.json   the process that began to receive; from here on what the image holds is unknown
 *   digests         32 bytes per block, in order
 *   result.json     written last: the image was received whole, and proven
 */

/**
 * What the destination holds before the transfer: zeros (`fresh`), old data of no use (`stale`), what must be read to be known (`read`), or the image whose digests
 * are in a file (`recycle`). Or zeros, and blocks with the digests in a file are not wanted (`without`): holes stay in their place.
 */
export type Start = 'fresh' | 'stale' | 'read' | { readonly recycle: string; readonly provenSince: string } | { readonly without: string };

export interface Offer {
  readonly version: 1;
  readonly path: string;
  readonly bytes: number;
  readonly start: Start;
  readonly readBack: boolean;
  /** SHA-256 of the secret, hex. */
  readonly secretHash: string;
  /** The very file or device that the path led to. */
  readonly identity: string;
  /** When it had last been written to, so that what was said of its content is only believed of that. */
  readonly mtime: string;
  /** The agent that made the offer. When it is gone nobody guards the image any more, and receiving ends. */
  readonly owner: ProcessMark;
}

/** One process of one boot, told from a later one with the same number. */
export interface ProcessMark {
  readonly pid: number;
  readonly startTime: string;
  readonly bootId: string;
}

const TICKET = /^[0-9a-f]{32}$/;

/** Where a ticket is kept. Throws `not-ours` for what can't be one, so that no path trick gets by. */
export function ticketDirectory(ticket: string): string {
  if (!TICKET.test(ticket)) throw new DrError('not-ours', 'that is no ticket');
  return stateDirectory('tickets', ticket);
}

/** Where the block digests are that a ticket's receiver found. */
export function ticketDigests(ticket: string): string {
  return join(ticketDirectory(ticket), 'digests');
}

export async function processMark(pid: number): Promise<ProcessMark | undefined> {
  const began = await startTime(pid);
  return began === undefined ? undefined : { pid, startTime: began, bootId: await bootId() };
}

export async function isAlive(mark: ProcessMark): Promise<boolean> {
  return mark.bootId === await bootId() && mark.startTime === await startTime(mark.pid);
}

/**
 * Makes a ticket for an existing file or device of at least `bytes`. The secret is returned once and kept nowhere. Throws
 * `state-changed` if the path leads to nothing fit.
 */
export async function makeTicket(wanted: Pick<Offer, 'path' | 'bytes' | 'start' | 'readBack'>): Promise<{ readonly ticket: string; readonly secret: string }> {
  if (!wanted.path.startsWith('/')) throw new DrError('name-invalid', `${JSON.stringify(wanted.path)} is no absolute path`);
  if (!Number.isSafeInteger(wanted.bytes) || wanted.bytes < 0) throw new DrError('usage', `${String(wanted.bytes)} is no size`);
  const { identity, mtime, bytes } = await identify(wanted.path);
  if (bytes < wanted.bytes) {
    throw new DrError('state-changed', `${wanted.path} has ${String(bytes)} bytes, the disk needs ${String(wanted.bytes)}. Nothing was written.`, 'Run the job again; it looks at everything afresh.');
  }
  const owner = await processMark(process.pid);
  if (owner === undefined) throw new DrError('internal', 'this process does not find itself in /proc');
  const ticket = randomBytes(16).toString('hex');
  const secret = randomBytes(32).toString('hex');
  const directory = ticketDirectory(ticket);
  await makeDirectory(directory);
  const offer: Offer = { version: 1, path: wanted.path, bytes: wanted.bytes, start: wanted.start, readBack: wanted.readBack, secretHash: hashOf(secret).toString('hex'), identity, mtime, owner };
  await writeDurable(join(directory, 'offer.json'), JSON.stringify(offer));
  return { ticket, secret };
}

/** The offer behind a ticket, if the secret belongs to it. */
export async function redeem(ticket: string, secret: string): Promise<{ readonly directory: string; readonly offer: Offer } | undefined> {
  if (!TICKET.test(ticket)) return undefined;
  const directory = ticketDirectory(ticket);
  const offer = await readJson(join(directory, 'offer.json')) as Offer | undefined; // written by us, whole
  if (offer === undefined || !timingSafeEqual(hashOf(secret), Buffer.from(offer.secretHash, 'hex'))) return undefined;
  return { directory, offer };
}

function hashOf(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}

/** Writes down who receives; false if somebody did before. After that the image's content is unknown until the result is there. */
export async function markReceiver(directory: string, mark: ProcessMark): Promise<boolean> {
  const path = join(directory, 'receiver.json');
  const first = await readIfThere(path) === undefined;
  await writeDurable(path, JSON.stringify(mark));
  return first;
}

export async function receiverOf(directory: string): Promise<ProcessMark | undefined> {
  return await readJson(join(directory, 'receiver.json')) as ProcessMark | undefined;
}

export async function keepResult(directory: string, result: Received): Promise<void> {
  await writeDurable(join(directory, 'result.json'), JSON.stringify(result));
}

/**
 * The result of a completed transfer, held against its digests once more. Throws `transfer-failed` if the transfer never completed.
 */
export async function resultOf(ticket: string): Promise<Received> {
  const directory = ticketDirectory(ticket);
  const result = parseReceived(await readJson(join(directory, 'result.json')));
  if (result === undefined) {
    throw new DrError('transfer-failed', 'the transfer did not complete. The image being written stays incomplete; complete copies are untouched.', 'Run the job again: what has arrived is not sent again.');
  }
  const digest = await imageDigestOfFile(join(directory, 'digests'));
  if (digest !== result.digest) {
    throw new DrError('digest-mismatch', `the digests kept for ${ticket} are not those of its result`, 'Check the disk that holds /var/lib/dr-engine.');
  }
  return result;
}

/** Voids a ticket: no receiver begins any more, though one may have begun. Safe to do twice. */
export async function revoke(ticket: string): Promise<void> {
  await removeDurable(join(ticketDirectory(ticket), 'offer.json'));
}

/** Forgets a ticket; its receiver must have ended. */
export async function removeTicket(ticket: string): Promise<void> {
  await rm(ticketDirectory(ticket), { recursive: true, force: true });
}

/** Removes tickets whose agent and receiver are both gone: nobody can redeem or accept them any more. */
export async function sweepTickets(): Promise<void> {
  const root = stateDirectory('tickets');
  for (const ticket of await readdir(root).catch(() => [])) { // no ticket was ever made here
    if (!TICKET.test(ticket)) continue;
    const directory = join(root, ticket);
    const offer = await readJson(join(directory, 'offer.json')).catch(() => undefined) as Offer | undefined;
    if (offer !== undefined && await isAlive(offer.owner)) continue;
    const receiver = await receiverOf(directory).catch(() => undefined);
    if (offer === undefined && receiver === undefined && await isYoung(directory)) continue; // it is being made just now
    if (receiver === undefined || !await isAlive(receiver)) await removeTicket(ticket);
  }
  await syncDirectory(root).catch(() => undefined); // nothing depends on the removal being durable
}

async function isYoung(directory: string): Promise<boolean> {
  const status = await stat(directory).catch(() => undefined); // somebody else swept it
  return status !== undefined && Date.now() - status.mtimeMs < 3_600_000;
}

/** The lock that whoever writes an image holds. */
export function imageLockPath(path: string): string {
  return stateDirectory('locks', `image-${hashOf(path).toString('hex').slice(0, 32)}.lock`);
}
