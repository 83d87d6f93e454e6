import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { startTime } from '../../src/system/processes.js';
import { ourselves, start } from '../../src/system/run.js';
import type { DiskJob, DiskOutcome } from '../../src/transfer/block-jobs.js';
import { BlockPool } from '../../src/transfer/block-pool.js';
import type { SendOrder } from '../../src/transfer/send.js';
import { makeTicket, receiverOf, ticketDirectory } from '../../src/transfer/ticket.js';
import { MIB, TransferGround } from '../support/transfer-ground.js';

/** Who stands still is noticed, who is slow is waited for. Real processes and real time-outs, all at the same time since that takes a while. */

const SOON_MS = 20_000;
const LOCAL = { host: 'local', agentCommand: [] };
/** Longer than a side may be silent. */
const LONG_MS = 14_000;

/** A disk on which every write takes very long. */
class SlowPool extends BlockPool {
  override async run(job: DiskJob): Promise<DiskOutcome> {
    if (job.kind === 'write') await sleep(LONG_MS);
    return await super.run(job);
  }
}

describe('a transfer in which nothing moves', function () {
  this.timeout(60_000);
  let ground: TransferGround;

  before(async () => { ground = await TransferGround.make(); });
  after(async () => { await ground.remove(); });

  it('is given up soon when a process at either end stands still, and not when a disk is slow, the link is narrow or a source takes long to open', async () => {
    await Promise.all([stillReceiver(), stillSender(), narrowLink(), slowDisk(), slowSource()]);
  });

  /** A sender and a receiver, each a process of its own. `line` is the sender's last word. */
  async function processes(name: string): Promise<{ readonly sender: number; readonly receiver: number; readonly ticket: string; readonly line: Promise<string> }> {
    const path = await ground.disk(`${name}-image`, '........');
    const made = await makeTicket({ path, bytes: 8 * MIB, start: 'fresh', readBack: true });
    const { sender, line } = startSender({
      source: { path: await ground.disk(`${name}-source`, 'abcdefgh'), bytes: 8 * MIB, direct: true }, to: LOCAL, ...made, limit: [{ afterMs: 0, bytesPerSecond: MIB }],
    });
    let receiver: number | undefined;
    while ((receiver = (await receiverOf(ticketDirectory(made.ticket)))?.pid) === undefined) await sleep(50);
    return { sender, receiver, ticket: made.ticket, line };
  }

  function startSender(order: SendOrder, env: Readonly<Record<string, string>> = {}): { readonly sender: number; readonly line: Promise<string> } {
    const [node, main] = ourselves();
    const child = start(node, [main, 'agent', '--send'], { stdio: ['pipe', 'pipe', 'pipe'], env });
    let said = '';
    child.stdout?.on('data', (chunk: Buffer) => { said += chunk.toString(); });
    const line = new Promise<string>((resolve) => { child.once('close', () => { resolve(said.trim().split('\n').at(-1) ?? ''); }); });
    child.stdin?.write(`${JSON.stringify(order)}\n`);
    return { sender: child.pid ?? 0, line };
  }

  async function stillReceiver(): Promise<void> {
    const { receiver, line } = await processes('a');
    process.kill(receiver, 'SIGSTOP');
    const stopped = Date.now();
    assert.match(await line, /"code":"connection-lost".*nothing was heard from the far end/);
    assert.ok(Date.now() - stopped < SOON_MS, `the sender noticed after ${String(Date.now() - stopped)} ms`);
    if (await startTime(receiver) !== undefined) process.kill(receiver, 'SIGKILL');
  }

  async function stillSender(): Promise<void> {
    const { sender, receiver, ticket } = await processes('b');
    process.kill(sender, 'SIGSTOP');
    const stopped = Date.now();
    while (await startTime(receiver) !== undefined) {
      assert.ok(Date.now() - stopped < SOON_MS, 'the receiver did not notice');
      await sleep(100);
    }
    process.kill(sender, 'SIGKILL');
    assert.ok(!(await readdir(ticketDirectory(ticket))).includes('result.json'));
  }

  async function narrowLink(): Promise<void> {
    await arrives('c', 'a', { limitBytesPerSecond: MIB * 1000 / LONG_MS }); // no whole block in the time that silence may last
  }

  async function slowDisk(): Promise<void> {
    await using pool = new SlowPool();
    await arrives('d', 'abcdefghijkl', {}, pool);
  }

  /** qemu-img maps a large image for minutes. */
  async function slowSource(): Promise<void> {
    await mkdir(ground.path('slow'));
    await writeFile(ground.path('slow/qemu-img'), `#!/bin/sh\nsleep ${String(LONG_MS / 1000)}\necho '[]'\n`, { mode: 0o755 });
    const path = await ground.disk('e-image', '..');
    const source = await ground.disk('e-source', 'ab');
    const made = await makeTicket({ path, bytes: 2 * MIB, start: 'fresh', readBack: true });
    const { line } = startSender({ source: { path: source, bytes: 2 * MIB, direct: true, zeroMap: { image: source, format: 'raw' } }, to: LOCAL, ...made },
      { PATH: `${ground.path('slow')}:${process.env['PATH'] ?? ''}` });
    assert.match(await line, /"kind":"result"/);
    assert.ok((await readFile(source)).equals(await readFile(path)));
  }

  async function arrives(name: string, blocks: string, sending: { readonly limitBytesPerSecond?: number }, pool = new BlockPool()): Promise<void> {
    await using threads = pool;
    const source = await ground.disk(`${name}-source`, blocks);
    const path = await ground.disk(`${name}-image`, '.'.repeat(blocks.length));
    await using senders = new BlockPool();
    await ground.move({ path: source, bytes: blocks.length * MIB }, { path, start: 'fresh', pool: threads }, { ...sending, pool: senders });
    assert.ok((await readFile(source)).equals(await readFile(path)), `${source} and ${path} differ`);
  }
});
