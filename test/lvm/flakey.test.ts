import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DrError, type ErrorCode } from '../../src/model/errors.js';
import type { SetIntent } from '../../src/model/image-set.js';
import { openStore, type OpenStore } from '../../src/stores/open.js';
import { prove } from '../../src/stores/prove.js';
import { run } from '../../src/system/run.js';
import { makeTicket } from '../../src/transfer/ticket.js';
import { TransferGround } from '../support/transfer-ground.js';
import { allow, DISKS, onlyInVm, wipe } from './ground.js';

/** The disk below a store loses, refuses or spoils what is written to it, by dm-flakey: what was being written never becomes a complete set. */

const VG = 'dr_flakey';
const BLOCK = 128 * 1024;
/** Sectors. */
const OFFSET = 2048;
const LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEF';
const BYTES = LETTERS.length * BLOCK;
const KINDS: readonly (readonly [string, string, readonly ErrorCode[]])[] = [
  ['refuses writes', '1 error_writes', ['io']],
  ['forgets writes, and says nothing', '1 drop_writes', ['digest-mismatch', 'io']],
  // It spoils the bytes where they lie in memory, so that they may be found out before they are read back.
  ['spoils a byte of each write, and says nothing', '5 corrupt_bio_byte 33 w 222 0', ['digest-mismatch', 'io', 'transfer-protocol']],
];

describe('a disk that fails below a store of logical volumes', function () {
  this.timeout(180_000);
  let ground: TransferGround;
  let open: OpenStore;
  let sectors: number;
  let day = 0;

  before(async function () {
    onlyInVm(this);
    await wipe();
    sectors = Number((await run('blockdev', ['--getsz', DISKS[3] ?? ''])).stdout);
    await run('dmsetup', ['create', 'flakey', '--table', table()]);
    await run('vgcreate', ['--quiet', '--yes', VG, '/dev/mapper/flakey'], { timeoutMs: 60_000 });
    await allow(VG);
    ground = await TransferGround.make();
    open = openStore({ store: `vg:${VG}`, allocation: 'sparse' });
  });
  after(async () => {
    await ground?.remove();
    await wipe();
  });

  /** Always up, or with a fault for ten minutes. It does not begin where the disk does: LVM would find its label in both. */
  const table = (fault?: string): string => `0 ${String(sectors - OFFSET)} flakey ${DISKS[3] ?? ''} ${String(OFFSET)} ${fault === undefined ? '600 0' : `0 600 ${fault}`}`;
  const become = async (fault?: string): Promise<void> => {
    await run('dmsetup', ['suspend', '--nolockfs', 'flakey']);
    await run('dmsetup', ['load', 'flakey', '--table', table(fault)]);
    await run('dmsetup', ['resume', 'flakey']);
  };
  const intent = (): SetIntent => {
    day += 1;
    return {
      version: 1, set: `2026010${String(day)}T000000Z-00000000000000aa`, generation: day, anvil: 'an-a01', job: 'web', server: 'Web01', uuid: '7f1e6a52-6dcb-4cf0-9d7f-3f4c8c1f0a11', node: 'node01',
      capture: 'cold', consistency: 'clean', capturedAt: '2026-01-01T00:00:00.000Z', disks: [{ disk: 'root', target: 'vda', bytes: BYTES }],
    };
  };

  for (const [what, fault, codes] of KINDS) {
    it(`that ${what} makes no complete set; when it is well again, the same image does`, async () => {
      const source = await ground.disk('source', LETTERS, BYTES, ground.path('source'), BLOCK);
      const about = intent();
      await open.catalog.begin(about);
      const image = await open.store.allocate(`Web01_root_${String(day)}`, BYTES, { set: about.set, disk: 'root' });
      const failing = await makeTicket({ path: image.path, bytes: BYTES, start: 'stale', readBack: true });
      const moving = ground.move({ path: source, bytes: BYTES }, { path: image.path, start: 'stale', ticket: failing }, { blockBytes: BLOCK, limitBytesPerSecond: 2 ** 20 });
      moving.catch(() => undefined); // looked at below
      await sleep(1500);
      await become(fault);
      await assert.rejects(moving, (error: unknown) => {
        assert.ok(error instanceof DrError && codes.includes(error.code), String(error instanceof DrError ? `${error.code}: ${error.message}` : error));
        return true;
      });
      await become();
      const request = { set: about.set, definition: '<domain/>' };
      await assert.rejects(prove(open, { ...request, disks: { root: { ticket: failing.ticket, digest: 'sha256-1MiB:00' } } }), (error: unknown) => error instanceof DrError && error.code === 'transfer-failed');
      assert.equal(await open.catalog.manifest(about.set), undefined);

      const { received, ticket } = await ground.move({ path: source, bytes: BYTES }, { path: image.path, start: 'read' }, { blockBytes: BLOCK });
      const copy = ground.path('copy');
      await run('dd', [`if=${image.path}`, `of=${copy}`, 'bs=1M', 'iflag=direct', 'status=none']);
      assert.ok((await readFile(copy)).subarray(0, BYTES).equals(await readFile(source)));
      assert.equal(received.proof, 'device');
      assert.notEqual(ticket, failing.ticket);
    });
  }
});
