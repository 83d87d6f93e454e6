import assert from 'node:assert/strict';
import { access, mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Ledger } from '../../src/capture/obligations.js';
import { owedDirectory } from '../../src/capture/owed-records.js';
import { makeDirectory } from '../../src/system/durable.js';

const guard = [process.execPath, fileURLToPath(new URL('../support/guard-main.js', import.meta.url))];

describe('the ledger', () => {
  let home: string;
  let ledger: Ledger;

  beforeEach(async () => {
    home = await mkdtemp(join(tmpdir(), 'ledger-'));
    process.env['DR_STATE_DIR'] = join(home, 'state');
    await makeDirectory(join(home, 'state'));
    ledger = await Ledger.open(guard);
  });
  afterEach(async () => {
    await ledger.payAll();
    await ledger.close();
    delete process.env['DR_STATE_DIR'];
    await rm(home, { recursive: true, maxRetries: 10, retryDelay: 50 });
  });

  const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false);

  it('leaves no trace as long as nothing is owed', async () => {
    assert.deepEqual(await ledger.payAll(), []);
    assert.deepEqual(await ledger.list(), []);
    await ledger.close();
    assert.equal(await exists(owedDirectory()), false);
  });

  it('has written a debt down, for root only, when owe resolves', async () => {
    const owed = await ledger.owe({ kind: 'remove', path: join(home, 'dr-engine-1') });
    assert.equal((await stat(join(ledger.directory, `${owed.id}.json`))).mode & 0o777, 0o600);
    assert.equal((await stat(ledger.directory)).mode & 0o777, 0o700);
    assert.deepEqual(await ledger.list(), [owed]);
    assert.deepEqual(await ledger.listAll(), [owed]);
  });

  it('pays, settles and amends, each as often as wanted', async () => {
    const path = join(home, 'dr-engine-1');
    await mkdir(path);
    const first = await ledger.owe({ kind: 'remove', path });
    const second = await ledger.owe({ kind: 'remove', path: join(home, 'dr-engine-2') });
    await ledger.amend(second.id, { kind: 'remove', path: join(home, 'dr-engine-3') });
    assert.deepEqual((await ledger.list()).map(({ debt }) => debt), [first.debt, { kind: 'remove', path: join(home, 'dr-engine-3') }]);
    for (let again = 0; again < 2; again += 1) {
      assert.equal(await ledger.pay(first.id), 'paid');
      await ledger.settled(second.id);
      await ledger.amend(second.id, second.debt);
    }
    assert.equal(await exists(path), false);
    assert.deepEqual(await ledger.list(), []);
  });

  it('pays everything, and leaves nothing behind', async () => {
    for (const name of ['1', '2', '3']) {
      await mkdir(join(home, `dr-engine-${name}`));
      await ledger.owe({ kind: 'remove', path: join(home, `dr-engine-${name}`) });
    }
    assert.deepEqual(await ledger.payAll(), []);
    await ledger.close();
    assert.deepEqual((await readdir(home)), ['state']);
    assert.deepEqual(await readdir(owedDirectory()), []);
  });

  it('refuses to owe the removal of what is not ours', async () => {
    await assert.rejects(ledger.owe({ kind: 'remove', path: '/srv/images' }), { code: 'not-ours' });
    assert.deepEqual(await ledger.list(), []);
  });

  it('owes nothing if no guard can be had', async () => {
    const without = await Ledger.open(['/nonexistent/guard']);
    await assert.rejects(without.owe({ kind: 'remove', path: join(home, 'dr-engine-1') }), { code: 'failed', message: /guard .* did not start: .*Nothing was touched/ });
    const dying = await Ledger.open(['false']);
    await assert.rejects(dying.owe({ kind: 'remove', path: join(home, 'dr-engine-1') }), { message: /it ended \(1\)/ });
    assert.deepEqual(await ledger.listAll(), []);
    await without.close();
    await dying.close();
  });

  it('keeps what can\'t be paid, with the reason', async () => {
    const owed = await ledger.owe({ kind: 'remove', path: join(home, 'dr-engine-1', 'x') });
    await writeFile(join(home, 'dr-engine-1'), 'a file');
    await assert.rejects(ledger.pay(owed.id), { code: 'failed' });
    assert.match((await ledger.list())[0]?.stuck ?? '', /no directory any more/);
    await rm(join(home, 'dr-engine-1'));
  });
});
