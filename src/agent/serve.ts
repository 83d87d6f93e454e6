import { hostname } from 'node:os';
import rpc from 'vscode-jsonrpc/node.js';
import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { bootId } from '../system/processes.js';
import { version } from '../system/version.js';
import { cacheHands } from './cache-hands.js';
import { checkHands } from './check-hands.js';
import { dataHands } from './data-hands.js';
import { nodeHands } from './node-hands.js';
import { DEAD_AFTER_MS, HEARTBEAT_MS, PROTOCOL, type Handlers, type Method, type Params, type Progress } from './protocol.js';
import { openSession, type Session } from './session.js';
import { targetHands } from './target-hands.js';

/** At most one progress report per call in this many milliseconds. */
const PROGRESS_MS = 250;

/**
 * Serves one head on standard input and output until the connection ends, in whatever way; then lets go of everything and pays what is
 * owed. Resolves when all that is done.
 */
export async function serve(input: NodeJS.ReadableStream, output: NodeJS.WritableStream): Promise<void> {
  process.umask(0o077);
  const session = await openSession();
  const connection = rpc.createMessageConnection(new rpc.StreamMessageReader(input), new rpc.StreamMessageWriter(output));
  const running = new Set<Promise<unknown>>();

  const ended = new Promise<string>((resolve) => {
    let heard = Date.now();
    input.on('data', () => { heard = Date.now(); });
    input.on('end', () => { resolve('the head closed the connection'); });
    output.on('error', () => { resolve('the head is gone'); });
    connection.onClose(() => { resolve('the head closed the connection'); });
    connection.onError(([error]) => { resolve(error.message); });
    for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.on(signal, () => { resolve(`received ${signal}`); });
    const pulse = setInterval(() => {
      if (Date.now() - heard > DEAD_AFTER_MS) resolve(`nothing was heard from the head for ${String(DEAD_AFTER_MS / 1000)} s`);
      else connection.sendNotification('heartbeat').catch(() => undefined); // a failed write shows as a closed connection
    }, HEARTBEAT_MS);
    void session.over.then(() => { clearInterval(pulse); });
  });

  for (const [method, handler] of Object.entries(handlers(session)) as [Method, Handlers[Method]][]) {
    connection.onRequest(method, async (message: { call: number; params: Params<Method> }, token: rpc.CancellationToken) => {
      const answer = answerCall(connection, session, handler as AnyHandler, message, token);
      running.add(answer);
      try {
        return await answer;
      } finally {
        running.delete(answer);
      }
    });
  }
  connection.onNotification('heartbeat', () => undefined);
  connection.listen();

  log.info('the agent ends', { why: await ended });
  connection.dispose();
  session.abort();
  await Promise.race([Promise.allSettled(running), new Promise((resolve) => { setTimeout(resolve, 5_000).unref(); })]);
  await session.close();
}

type AnyHandler = (params: Params<Method>, context: { signal: AbortSignal; progress: (report: Progress) => void }) => Promise<unknown>;

async function answerCall(connection: rpc.MessageConnection, session: Session, handler: AnyHandler,
  message: { call: number; params: Params<Method> }, token: rpc.CancellationToken): Promise<unknown> {
  const cancel = new AbortController();
  token.onCancellationRequested(() => { cancel.abort(); });
  let last = 0;
  const progress = (report: Progress): void => {
    const now = Date.now();
    if (now - last < PROGRESS_MS && report.done !== report.total) return;
    last = now;
    connection.sendNotification('progress', { call: message.call, progress: report }).catch(() => undefined); // the connection is ending
  };
  try {
    return await handler(message.params, { signal: AbortSignal.any([cancel.signal, session.signal]), progress });
  } catch (error) {
    const failure = DrError.from(error);
    if (failure.code === 'internal') log.error('a request failed in an unforeseen way', { error: error instanceof Error ? error.stack : String(error) });
    return new rpc.ResponseError(1, failure.message, failure.toJSON());
  }
}

function handlers(session: Session): Handlers {
  return {
    'hello': async (params) => {
      session.run = params.run;
      return { protocol: PROTOCOL, version, hostname: hostname(), bootId: await bootId() };
    },
    'lock': (params) => session.lock(params.name, params.what),
    'unlock': async (params) => {
      await session.unlock(params.lock);
      return {};
    },
    ...checkHands(session),
    ...nodeHands(session),
    ...cacheHands(session),
    ...dataHands(session),
    ...targetHands(session),
  };
}
