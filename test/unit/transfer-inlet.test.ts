import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { makePipe } from '../../src/system/pipe.js';
import { ourselves, run, start } from '../../src/system/run.js';
import { sharedPages } from '../../src/system/shared-memory.js';
import { Inlet } from '../../src/transfer/inlet.js';
import { Refusal } from '../../src/transfer/refusals.js';
import { WireReader } from '../../src/transfer/wire.js';
import { temporaryDirectory, type TestPlace } from '../support/file-systems.js';

describe('the way in from a link', function () {
  this.timeout(20_000);
  const memory = sharedPages(2 ** 20);
  let place: TestPlace;
  let stateBefore: string | undefined;
  let open: number[] = [];

  before(async () => {
    place = await temporaryDirectory('inlet');
    stateBefore = process.env['DR_STATE_DIR'];
    process.env['DR_STATE_DIR'] = join(place.path, 'state');
  });
  after(async () => {
    if (stateBefore === undefined) delete process.env['DR_STATE_DIR'];
    else process.env['DR_STATE_DIR'] = stateBefore;
    await place.remove();
  });
  afterEach(() => {
    for (const fd of open) closeSync(fd);
    open = [];
  });

  async function link(silenceMs = 10_000): Promise<{ readonly reader: WireReader; readonly inlet: Inlet; readonly write: (...pieces: readonly Uint8Array[]) => Promise<void>; readonly end: () => void }> {
    const { readFd, writeFd } = await makePipe();
    open.push(readFd, writeFd);
    const inlet = new Inlet(readFd, memory);
    return {
      inlet, reader: new WireReader(inlet, silenceMs),
      write: async (...pieces) => {
        for (const piece of pieces) {
          for (let at = 0; at < piece.length; at += 4096) { // no more than a pipe takes at once: this thread must not wait for the other
            writeSync(writeFd, piece.subarray(at, at + 4096));
            if (at % 32_768 === 0) await sleep(1);
          }
        }
      },
      end: () => { closeSync(writeFd); open = open.filter((fd) => fd !== writeFd); },
    };
  }

  it('gives small and large pieces as they came, whatever memory they go to', async () => {
    const { reader, write, end } = await link();
    const sizes = [8, 40, 300_000, 8, 1, 100_000, 16_384, 17_000, 5, 700_000];
    const pieces = sizes.map((size) => randomBytes(size));
    const writing = write(...pieces).then(end);
    for (const [index, piece] of pieces.entries()) {
      const target = index % 3 === 2 ? Buffer.from(memory, 0, piece.length) : Buffer.alloc(piece.length);
      assert.ok(await reader.fill(target));
      assert.ok(target.equals(piece), `piece ${String(index)}`);
    }
    await writing;
    await reader.end();
    assert.equal(await reader.fill(Buffer.from(memory, 0, 100_000)), false);
    reader.close();
  });

  it('says where the link ended: before a piece, or in the middle of one', async () => {
    for (const target of [Buffer.alloc(100), Buffer.from(memory, 0, 100_000)]) {
      const { reader, write, end } = await link();
      await write(randomBytes(50));
      const filling = reader.fill(target);
      end();
      await assert.rejects(filling, (error) => error instanceof Refusal && error.refusal === 'truncated');
      reader.close();
    }
    const { reader, write } = await link();
    await write(randomBytes(1));
    await assert.rejects(reader.end(), (error) => error instanceof Refusal && error.refusal === 'trailing');
    reader.close();
  });

  it('hears a block that comes slowly, and notices when nothing comes any more', async () => {
    const { reader, inlet, write, end } = await link(600);
    const filling = reader.fill(Buffer.from(memory, 0, 100_000));
    for (let at = 0; at < 100_000; at += 10_000) {
      await write(randomBytes(10_000));
      await sleep(150);
    }
    assert.equal(await filling, true, 'it came in time, piece by piece');
    await assert.rejects(reader.fill(Buffer.from(memory, 0, 100_000)), (error) => error instanceof Refusal && error.refusal === 'silence');
    assert.equal(await Inlet.settled(50, new Set([inlet])), false, 'the thread still waits');
    end();
    assert.equal(await Inlet.settled(5_000, new Set([inlet])), true);
    reader.close();
  });

  it('waits also where the descriptor does not', async () => {
    const path = join(place.path, 'fifo');
    await run('mkfifo', [path]);
    const readFd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const writeFd = openSync(path, constants.O_WRONLY);
    open.push(readFd, writeFd);
    const reader = new WireReader(new Inlet(readFd, memory), 10_000);
    const target = Buffer.alloc(3);
    const filling = reader.fill(target);
    await sleep(100);
    writeSync(writeFd, 'abc');
    assert.equal(await filling, true);
    assert.equal(target.toString(), 'abc');
    reader.close();
  });

  it('does not keep a receiver that has given up, though nobody ends what it reads', async function () {
    this.timeout(40_000);
    const [node, main] = ourselves();
    const child = start(node, [main, 'agent', '--receive'], { stdio: ['pipe', 'pipe', 'ignore'] });
    let said = '';
    child.stdout?.on('data', (chunk: Buffer) => { said += chunk.toString('latin1'); });
    const ended = once(child, 'exit'); // nothing is said to it: after a while that is a link that was cut
    await ended;
    assert.match(said, /nothing was heard/);
    child.stdin?.destroy();
  });
});
