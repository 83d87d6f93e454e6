import type { Agent } from '../agent/connect.js';
import type { Params, ReceiveResult, Route, SendResult } from '../agent/protocol.js';
import type { BandwidthSpan } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { DataSource } from '../model/host.js';
import type { TransferEvent } from '../model/run-event.js';
import type { Emit } from './context.js';
import { limitSteps } from './limit-steps.js';

/** Where a disk's bytes are read: on which host, and from which path. */
export interface DiskSource {
  readonly agent: Agent;
  readonly source: DataSource;
  /** Digest of what was captured, when it is known from an earlier hop. */
  readonly digest?: string;
}

/** One disk from a path on one host to a path on another: the three requests of a transfer in their order. */
export interface TransferOrder {
  readonly from: DiskSource;
  readonly to: Agent;
  /** How the source's host reaches the destination. */
  readonly route: Route;
  readonly path: string;
  readonly start: Params<'transfer.offer'>['start'];
  readonly readBack: boolean;
  /** By time of day; none where there is no span. */
  readonly bandwidth: readonly BandwidthSpan[];
  /** ssh connections; absent: as many as help. */
  readonly streams?: number | undefined;
  readonly signal: AbortSignal;
  /** Told how many bytes a transfer that fails had sent. */
  readonly inVain?: (bytesSent: number) => void;
  readonly show: Pick<TransferEvent, 'what' | 'server' | 'disk' | 'to'> & { readonly emit: Emit };
}

export type Transferred = SendResult & Pick<ReceiveResult, 'bytesWritten' | 'proof' | 'provenSince'> & { readonly ticket: string };

/** A transfer that has not come a block further for so long is given up, in milliseconds: somewhere a disk hangs. */
const STALL_MS = 10 * 60_000;

/** Throws what either side threw. The received digest is held against the sent one here and again when the set is proven. */
export async function transfer(order: TransferOrder): Promise<Transferred> {
  try {
    return await transferOnce(order, false);
  } catch (error) {
    if (!(error instanceof DrError && error.code === 'patch-failed')) throw error;
    // Parts are compared by digests that prove nothing. The image is read now, so what has arrived is not sent again; on a cache drive what was left out stays so.
    const { start } = order;
    const moved = await transferOnce({ ...order, start: typeof start === 'object' && 'without' in start ? start : 'read' }, true);
    return { ...moved, note: [moved.note, 'what differs was sent once more, in whole blocks: the digests of parts of a block had shown less than what changed (patch-digest)'].filter((note) => note !== undefined).join('; ') };
  }
}

/** `whole`: blocks that differ are sent as they are. */
async function transferOnce(order: TransferOrder, whole: boolean): Promise<Transferred> {
  const { from, to } = order;
  await using watchdog = stallWatch(order);
  const { signal } = watchdog;
  const { emit, ...shown } = order.show;
  const show = (state: TransferEvent['state'], done: number, sent: number): void => {
    emit({ kind: 'transfer', state, ...shown, done, total: from.source.bytes, sent });
  };
  let sentSoFar = 0;
  const { ticket, secret } = await to.call('transfer.offer', { path: order.path, bytes: from.source.bytes, start: order.start, readBack: order.readBack }, { signal });
  try {
    show('begin', 0, 0);
    const sent = await from.agent.call('transfer.send', {
      source: from.source, to: order.route, ticket, secret,
      ...(order.bandwidth.length === 0 ? {} : { limit: limitSteps(order.bandwidth, new Date()) }),
      ...(order.streams === undefined ? {} : { streams: order.streams }),
      ...(whole ? { whole } : {}),
    }, { signal, onProgress: (progress) => {
      sentSoFar = progress.sent;
      watchdog.moved(progress.done);
      show('progress', progress.done, progress.sent);
    } });
    const received = await to.call('transfer.accept', { ticket }, { signal });
    if (received.digest !== sent.digest) {
      throw new DrError('digest-mismatch', `${to.host} received ${received.digest}, ${from.agent.host} sent ${sent.digest}`, 'Run the job again; if it happens twice, test the memory of both hosts.');
    }
    show('end', from.source.bytes, sent.bytesSent);
    return { ...sent, bytesWritten: received.bytesWritten, proof: received.proof, provenSince: received.provenSince, ticket };
  } catch (thrown) {
    const error: unknown = watchdog.stalled() ?? thrown;
    show('failed', 0, 0);
    order.inVain?.(sentSoFar);
    await to.call('transfer.abort', { ticket }, { signal: AbortSignal.timeout(ABORT_MS) }).catch(() => undefined); // the receiver also ends by itself
    throw error;
  }
}

/** How long the receiver's agent is waited for when a transfer is given up, in milliseconds. */
const ABORT_MS = 5_000;

/** The order's signal, aborted also when the transfer stands still. */
function stallWatch({ signal, from, to, path }: TransferOrder): AsyncDisposable & { readonly signal: AbortSignal; moved(done: number): void; stalled(): DrError | undefined } {
  const stall = new AbortController();
  let stalled: DrError | undefined;
  let last = -1;
  const giveUp = (): void => {
    stalled = new DrError('timeout', `nothing has moved for ${String(STALL_MS / 60_000)} min between ${from.agent.host} and ${path} on ${to.host}. The image was not completed; older copies are untouched.`,
      'Look for a disk or a mount that hangs on either host.');
    stall.abort(stalled);
  };
  let timer = setTimeout(giveUp, STALL_MS);
  return {
    signal: AbortSignal.any([signal, stall.signal]),
    moved: (done) => {
      if (done === last) return;
      last = done;
      clearTimeout(timer);
      timer = setTimeout(giveUp, STALL_MS);
    },
    stalled: () => stalled,
    [Symbol.asyncDispose]: () => {
      clearTimeout(timer);
      return Promise.resolve();
    },
  };
}
