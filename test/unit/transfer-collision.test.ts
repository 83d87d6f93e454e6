import assert from 'node:assert/strict';
import { open, readFile } from 'node:fs/promises';
import { connect, type Agent } from '../../src/agent/connect.js';
import { transfer } from '../../src/jobs/transfer.js';
import { digestParts } from '../../src/transfer/part-digests.js';
import { MIB, plainDigestOf, TransferGround } from '../support/transfer-ground.js';

const PART = 4096;
const WORD = 2n ** 64n;
/** Primes of XXH64, whose rounds are `acc = rotl(acc + word * P2, 31) * P1`. */
const [P1, P2] = [0x9e3779b185ebca87n, 0xc2b2ae3d27d4eb4fn];

/** The number that makes 1 of an odd one, modulo 2^64. */
function inverse(odd: bigint): bigint {
  let found = odd;
  for (let round = 0; round < 6; round++) found = found * (2n - odd * found) % WORD;
  return (found + WORD) % WORD;
}

/**
 * Changes a part so that its XXH64 stays the same: the highest bit of the first word is turned over, which changes the lane by 2^30 * P1, up or down, and the next word
 * of that lane, 32 bytes further on, takes it back.
 */
function collide(part: Buffer): void {
  const before = Buffer.from(digestParts(part, MIB));
  part.writeBigUInt64LE(part.readBigUInt64LE(0) ^ 2n ** 63n, 0);
  const word = part.readBigUInt64LE(32);
  const step = 2n ** 30n * P1 * inverse(P2) % WORD;
  for (const other of [word - step, word + step]) {
    part.writeBigUInt64LE((other % WORD + WORD) % WORD, 32);
    if (before.equals(digestParts(part, MIB))) return;
  }
  assert.fail('no collision');
}

describe('a change that the digests of parts do not show', function () {
  this.timeout(60_000);
  let ground: TransferGround;
  let from: Agent;
  let to: Agent;

  before(async () => {
    ground = await TransferGround.make();
    [from, to] = await Promise.all([1, 2].map((run) => connect({ host: 'local', agentCommand: [] }, `collision-${String(run)}`))) as [Agent, Agent];
  });
  after(async () => {
    await Promise.all([from, to].map((agent) => agent.close()));
    await ground.remove();
  });

  async function change(file: string): Promise<void> {
    const part = Buffer.alloc(PART);
    await using handle = await open(file, 'r+');
    await handle.read(part, 0, PART, 3 * MIB + 5 * PART);
    const was = Buffer.from(part);
    collide(part);
    assert.ok(!part.equals(was));
    await handle.write(part, 0, PART, 3 * MIB + 5 * PART);
    await handle.sync();
  }

  it('is refused as a patch, and copied all the same', async () => {
    const [source, path] = [await ground.disk('source', 'abcdefgh'), await ground.disk('image', 'abcdefgh')];
    const digests = await ground.digestsOf(path, 8 * MIB);
    await change(source);
    await using there = await open(source, 'r+');
    await there.write('something that shows', 3 * MIB + 9 * PART);
    await there.write('and in another block', 6 * MIB);
    await there.sync();
    const moved = await transfer({
      from: { agent: from, source: { path: source, bytes: 8 * MIB, direct: true } }, to, route: { host: 'local', agentCommand: [] }, path,
      start: { recycle: digests, provenSince: new Date().toISOString() }, readBack: true, bandwidth: [], signal: new AbortController().signal,
      show: { what: 'sending', server: 'Web01', disk: 'root', to: 'dr01', emit: () => undefined },
    });
    assert.equal(moved.digest, await plainDigestOf(source));
    assert.ok((await readFile(source)).equals(await readFile(path)));
    assert.match(moved.note ?? '', /in whole blocks: .*patch-digest/);
    assert.ok(moved.bytesSent >= MIB && moved.bytesSent < 3 * MIB, String(moved.bytesSent));
  });
});
