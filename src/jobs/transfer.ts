import type { Agent } from '../agent/connect.js';
import type { Params, ReceiveResult, Route, SendResult } from '../agent/protocol.js';
import { DrError } from '../model/errors.js';
import type { TransferEvent } from '../model/run-event.js';
import type { Emit } from './context.js';
import type { DiskSource } from './deliver.js';

/** One disk from a path on one host to a path on another: the three requests of a transfer in their order. */
export interface TransferOrder {
  readonly from: DiskSource;
  readonly to: Agent;
  /** How the source's host reaches the destination. */
  readonly route: Route;
  readonly path: string;
  readonly start: Params<'transfer.offer'>['start'];
  readonly readBack: boolean;
  readonly limitBytesPerSecond?: number;
  readonly signal: AbortSignal;
  readonly show: Pick<TransferEvent, 'what' | 'server' | 'disk' | 'to'> & { readonly emit: Emit };
}

export type Transferred = SendResult & Pick<ReceiveResult, 'bytesWritten' | 'proof' | 'provenSince'> & { readonly ticket: string };

/** Throws what either side threw. The received digest is held against the sent one here and again when the set is proven. */
export async function transfer(order: TransferOrder): Promise<Transferred> {
  const { from, to, signal } = order;
  const { emit, ...shown } = order.show;
  const show = (state: TransferEvent['state'], done: number, sent: number): void => {
    emit({ kind: 'transfer', state, ...shown, done, total: from.source.bytes, sent });
  };
  const { ticket, secret } = await to.call('transfer.offer', { path: order.path, bytes: from.source.bytes, start: order.start, readBack: order.readBack }, { signal });
  try {
    show('begin', 0, 0);
    const sent = await from.agent.call('transfer.send', {
      source: from.source, to: order.route, ticket, secret,
      ...(order.limitBytesPerSecond === undefined ? {} : { limitBytesPerSecond: order.limitBytesPerSecond }),
    }, { signal, onProgress: (progress) => { show('progress', progress.done, progress.sent); } });
    const received = await to.call('transfer.accept', { ticket }, { signal });
    if (received.digest !== sent.digest) {
      throw new DrError('digest-mismatch', `${to.host} received ${received.digest}, ${from.agent.host} sent ${sent.digest}`, 'Run the job again; if it happens twice, test the memory of both hosts.');
    }
    show('end', from.source.bytes, sent.bytesSent);
    return { ...sent, bytesWritten: received.bytesWritten, proof: received.proof, provenSince: received.provenSince, ticket };
  } catch (error) {
    show('failed', 0, 0);
    await to.call('transfer.abort', { ticket }).catch(() => undefined); // the receiver also ends by itself
    throw error;
  }
}
