import { setInterval, clearInterval } from 'node:timers';
import rpc from 'vscode-jsonrpc/node.js';
import { DrError, isErrorData } from '../model/errors.js';
import { startThere } from '../system/ssh.js';
import { log } from '../system/log.js';
import { DEAD_AFTER_MS, HEARTBEAT_MS, PROTOCOL, type Method, type Params, type Progress, type Result, type Route } from './protocol.js';

/** The head's end of a connection to one host's hands. */
export interface Agent {
  readonly host: string;
  /** What the host calls itself. */
  readonly hostname: string;
  /** Throws the DrError that the agent threw, `connection-lost`, or `cancelled`. */
  call<M extends Method>(method: M, params: Params<M>, options?: CallOptions): Promise<Result<M>>;
  /** Aborted with a DrError when the connection is lost. */
  readonly lost: AbortSignal;
  /** Ends the session; the agent lets go of everything and pays what it owes, which this waits for (30 s at most). */
  close(): Promise<void>;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
}

/** How long a cancelled request may take to be answered, in milliseconds. */
const CANCEL_MS = 3_000;
/** How long an agent may take to let go of everything, in milliseconds. */
const CLOSE_MS = 30_000;
/** Connection, log-in and start of the agent together, in milliseconds; a busy host takes its time to start a program. */
const HELLO_MS = 60_000;

/**
 * Starts `dr agent` on the host and shakes hands, for which there are `helloMs` milliseconds. Throws `unreachable` (with what ssh said) or `protocol-version`; nothing was touched then.
 */
