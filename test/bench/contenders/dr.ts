import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import type { Started } from '../../lab/host.js';
import { CHECKOUT } from '../../lab/layout.js';
import { STORE, type Disk, type Ground } from '../ground.js';
import type { Moved, MoveOrder } from '../mover.js';
import type { Contender, Part } from './contender.js';

/** Our own way: `dr agent --send` and `dr agent --receive`, from the offer to the accepted result; written, read back and durable. */
export class Dr implements Contender {
  readonly kind = 'ours';
  readonly copy: string;
  readonly #digests: string;
  /** What changed, and the digests of before, on the sending host; only where that is told. */
  readonly #hint: { readonly digests: string; readonly changed: string } | undefined;
  readonly #ground: Ground;
  #mover: { readonly process: Started; readonly lines: Interface } | undefined;
  readonly #streams: number | undefined;
  #copied = false;

  /** `told`: as if a bitmap said what changed since the last copy; otherwise all of the disk is read. `streams`: that many from the beginning. */
  constructor(readonly name: string, ground: Ground, { told = false, streams }: { readonly told?: boolean; readonly streams?: number } = {}) {
    this.#ground = ground;
    this.#streams = streams;
    this.copy = `${STORE}/dr${told ? '-told' : ''}${String(streams ?? '')}.raw`;
    this.#digests = `${this.copy}.digests`;
    if (told) this.#hint = { digests: '/var/lib/dr-engine/bench/digests', changed: '/var/lib/dr-engine/bench/changed.json' };
  }

  async forget({ bytes }: Disk): Promise<void> {
    this.#copied = false;
    await this.changed([]);
    await this.#ground.target.run('sh', ['-c', 'rm -f -- "$1" "$2"; truncate -s "$3" "$1"', 'sh', this.copy, this.#digests, String(bytes)]);
  }

  async changed(parts: readonly Part[]): Promise<void> {
    if (this.#hint !== undefined) await this.#ground.node.writeFile(this.#hint.changed, JSON.stringify(parts), 0o600);
  }

  async run({ path, bytes }: Disk): Promise<number> {
    const hint = this.#hint === undefined ? {} : { keepDigests: this.#hint.digests, ...(this.#copied ? { hint: this.#hint } : {}) };
    const moved = await this.#order({
      source: { path, bytes, direct: true, zeroMap: { image: path, format: 'raw' }, ...hint }, path: this.copy, digests: this.#digests, ...(this.#streams === undefined ? {} : { streams: this.#streams }),
      start: this.#copied ? { recycle: this.#digests, provenSince: new Date().toISOString() } : 'fresh',
    });
    this.#copied = true;
    return moved.seconds;
  }

  async end(): Promise<void> {
    this.#mover?.process.child.stdin?.end();
    await this.#mover?.process.exit;
  }

  /** Connects the agents, which is no part of a transfer. */
  async begin(): Promise<void> {
    if (this.#mover !== undefined) return;
    const process = await this.#ground.processes.spawn(this.#ground.node, globalThis.process.execPath, [`${CHECKOUT}/build/test/bench/mover.js`]);
    if (process.child.stdout === null) throw new Error('the mover has no output');
    this.#mover = { process, lines: createInterface({ input: process.child.stdout }) };
    await this.#answer();
  }

  async #order(order: MoveOrder): Promise<Moved> {
    await this.begin();
    this.#mover?.process.child.stdin?.write(`${JSON.stringify(order)}\n`);
    const moved = JSON.parse(await this.#answer()) as Moved;
    if (moved.error !== undefined) throw new Error(`${this.name}: ${moved.error}`);
    return moved;
  }

  async #answer(): Promise<string> {
    if (this.#mover === undefined) throw new Error('the mover was not started');
    const { lines, process } = this.#mover;
    const [line] = await Promise.race([once(lines, 'line') as Promise<[string]>, process.exit.then(() => { throw new Error(`the mover died: ${process.stderr()}`); })]);
    return line;
  }
}
