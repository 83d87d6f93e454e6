import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { dataHands } from '../../src/agent/data-hands.js';
import type { Params, Progress } from '../../src/agent/protocol.js';
import { Ledger } from '../../src/capture/obligations.js';
import { DrError } from '../../src/model/errors.js';
import type { DataSource } from '../../src/model/host.js';
import { lock } from '../../src/system/flock.js';
import { bootId, startTime } from '../../src/system/processes.js';
import { prepareStorageDaemon } from '../../src/system/qemu.js';
import { ourselves, run, start } from '../../src/system/run.js';
import { writeDurable } from '../../src/system/durable.js';
import { BLOCK_BYTES, DIGEST_BYTES, digestOf } from '../../src/transfer/geometry.js';
import { admit } from '../../src/transfer/receiver.js';
import { imageLockPath, isAlive, makeTicket, receiverOf, ticketDigests, ticketDirectory } from '../../src/transfer/ticket.js';
import { isRoot } from '../support/file-systems.js';
import { skipBecause } from '../support/skip.js';
import { MIB, TransferGround } from '../support/transfer-ground.js';

const local = { host: 'local', agentCommand: [] };

describe('the processes that move data', function () {
  this.timeout(60_000);
  let ground: TransferGround;
  let ledger: Ledger;
  let hands: ReturnType<typeof dataHands>;
  let ends: (() => Promise<void>)[] = [];

  before(async () => {
    ground = await TransferGround.make();
    ledger = await Ledger.open();
  });
  after(async () => {
    await ledger.close();
    await ground.remove();
  });
  beforeEach(() => {
    ends = [];
    hands = dataHands({ ledger, atEnd: (_, letGo) => { ends.push(letGo); } });
  });
  afterEach(async () => {
    for (const end of ends) await end();
    assert.deepEqual(await ledger.list(), [], 'a debt is left');
  });

  interface Move {
    readonly source: Partial<DataSource> & { readonly path: string; readonly bytes: number };
    readonly offer: Omit<Params<'transfer.offer'>, 'readBack' | 'bytes'>;
    readonly limit?: number;
    readonly signal?: AbortSignal;
    readonly onProgress?: (progress: Progress) => void;
  }

  async function begin(move: Move) {
    const context = { signal: move.signal ?? new AbortController().signal, progress: move.onProgress ?? (() => undefined) };
    const { ticket, secret } = await hands['transfer.offer']({ ...move.offer, bytes: move.source.bytes, readBack: true }, context);
    const sending = hands['transfer.send']({ source: { direct: true, ...move.source }, to: local, ticket, secret, ...(move.limit === undefined ? {} : { limit: [{ afterMs: 0, bytesPerSecond: move.limit }] }) }, context);
    sending.catch(() => undefined); // looked at by the test
    return { ticket, sending, accept: () => hands['transfer.accept']({ ticket }, context) };
  }

  async function until(what: string, found: () => Promise<boolean>, seconds = 10): Promise<void> {
    for (const deadline = Date.now() + seconds * 1000; !await found();) {
      assert.ok(Date.now() < deadline, `${what} did not happen in ${String(seconds)} s`);
      await sleep(20);
    }
  }

  async function receiverPid(ticket: string): Promise<number> {
    let pid = 0;
    await until('a receiver', async () => {
      pid = (await receiverOf(ticketDirectory(ticket)))?.pid ?? 0;
      return pid !== 0;
    });
    return pid;
  }

  async function senderPid(): Promise<number> {
    let pid = 0;
    await until('a sender', async () => {
      const debt = (await ledger.list()).find((each) => each.debt.kind === 'kill')?.debt;
      pid = debt?.kind === 'kill' ? debt.pid : 0;
      return pid !== 0;
    });
    return pid;
  }

  const gone = (pid: number, seconds = 10): Promise<void> => until(`the end of process ${String(pid)}`, async () => await startTime(pid) === undefined, seconds);

  async function equal(a: string, b: string): Promise<void> {
    assert.ok((await readFile(a)).equals(await readFile(b)), `${a} and ${b} differ`);
  }

  async function code(work: Promise<unknown>): Promise<string> {
    const error: unknown = await work.then(() => 'no error', (thrown: unknown) => thrown);
    return error instanceof DrError ? error.code : String(error);
  }

  it('move a disk, say how far they are, and leave no debt', async () => {
    const source = await ground.disk('source', 'abcdefgh');
    const path = await ground.disk('image', '........');
    const seen: Progress[] = [];
    const { sending, accept } = await begin({ source: { path: source, bytes: 8 * MIB }, offer: { path, start: 'fresh' }, limit: 8 * MIB, onProgress: (each) => seen.push(each) });
    const sent = await sending;
    const received = await accept();
    await equal(source, path);
    assert.equal(received.digest, sent.digest);
    assert.ok(seen.length >= 2 && seen.every(({ done, total }, index) => total === 8 * MIB && done <= total && done >= (seen[index - 1]?.done ?? 0)), JSON.stringify(seen));
  });

  it('carry on by comparison after the receiver was killed: what had arrived is not sent again', async () => {
    const source = await ground.disk('source', 'abcdefghijklmnop');
    const path = await ground.disk('image', '................');
    let sent = 0;
    const first = await begin({ source: { path: source, bytes: 16 * MIB }, offer: { path, start: 'fresh' }, limit: 8 * MIB, onProgress: (each) => { sent = each.sent; } });
    await until('half a transfer', () => Promise.resolve(sent > 6 * MIB));
    const pid = await receiverPid(first.ticket);
    process.kill(pid, 'SIGKILL');
    assert.equal(await code(first.sending), 'connection-lost');
    assert.equal(await code(first.accept()), 'transfer-failed');
    await gone(pid);
    const [was, is] = [await readFile(source), await readFile(path)];
    const arrived = Array.from({ length: 16 }, (_, index) => index).filter((index) => was.subarray(index * MIB, (index + 1) * MIB).equals(is.subarray(index * MIB, (index + 1) * MIB))).length;
    assert.ok(arrived >= 4, `only ${String(arrived)} blocks had arrived`);
    const second = await begin({ source: { path: source, bytes: 16 * MIB }, offer: { path, start: 'read' } });
    const { bytesSent } = await second.sending;
    await equal(source, path);
    assert.ok(bytesSent < (16 - arrived) * MIB + 4096, `${String(bytesSent)} bytes were sent for ${String(16 - arrived)} blocks`);
    assert.equal((await second.accept()).bytesWritten, (16 - arrived) * MIB);
  });

  it('carry on by comparison after the receiver of a stale image was killed in the middle', async function () {
    if (!isRoot) skipBecause(this, 'a loop device needs root');
    const fill = 'abc....defgh....ijklmnop';
    const source = await ground.disk('source', fill);
    const backing = await ground.disk('backing', '#'.repeat(fill.length));
    const path = (await run('losetup', ['--find', '--show', backing])).stdout.trim();
    try {
      let sent = 0;
      const first = await begin({ source: { path: source, bytes: fill.length * MIB }, offer: { path, start: 'stale' }, limit: 8 * MIB, onProgress: (each) => { sent = each.sent; } });
      await until('half a transfer', () => Promise.resolve(sent > 5 * MIB));
      const pid = await receiverPid(first.ticket);
      process.kill(pid, 'SIGKILL');
      assert.equal(await code(first.sending), 'connection-lost');
      assert.equal(await code(first.accept()), 'transfer-failed');
      await gone(pid);
      const second = await begin({ source: { path: source, bytes: fill.length * MIB }, offer: { path, start: 'read' } });
      const { bytesSent } = await second.sending;
      assert.ok(bytesSent < 13 * MIB, `${String(bytesSent)} bytes were sent though some had arrived`);
      assert.equal((await second.accept()).proof, 'device');
      await equal(source, backing);
    } finally {
      await run('losetup', ['--detach', path]);
    }
  });

  it('keep digests for the next capture, take its hint, and read everything when it lies', async () => {
    const fill = 'abcdefgh..ijklmn';
    const source = await ground.disk('source', fill);
    const path = await ground.disk('image', '.'.repeat(fill.length));
    const [digests, changed] = [ground.path('bases/base'), ground.path('changed.json')];
    const captured = async (start: Params<'transfer.offer'>['start'], more: Partial<DataSource>): Promise<{ readonly ticket: string; readonly note?: string }> => {
      const { sending, accept, ticket } = await begin({ source: { path: source, bytes: fill.length * MIB, ...more }, offer: { path, start } });
      const sent = await sending;
      assert.equal((await accept()).digest, sent.digest);
      await equal(source, path);
      return { ticket, ...(sent.note === undefined ? {} : { note: sent.note }) };
    };
    const put = async (block: number): Promise<void> => {
      const handle = await open(source, 'r+');
      await handle.write(randomBytes(MIB), 0, MIB, block * MIB);
      await handle.close();
    };
    const { ticket } = await captured('fresh', { keepDigests: digests });
    const recycle = { recycle: ticketDigests(ticket), provenSince: new Date().toISOString() };
    await put(3);
    await writeFile(changed, JSON.stringify([[3 * MIB, 4096]]));
    const second = await captured(recycle, { hint: { digests, changed }, keepDigests: ground.path('bases/next') });
    assert.equal(second.note, undefined);
    await put(12);
    await writeFile(changed, '[]');
    const third = await captured({ ...recycle, recycle: ticketDigests(second.ticket) }, { hint: { digests: ground.path('bases/next'), changed } });
    assert.match(third.note ?? '', new RegExp(`wrong at offset ${String(12 * MIB)}; the whole disk was read`));
  });

  it('say so when the sender dies, and the receiver ends by itself', async () => {
    const source = await ground.disk('source', 'abcdefgh');
    const path = await ground.disk('image', '........');
    const { ticket, sending, accept } = await begin({ source: { path: source, bytes: 8 * MIB }, offer: { path, start: 'fresh' }, limit: 2 * MIB });
    const receiver = await receiverPid(ticket);
    process.kill(await senderPid(), 'SIGKILL');
    assert.equal(await code(sending), 'sender-died');
    await gone(receiver);
    assert.equal(await code(accept()), 'transfer-failed');
  });

  it('blame the source when it becomes shorter in the middle, and tell the receiver so', async () => {
    const source = await ground.disk('source', 'abcdefghijklmnopqrstuvwxyzABCDEF');
    const path = await ground.disk('image', '................................');
    const { ticket, sending } = await begin({ source: { path: source, bytes: 32 * MIB }, offer: { path, start: 'fresh' }, limit: 8 * MIB });
    const receiver = await receiverPid(ticket);
    await truncate(source, 30 * MIB);
    const error: unknown = await sending.catch((thrown: unknown) => thrown);
    assert.ok(error instanceof DrError && error.code === 'source-failed' && error.message.includes(source), String(error));
    await gone(receiver);
  });

  it('end within seconds when cancelled, and leave neither process behind', async () => {
    const source = await ground.disk('source', 'abcdefgh');
    const path = await ground.disk('image', '........');
    const cancel = new AbortController();
    const { ticket, sending } = await begin({ source: { path: source, bytes: 8 * MIB }, offer: { path, start: 'fresh' }, limit: MIB, signal: cancel.signal });
    const [receiver, sender] = [await receiverPid(ticket), await senderPid()];
    const began = Date.now();
    cancel.abort();
    assert.equal(await code(sending), 'cancelled');
    assert.ok(Date.now() - began < 6_000);
    await gone(sender);
    await gone(receiver);
  });

  it('end when the destination\'s agent gives the ticket up', async () => {
    const source = await ground.disk('source', 'abcdefgh');
    const path = await ground.disk('image', '........');
    let sent = 0;
    const { ticket, sending } = await begin({ source: { path: source, bytes: 8 * MIB }, offer: { path, start: 'fresh' }, limit: 2 * MIB, onProgress: (each) => { sent = each.sent; } });
    await until('a block', () => Promise.resolve(sent >= MIB)); // before that a revoked ticket is refused, which is another end
    const receiver = await receiverPid(ticket);
    for (let time = 0; time < 2; time++) await hands['transfer.abort']({ ticket }, { signal: new AbortController().signal, progress: () => undefined });
    assert.equal(await startTime(receiver), undefined);
    assert.equal(await code(sending), 'connection-lost');
    assert.ok(!(await readdir(ground.path('state/tickets'))).includes(ticket));
  });

  it('end when whoever started the sender is gone', async () => {
    const source = await ground.disk('source', 'abcdefgh');
    const path = await ground.disk('image', '........');
    const made = await makeTicket({ path, bytes: 8 * MIB, start: 'fresh', readBack: true });
    const [node, main] = ourselves();
    const sender = start(node, [main, 'agent', '--send'], { stdio: ['pipe', 'pipe', 'pipe'] });
    sender.stdin?.write(`${JSON.stringify({ source: { path: source, bytes: 8 * MIB, direct: true }, to: local, ...made, limit: [{ afterMs: 0, bytesPerSecond: MIB }] })}\n`);
    const receiver = await receiverPid(made.ticket);
    const lines: string[] = [];
    if (sender.stdout !== null) createInterface({ input: sender.stdout }).on('line', (line) => lines.push(line));
    sender.stdin?.end();
    await gone(sender.pid ?? 0);
    await gone(receiver);
    assert.match(lines.at(-1) ?? '', /"code":"cancelled"/);
  });

  it('never write one image at the same time', async () => {
    const source = await ground.disk('source', 'abcd');
    const path = await ground.disk('image', '....');
    const first = await begin({ source: { path: source, bytes: 4 * MIB }, offer: { path, start: 'fresh' }, limit: 3 * MIB });
    const receiver = await receiverPid(first.ticket);
    const second = await begin({ source: { path: source, bytes: 4 * MIB }, offer: { path, start: 'read' } });
    await Promise.all([first.sending, second.sending.then(async ({ bytesSent }) => {
      assert.equal(await startTime(receiver), undefined, 'both had the image');
      await first.accept(); // its result was there before: the first came first
      assert.ok(bytesSent < 4096, 'the second did not see what the first had written');
    })]);

    const made = await makeTicket({ path, bytes: 4 * MIB, start: 'read', readBack: true });
    const held = await lock(imageLockPath(path), 'the image');
    assert.equal(await code(admit({ ...made, bytes: 4 * MIB, blockBytes: BLOCK_BYTES, sideStreams: 0 }, new AbortController(), 1)), 'locked');
    await held.release();
  });

  it('receive nothing for an agent that has died', async () => {
    const path = await ground.disk('image', '.');
    const made = await makeTicket({ path, bytes: MIB, start: 'fresh', readBack: true });
    const file = `${ticketDirectory(made.ticket)}/offer.json`;
    const offer = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
    const child = start('sleep', ['0'], { stdio: ['ignore', 'ignore', 'ignore'] });
    await gone(child.pid ?? 0);
    await writeDurable(file, JSON.stringify({ ...offer, owner: { pid: child.pid, startTime: '1', bootId: await bootId() } }));
    assert.equal(await code(admit({ ...made, bytes: MIB, blockBytes: BLOCK_BYTES, sideStreams: 0 }, new AbortController())), 'connection-lost');
    await hands['transfer.offer']({ path, bytes: MIB, start: 'read', readBack: true }, { signal: new AbortController().signal, progress: () => undefined });
    assert.ok(!(await readdir(ground.path('state/tickets'))).includes(made.ticket), 'its ticket is kept for ever');
  });

  it('say why ssh did not get there', async () => {
    const source = await ground.disk('source', 'a');
    const context = { signal: new AbortController().signal, progress: () => undefined };
    const error: unknown = await hands['transfer.send']({ source: { path: source, bytes: MIB, direct: true }, to: { host: 'nobody@127.0.0.1', agentCommand: ['dr'] }, ticket: '0'.repeat(32), secret: '' }, context).catch((thrown: unknown) => thrown);
    assert.ok(error instanceof DrError && error.code === 'connection-lost', String(error));
    assert.match(error.message, /nobody@127\.0\.0\.1.*(255|not installed|could not be started|ENOENT)/);
  });

  it('keep their memory bounded on a disk of 256 GiB', async () => {
    const bytes = 256 * 1024 * MIB;
    const [source, path] = [ground.path('huge-source'), ground.path('huge-image')];
    for (const each of [source, path]) {
      await writeFile(each, '');
      await truncate(each, bytes);
    }
    const handle = await open(source, 'r+');
    for (let index = 0; index < 64; index++) await handle.write(randomBytes(MIB), 0, MIB, (index * 4000 + 1) * MIB);
    await handle.close();
    const digests = ground.path('huge.digests'); // of an image of zeros
    await writeFile(digests, Buffer.alloc(bytes / BLOCK_BYTES * DIGEST_BYTES, digestOf(Buffer.alloc(BLOCK_BYTES))));
    const { ticket, sending, accept } = await begin({
      source: { path: source, bytes, zeroMap: { image: source, format: 'raw' } }, offer: { path, start: { recycle: digests, provenSince: '2026-01-01T00:00:00.000Z' } },
    });
    let peak: Record<string, number> = {};
    const watch = (async () => {
      const pids = { receiver: await receiverPid(ticket), sender: await senderPid() };
      for (;;) {
        const now = Object.fromEntries(await Promise.all(Object.entries(pids).map(async ([who, pid]) => [who, Number(/VmHWM:\s*(\d+)/.exec(await readFile(`/proc/${String(pid)}/status`, 'utf8').catch(() => ''))?.[1] ?? '0') / 1024] as const)));
        if (Object.values(now).some((each) => each === 0)) return;
        peak = now;
        await sleep(20);
      }
    })();
    const sent = await sending;
    await watch;
    assert.equal((await accept()).bytesWritten, 64 * MIB);
    assert.ok(sent.bytesSent < 65 * MIB);
    console.log(`      peak memory: ${Object.entries(peak).map(([who, mib]) => `${who} ${mib.toFixed(0)} MiB`).join(', ')}`);
    assert.ok(Object.keys(peak).length === 2 && Object.values(peak).every((mib) => mib < 256), JSON.stringify(peak));
    await truncate(source, 0);
    await truncate(path, 0);
  });

  it('move incompressible data at a rate that is printed', async () => {
    const megabytes = 256;
    const source = ground.path('noise');
    const handle = await open(source, constants.O_WRONLY | constants.O_CREAT);
    for (let index = 0; index < megabytes; index++) await handle.write(randomBytes(MIB));
    await handle.sync();
    await handle.close();
    const path = await ground.disk('image', '', megabytes * MIB);
    const times: [number, number][] = [];
    const { sending } = await begin({ source: { path: source, bytes: megabytes * MIB }, offer: { path, start: 'fresh' }, onProgress: ({ done }) => times.push([performance.now(), done]) });
    const began = performance.now();
    await sending;
    const [first, last] = [times[0], times.at(-1)];
    const steady = first === undefined || last === undefined || first === last ? '' : `, ${String(Math.round((last[1] - first[1]) / 1e3 / (last[0] - first[0])))} MB/s when it runs`;
    console.log(`      ${String(megabytes)} MiB in ${((performance.now() - began) / 1000).toFixed(2)} s${steady}`);
  });

  describe('with a source that a storage daemon shows', () => {
    it('blame the source when the daemon dies, and end when it hangs', async function () {
      if (!isRoot) skipBecause(this, 'a FUSE export needs root');
      const there = await run('qemu-storage-daemon', ['--version']).then(() => true, () => false);
      if (!there) skipBecause(this, 'qemu-storage-daemon is not installed');
      for (const fate of ['SIGKILL', 'SIGSTOP'] as const) {
        const source = await ground.disk('source', 'abcdefghijklmnopqrstuvwxyzABCDEF');
        const path = await ground.disk('image', '', 32 * MIB);
        const shown = ground.path(`export-${fate}`);
        await writeFile(shown, '');
        const daemon = await prepareStorageDaemon({ kind: 'chain', chain: [{ path: source, format: 'raw', bytes: 32 * MIB, encrypted: false, device: false, odd: false }] }, shown, ground.path('daemon.log'));
        await daemon.go();
        try {
          const cancel = new AbortController();
          const { ticket, sending } = await begin({ source: { path: shown, bytes: 32 * MIB }, offer: { path, start: 'fresh' }, limit: 8 * MIB, signal: cancel.signal });
          const receiver = await receiverPid(ticket);
          const sender = await senderPid();
          await sleep(300);
          process.kill(daemon.pid, fate);
          if (fate === 'SIGSTOP') {
            await sleep(1_000); // all reads hang by now
            const began = Date.now();
            cancel.abort();
            assert.equal(await code(sending), 'cancelled');
            assert.ok(Date.now() - began < 8_000);
          } else {
            const error: unknown = await sending.catch((thrown: unknown) => thrown);
            assert.ok(error instanceof DrError && error.code === 'source-failed', String(error));
          }
          await gone(receiver);
          if (daemon.alive()) process.kill(daemon.pid, 'SIGKILL');
          await daemon.ended;
          await gone(sender);
        } finally {
          if (daemon.alive()) process.kill(daemon.pid, 'SIGKILL');
          await daemon.ended;
          await run('umount', ['--lazy', shown], { okExit: [0, 1, 32] }); // whoever hung in it may take a moment to let go
          for (const { id, debt } of await ledger.list()) if (debt.kind === 'kill' && !await isAlive(debt)) await ledger.pay(id);
        }
      }
    });
  });
});
