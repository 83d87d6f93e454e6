import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, stat, truncate, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mountAt, unmount } from '../../src/system/mounts.js';
import { backingChain, prepareStorageDaemon, virtualSize, zeroExtents, type StorageDaemon } from '../../src/system/qemu.js';
import { startTime } from '../../src/system/processes.js';
import { run } from '../../src/system/run.js';

const MIB = 1024 * 1024;

describe('images, as QEMU sees them', function () {
  this.timeout(30_000);
  let directory: string;
  const at = (name: string): string => join(directory, name);
  const img = (...args: readonly string[]): Promise<unknown> => run('qemu-img', args);

  before(async function () {
    if (await run('qemu-img', ['--version']).then(() => false, () => true)) {
      console.log('      skipped: qemu-img is not installed');
      this.skip();
    }
    directory = await mkdtemp(join(tmpdir(), 'qemu-'));
    await writeFile(at('base.raw'), '');
    await truncate(at('base.raw'), 4 * MIB);
    await run('qemu-io', ['-f', 'raw', '-c', 'write -P 0x41 1M 1M', at('base.raw')]);
    await img('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', at('middle.qcow2'));
    await img('create', '-q', '-f', 'qcow2', '-b', at('middle.qcow2'), '-F', 'qcow2', at('top.qcow2'), '8M');
  });
  after(async () => { if (typeof directory === 'string') await rm(directory, { recursive: true }); });

  it('walks a backing chain, relative names included', async () => {
    const chain = await backingChain(at('top.qcow2'), 'qcow2');
    assert.deepEqual(chain.map(({ path, format, bytes }) => [path, format, bytes]),
      [[at('top.qcow2'), 'qcow2', 8 * MIB], [at('middle.qcow2'), 'qcow2', 4 * MIB], [at('base.raw'), 'raw', 4 * MIB]]);
    assert.ok(chain.every((link) => !link.encrypted && !link.device && !link.odd));
    assert.equal(await virtualSize(at('top.qcow2'), 'qcow2'), 8 * MIB);
  });

  it('never looks for a format in a raw image\'s content', async () => {
    await img('create', '-q', '-f', 'qcow2', '-b', '/etc/passwd', '-F', 'raw', at('evil'));
    const chain = await backingChain(at('evil'), 'raw');
    assert.equal(chain.length, 1);
    assert.equal(chain[0]?.bytes, Math.ceil((await stat(at('evil'))).size / 512) * 512);
  });

  it('refuses a backing file whose format is not recorded, a circle, and what is not local', async () => {
    await img('create', '-q', '-u', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', at('unsure.qcow2'), '4M');
    const header = await readFile(at('unsure.qcow2'));
    const extension = header.indexOf(Buffer.from('e2792aca', 'hex')); // the header extension that names the backing format
    assert.ok(extension > 0);
    header.writeUInt32BE(0x12345678, extension); // one that nobody knows is passed over
    await writeFile(at('unsure.qcow2'), header);
    await assert.rejects(backingChain(at('unsure.qcow2'), 'qcow2'), { code: 'disk-unsupported', hint: /rebase -u/ });

    await img('create', '-q', '-u', '-f', 'qcow2', '-b', at('one.qcow2'), '-F', 'qcow2', at('two.qcow2'), '4M');
    await img('create', '-q', '-u', '-f', 'qcow2', '-b', 'nbd://127.0.0.1/x', '-F', 'raw', at('far.qcow2'), '4M');
    await assert.rejects(backingChain(at('far.qcow2'), 'qcow2'), { code: 'disk-unsupported', message: /not a local file/ });
    await assert.rejects(backingChain(at('two.qcow2'), 'qcow2'), { code: 'io' }); // one.qcow2 is missing
    await img('create', '-q', '-u', '-f', 'qcow2', '-b', at('two.qcow2'), '-F', 'qcow2', at('one.qcow2'), '4M');
    await assert.rejects(backingChain(at('two.qcow2'), 'qcow2'), { code: 'disk-unsupported', message: /circle/ });
  });

  it('says what can\'t be read', async () => {
    await assert.rejects(backingChain(at('nothing'), 'raw'), { code: 'io', message: /No such file/ });
    await writeFile(at('text'), 'no qcow2');
    await assert.rejects(backingChain(at('text'), 'qcow2'), { code: 'io' });
  });

  it('knows encrypted images, external data and odd lengths', async () => {
    await img('create', '-q', '-f', 'qcow2', at('secret.qcow2'), '1M');
    const header = await readFile(at('secret.qcow2'));
    header.writeUInt32BE(1, 32); // crypt_method: AES
    await writeFile(at('secret.qcow2'), header);
    assert.equal((await backingChain(at('secret.qcow2'), 'qcow2'))[0]?.encrypted, true);
    await img('create', '-q', '-f', 'qcow2', '-o', `data_file=${at('external')}`, at('external.qcow2'), '1M');
    assert.equal((await backingChain(at('external.qcow2'), 'qcow2'))[0]?.dataFile, at('external'));
    await writeFile(at('odd'), 'x'.repeat(513));
    const [odd] = await backingChain(at('odd'), 'raw');
    assert.ok(odd?.odd && odd.bytes === 1024);
  });

  it('finds what is known to be zero, through the whole chain', async () => {
    assert.deepEqual(await zeroExtents(at('top.qcow2'), 'qcow2'), [{ start: 0, length: MIB }, { start: 2 * MIB, length: 6 * MIB }]);
    await writeFile(at('full'), Buffer.alloc(65536));
    await truncate(at('full'), MIB);
    const zeros = await zeroExtents(at('full'), 'raw');
    assert.equal(zeros.at(-1)?.start, 65536);
    await assert.rejects(zeroExtents(at('nothing'), 'raw'), { code: 'io' });
  });

  describe('a storage daemon', () => {
    let daemon: StorageDaemon | undefined;
    const mountPoint = (): string => at('export/disk');

    before(async function () {
      if (process.getuid?.() !== 0 || await stat('/dev/fuse').then(() => false, () => true)) {
        console.log('      skipped: needs root and /dev/fuse');
        this.skip();
      }
      await mkdir(at('export'));
    });
    beforeEach(() => writeFile(mountPoint(), ''));
    afterEach(async () => {
      if (daemon?.alive() === true) process.kill(daemon.pid, 'SIGKILL');
      while (daemon?.alive() === true) await new Promise((resolve) => { setTimeout(resolve, 20); });
      if (await mountAt(mountPoint()) !== undefined) await unmount(mountPoint(), { lazy: false });
      await unlink(mountPoint());
    });

    it('shows a chain as a plain file, and does nothing until it may', async () => {
      daemon = await prepareStorageDaemon({ kind: 'chain', chain: await backingChain(at('top.qcow2'), 'qcow2') }, mountPoint(), at('log'));
      assert.equal(await startTime(daemon.pid), daemon.startTime);
      await new Promise((resolve) => { setTimeout(resolve, 200); });
      assert.equal(await mountAt(mountPoint()), undefined);
      await daemon.go();
      assert.equal(await startTime(daemon.pid), daemon.startTime, 'it is the same process');
      assert.deepEqual((await mountAt(mountPoint()))?.source, '/dev/fuse');
      const content = await readFile(mountPoint());
      assert.equal(content.length, 8 * MIB);
      assert.ok(content.subarray(MIB, 2 * MIB).every((byte) => byte === 0x41) && content.subarray(2 * MIB).every((byte) => byte === 0));
      await assert.rejects(writeFile(mountPoint(), 'x', { flag: 'r+' }));
      // Nobody is kept from using the image.
      await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 4M 64k', at('top.qcow2')]);
    });

    it('shows an odd file with zeros up to the next sector', async () => {
      daemon = await prepareStorageDaemon({ kind: 'chain', chain: await backingChain(at('odd'), 'raw') }, mountPoint(), at('log'));
      await daemon.go();
      const content = await readFile(mountPoint());
      assert.ok(content.length === 1024 && content[512] === 0x78 && content[513] === 0);
    });

    it('reports what the daemon said when it can\'t export', async () => {
      daemon = await prepareStorageDaemon({ kind: 'nbd', socket: at('no-socket'), exportName: 'vda' }, mountPoint(), at('log2'));
      await assert.rejects(daemon.go(), { code: 'capture-failed', message: /no-socket/ });
      assert.equal(daemon.alive(), false);
    });
  });
});