export async function connect(route: Route, run: string, helloMs: number = HELLO_MS): Promise<Agent> {
  const child = startThere(route.host, route.agentCommand, ['agent']);
  let said = '';
  child.stderr?.on('data', (data: Buffer) => { said = (said + data.toString()).slice(-2000); });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => { resolve(); });
    child.once('error', (error) => { said += error.message; resolve(); });
  });
  if (child.stdout === null || child.stdin === null) throw new DrError('internal', 'no pipes to the agent');
  child.stdin.on('error', () => undefined); // the end of the connection is noticed on the reading side

  const connection = rpc.createMessageConnection(new rpc.StreamMessageReader(child.stdout), new Writer(child.stdin));
  const lost = new AbortController();
  const lose = (why: string): void => {
    if (lost.signal.aborted) return;
    lost.abort(new DrError('connection-lost', `the connection to ${route.host} was lost: ${why}. Its agent lets go of everything and starts what it shut down by itself.`,
      'Look at dr status when the host can be reached again; the next run continues from what is there.'));
  };

  let closing = false;
  let heard: number | undefined; // silence counts from the first word on; until then HELLO_MS does
  child.stdout.on('data', () => { heard = Date.now(); });
  const watchers = new Map<number, (progress: Progress) => void>();
  connection.onNotification('progress', (note: { call: number; progress: Progress }) => { watchers.get(note.call)?.(note.progress); });
  connection.onNotification('heartbeat', () => undefined);
  // The end of our own words is told here, too; the agent lets go of everything after it, and is waited for.
  connection.onClose(() => { if (!closing) lose(lastLine(said) ?? 'it was closed'); });
  // A heartbeat that is overtaken by the end of our words is an error, too: of no account then.
  connection.onError(([error]) => { if (!closing) lose(error.message); });
  connection.listen();
  void ended.then(() => { lose(lastLine(said) ?? 'the agent ended'); });
  const pulse = setInterval(() => {
    if (heard !== undefined && Date.now() - heard > DEAD_AFTER_MS) lose(`nothing was heard for ${String(DEAD_AFTER_MS / 1000)} s`);
    else connection.sendNotification('heartbeat').catch(() => undefined); // a failed write shows as a closed connection
  }, HEARTBEAT_MS);
  pulse.unref();
  lost.signal.addEventListener('abort', () => {
    clearInterval(pulse);
    connection.dispose();
    child.kill('SIGKILL'); // our end of the connection only; the agent notices and pays
  });

  let calls = 0;
  const call = async <M extends Method>(method: M, params: Params<M>, options: CallOptions = {}): Promise<Result<M>> => {
    lost.signal.throwIfAborted();
    if (closing) throw new DrError('internal', `${method} was asked of ${route.host} after the session was closed`);
    if (options.signal?.aborted === true) throw cancelled();
    const number = ++calls;
    if (options.onProgress !== undefined) watchers.set(number, options.onProgress);
    const token = new rpc.CancellationTokenSource();
    let cancel: (() => void) | undefined;
    let stop: (() => void) | undefined;
    try {
      // A host whose disk hangs answers no cancellation, and production must not wait for it.
      const impatient = new Promise<never>((_resolve, reject) => {
        cancel = () => {
          if (!lost.signal.aborted && !closing) token.cancel(); // nobody is left to tell otherwise
          setTimeout(() => { reject(cancelled()); }, CANCEL_MS).unref();
        };
        options.signal?.addEventListener('abort', cancel, { once: true });
      });
      const gone = new Promise<never>((_resolve, reject) => {
        stop = () => { reject(lost.signal.reason instanceof Error ? lost.signal.reason : new DrError('connection-lost', `the connection to ${route.host} was lost`)); };
        lost.signal.addEventListener('abort', stop, { once: true });
      });
      return await Promise.race([connection.sendRequest<Result<M>>(method, { call: number, params }, token.token), gone, impatient]);
    } catch (error) {
      const answered = error instanceof rpc.ResponseError && isErrorData(error.data);
      throw asDrError(lost.signal.aborted && !answered ? lost.signal.reason : error, route.host, options.signal);
    } finally {
      if (stop !== undefined) lost.signal.removeEventListener('abort', stop);
      if (cancel !== undefined) options.signal?.removeEventListener('abort', cancel);
      token.dispose();
      watchers.delete(number);
    }
  };

  const close = async (): Promise<void> => {
    closing = true;
    clearInterval(pulse);
    child.stdin?.end();
    const timer = new Promise<void>((resolve) => { setTimeout(resolve, CLOSE_MS).unref(); });
    await Promise.race([ended, timer]);
    lose('it was closed');
  };

  try {
    const hello = await withTimeout(call('hello', { protocol: PROTOCOL, run }), helloMs, route.host);
    if (hello.protocol !== PROTOCOL) {
      throw new DrError('protocol-version', `${route.host} speaks protocol ${String(hello.protocol)} (version ${hello.version}), this host ${String(PROTOCOL)}. Nothing was touched.`,
        'Install the same version of dr-engine on both.');
    }
    log.debug('connected', { host: route.host, hostname: hello.hostname });
    return { host: route.host, hostname: hello.hostname, call, lost: lost.signal, close };
  } catch (error) {
    await Promise.race([ended, new Promise((resolve) => { setTimeout(resolve, 300).unref(); })]); // let ssh say why
    lose('it could not be set up');
    const failure = DrError.from(error);
    if (failure.code === 'protocol-version') throw failure;
    throw new DrError('unreachable', `${route.host} can't be reached: ${lastLine(said) ?? failure.message.replace(/\.$/, '')}. Nothing was touched.`,
      route.host === 'local' ? 'Look at the log of this host.' : `Try: ssh ${route.host} ${route.agentCommand.join(' ')} --version`);
  }
}

/**
 * The library throws a failed write once more where nobody can catch it, which would end the head with all its other connections. It is noticed
 * anyway: `onError` is told of it before.
 */
class Writer extends rpc.StreamMessageWriter {
  override write(message: rpc.Message): Promise<void> {
    return super.write(message).catch(() => undefined);
  }
}

function lastLine(text: string): string | undefined {
  return text.trim().split('\n').at(-1)?.trim() || undefined;
}

function cancelled(): DrError {
  return new DrError('cancelled', 'the run was cancelled');
}

function asDrError(error: unknown, host: string, signal: AbortSignal | undefined): DrError {
  if (error instanceof DrError) return error;
  if (signal?.aborted === true) return cancelled();
  if (error instanceof rpc.ResponseError && isErrorData(error.data)) {
    return DrError.fromData(error.data);
  }
  return new DrError('internal', `${host}: ${error instanceof Error ? error.message : String(error)}`);
}

async function withTimeout<T>(promise: Promise<T>, milliseconds: number, host: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => { reject(new DrError('unreachable', `${host} did not answer in ${String(milliseconds / 1000)} s`)); }, milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
