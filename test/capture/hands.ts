import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { NodeMethod } from '../../src/agent/node-hands.js';
import type { Params, Result } from '../../src/agent/protocol.js';
import { DrError, isErrorData } from '../../src/model/errors.js';
import type { Obligation } from '../../src/model/obligation.js';
import type { GuestHost, Started } from '../lab/host.js';

/** A node's hands at work in a lab host; see hands-program.ts. */
export class Hands {
  readonly #waiting = new Map<number, { readonly resolve: (value: unknown) => void; readonly reject: (error: unknown) => void }>();
  #calls = 0;

  private constructor(readonly started: Started) {
    const { stdout } = started.child;
    if (stdout === null) throw new Error('no output');
    createInterface({ input: stdout }).on('line', (line) => {
      const [number, result, error] = JSON.parse(line) as [number, unknown, unknown];
      const call = this.#waiting.get(number);
      this.#waiting.delete(number);
      if (isErrorData(error)) call?.reject(DrError.fromData(error));
      else call?.resolve(result);
    });
    void started.exit.then((status) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`the hands ended with status ${String(status)}: ${started.stderr()}`));
    });
  }

  static async start(host: GuestHost, env: Readonly<Record<string, string>> = {}): Promise<Hands> {
    return new Hands(await host.spawn(process.execPath, [fileURLToPath(new URL('hands-program.js', import.meta.url))], { stdin: 'pipe', env }));
  }

  /** The number of the last call, for `cancel`. */
  get last(): number {
    return this.#calls;
  }

  call<M extends NodeMethod>(method: M, params: Params<M>): Promise<Result<M>>;
  call(method: 'test.owed'): Promise<Obligation[]>;
  call(method: 'test.zeros', params: { image: string; format: string }): Promise<{ start: number; length: number }[]>;
  call(method: 'test.pid' | 'test.job' | 'test.frozen', params: { uri: string; name: string }): Promise<unknown>;
  call(method: string, params: unknown = {}): Promise<unknown> {
    this.#calls += 1;
    const number = this.#calls;
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, { resolve, reject });
      this.started.child.stdin?.write(`${JSON.stringify([number, method, params])}\n`);
    });
  }

  cancel(number: number): void {
    this.started.child.stdin?.write(`${JSON.stringify(['cancel', number])}\n`);
  }

  /** Ends the session as a closing connection does; resolves when everything was let go of. */
  async end(): Promise<void> {
    this.started.child.stdin?.end();
    await this.started.exit;
  }
}
