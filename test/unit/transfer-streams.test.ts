import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, writeSync } from 'node:fs';
import { readdir, readFile, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { makeNamedPipe } from '../../src/system/pipe.js';
import { start } from '../../src/system/run.js';
import { sharedPages } from '../../src/system/shared-memory.js';
import { BlockPool } from '../../src/transfer/block-pool.js';
import { connectReceiver } from '../../src/transfer/receiver-connection.js';
import { send } from '../../src/transfer/send.js';
import { mostSideStreams, Widening } from '../../src/transfer/side-links.js';
import { SideStreams, sideStreamPipe, sideStreamsSocket } from '../../src/transfer/side-streams.js';
import { makeTicket, resultOf, ticketDirectory } from '../../src/transfer/ticket.js';
import { temporaryDirectory, type TestPlace } from '../support/file-systems.js';
import { MIB, plainDigestOf, TransferGround } from '../support/transfer-ground.js';

const memory = sharedPages(MIB);

const LOCAL = { host: 'local', agentCommand: [] };

describe('a transfer over several streams', function () {
  this.timeout(60_000);
  let ground: TransferGround;
  before(async () => { ground = await TransferGround.make(); });
  after(() => ground.remove());

  async function childrenOf(parent: number, word: string): Promise<number[]> {
    const all = await Promise.all((await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(async (pid) => {
      const [args, stat] = await Promise.all(['cmdline', 'stat'].map((file) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => ''))); // it has ended
      return args?.includes(word) === true && stat?.split(') ')[1]?.split(' ')[1] === String(parent) ? [Number(pid)] : [];
    }));
    return all.flat();
  }

  /** Those that hand a further stream to a receiver. */
  const joiners = (): Promise<number[]> => childrenOf(process.pid, '--join');

  async function move(letters: string, streams: number, onBlock: (blocks: number) => Promise<void> = () => Promise.resolve()): Promise<{ readonly ticket: string; readonly bytesSent: number; readonly bytes: number }> {
    const bytes = letters.length * MIB - 5000;
    const source = await ground.disk('source', letters, bytes);
    const path = await ground.disk('image', '', bytes);
    const made = await makeTicket({ path, bytes, start: 'stale', readBack: true });
    await using pool = new BlockPool();
    const watched: Promise<void>[] = [];
    const sent = await send({ source: { path: source, bytes, direct: true }, to: LOCAL, ...made, streams }, {
      pool, connect: connectReceiver, packBelow: 0, progress: ({ done }) => { watched.push(onBlock(done / MIB)); },
    });
    await Promise.all(watched);
    assert.ok((await readFile(source)).equals(await readFile(path)));
    assert.equal(sent.digest, await plainDigestOf(source));
    assert.equal((await resultOf(made.ticket)).digest, sent.digest);
    return { ticket: made.ticket, bytesSent: sent.bytesSent, bytes };
  }

  const NOISE = 'abcdefghijklmnopqrstuvwxyz'.repeat(24);

  it('makes the image what the disk is, and leaves no process behind', async () => {
    let most = 0;
    let looking = false;
    const { bytesSent, bytes } = await move(NOISE, 3, async () => {
      if (looking) return;
      looking = true;
      most = Math.max(most, (await joiners()).length);
      looking = false;
    });
    assert.equal(most, 2);
    assert.ok(bytesSent >= bytes && bytesSent < bytes + 100 * NOISE.length, String(bytesSent));
    assert.deepEqual(await joiners(), []);
  });

  it('needs no more than one for what is over before the others are there', async () => {
    await move('a', 4);
    await move('a.b', 8);
    assert.deepEqual(await joiners(), []);
  });

  it('fails when one of them is cut, and calls nothing complete', async () => {
    let cut = false;
    let looking = false;
    await assert.rejects(move(NOISE, 2, async () => {
      if (cut || looking) return;
      looking = true;
      for (const pid of await joiners()) {
        for (const cat of await childrenOf(pid, 'cat')) {
          process.kill(cat, 'SIGKILL');
          cut = true;
        }
      }
      looking = false;
    }), { code: 'connection-lost' }, 'a lost link is tried again');
    assert.ok(cut);
  });

  it('lets its joiners go when the receiver is gone, though nobody ends their input', async () => {
    const made = await makeTicket({ path: await ground.disk('image', 'a'), bytes: MIB, start: 'stale', readBack: true });
    const streams = await SideStreams.listen(ticketDirectory(made.ticket), 1, memory);
    const child = start(process.execPath, [new URL('../../src/main.js', import.meta.url).pathname, 'agent', '--join'], { stdio: ['pipe', 'pipe', 'ignore'] });
    const ended = once(child, 'exit');
    child.stdin?.write(`${JSON.stringify({ ...made, stream: 1 })}\nsome`);
    const some = Buffer.alloc(4);
    await streams.fill(1, some);
    assert.equal(some.toString(), 'some');
    await streams[Symbol.asyncDispose]();
    await ended;
  });

  it('lets nobody in without the secret', async () => {
    const made = await makeTicket({ path: await ground.disk('image', 'a'), bytes: MIB, start: 'stale', readBack: true });
    for (const joining of [{ ticket: made.ticket, secret: 'guessed', stream: 1 }, { ...made, stream: 0 }, { ...made, ticket: '../../etc', stream: 1 }]) {
      const child = start(process.execPath, [new URL('../../src/main.js', import.meta.url).pathname, 'agent', '--join'], { stdio: ['pipe', 'pipe', 'ignore'] });
      child.stdin?.end(`${JSON.stringify(joining)}\n`);
      const [code] = await once(child, 'exit') as [number];
      assert.notEqual(code, 0);
    }
  });
});

describe('side streams', function () {
  this.timeout(20_000);
  let place: TestPlace;
  let streams: SideStreams;
  beforeEach(async () => {
    place = await temporaryDirectory('streams');
    streams = await SideStreams.listen(place.path, 2, memory);
  });
  afterEach(async () => {
    await streams[Symbol.asyncDispose]();
    await place.remove();
  });

  interface Joined {
    readonly socket: Socket;
    /** Ends the pipe, as the end of the link does. */
    readonly end: () => void;
  }

  async function joined(number: number, bytes = ''): Promise<Joined> {
    const path = sideStreamPipe(place.path, number);
    await rm(path, { force: true });
    const { readFd, writeFd } = await makeNamedPipe(path);
    const socket = connect(sideStreamsSocket(place.path)).on('error', () => undefined);
    socket.write(Uint8Array.of(number));
    await Promise.race([once(socket, 'data'), once(socket, 'close')]);
    writeSync(writeFd, bytes);
    closeSync(readFd);
    return { socket, end: () => { closeSync(writeFd); } };
  }

  const next = async (number: number, bytes: number): Promise<string> => {
    const target = Buffer.alloc(bytes);
    await streams.fill(number, target);
    return target.toString();
  };

  it('are told apart by their numbers, in whatever order they come', async () => {
    const wanted = next(1, 3);
    const both = [await joined(2, 'two'), await joined(1, 'one')];
    assert.equal(await wanted, 'one');
    assert.equal(await next(2, 3), 'two');
    for (const { end } of both) end();
    await streams.end();
  });

  it('are refused when there is something behind the last block', async () => {
    const { end } = await joined(1, 'one');
    await next(1, 2);
    end();
    await assert.rejects(streams.end(), { refusal: 'trailing' });
  });

  it('are refused where nobody may join them', async () => {
    await assert.rejects(next(3, 1), { refusal: 'stream' });
  });

  it('are a lost link when nobody joins them, or when they end early', async () => {
    await assert.rejects(next(1, 1), { code: 'connection-lost' });
    for (const [number, bytes] of [[1, 'in the middle'], [2, '']] as const) {
      const { end } = await joined(number, bytes);
      end();
      await assert.rejects(next(number, 20), { code: 'connection-lost' });
    }
  });

  it('are not joined twice, nor by another number', async () => {
    const first = await joined(1, 'first');
    assert.equal(await next(1, 2), 'fi');
    for (const number of [1, 0, 3]) {
      const { socket, end } = await joined(number, 'other');
      if (!socket.destroyed) await once(socket, 'close');
      end();
    }
    assert.equal(await next(1, 3), 'rst');
    first.end();
  });

  it('fail with the transfer', async () => {
    const waiting = next(1, 1);
    streams.fail(new Error('over'));
    await assert.rejects(waiting, { message: 'over' });
  });
});

describe('a further stream', () => {
  const MANY = 500 * MIB;
  /** What it says of each second. */
  const looks = (widening: Widening, ...seconds: readonly (readonly [bytes: number, busy: number])[]): boolean[] => seconds.map(([bytes, busy]) => widening.look(bytes, busy));

  it('is tried when the wire is what is waited for, and not else', () => {
    assert.deepEqual(looks(new Widening(), [MANY, 0.5], [MANY, 0.89], [MANY, 0.95]), [false, false, true]);
  });

  it('is followed by another as long as it helps', () => {
    assert.deepEqual(looks(new Widening(), [MANY, 1], [0, 1], [0, 1], [MANY * 1.5, 1], [0, 1], [0, 1], [MANY * 1.6, 1], [MANY * 9, 1]), [true, false, false, true, false, false, false, false]);
  });

  it('is nothing for a host with few processors', () => {
    assert.deepEqual([1, 2, 3, 4, 6, 8, 64].map((cores) => mostSideStreams(undefined, cores)), [0, 0, 0, 1, 2, 3, 3]);
    assert.deepEqual([1, 3, 8, 99].map((wanted) => mostSideStreams(wanted, 2)), [0, 2, 7, 7]);
  });
});
