import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../src/system/run.js';
import * as virsh from '../../src/system/virsh.js';

/** libvirt's built-in test driver needs no daemon; each connection sees the same one domain, `test`, running. */
const TEST = 'test:///default';
const NOWHERE = 'qemu+unix:///system?socket=/nonexistent/libvirt-sock';
const UUID = '6695eb01-f6a4-8304-79aa-97f2502e193f';

describe('asking libvirt', function () {
  this.timeout(20_000);
  before(async function () {
    if (await run('virsh', ['--version']).then(() => false, () => true)) {
      console.log('      skipped: virsh is not installed');
      this.skip();
    }
  });

  it('finds a domain by name and by UUID', async () => {
    assert.deepEqual(await virsh.domainState(TEST, 'test'), { state: 'running', uuid: UUID });
    assert.deepEqual(await virsh.domainState(TEST, UUID), { state: 'running', uuid: UUID });
    assert.deepEqual(await virsh.listDomains(TEST), [{ name: 'test', uuid: UUID }]);
    assert.equal((await virsh.domainInfo(TEST, 'test'))?.persistent, true);
    assert.match(await virsh.dumpXml(TEST, 'test', { inactive: true }), /<name>test<\/name>/);
  });

  it('does not take a number for a domain\'s ID', async () => {
    assert.equal(await virsh.domainState(TEST, '1'), undefined);
  });

  it('says undefined where there is no domain, and server-unknown where one is needed', async () => {
    assert.equal(await virsh.domainState(TEST, 'nope'), undefined);
    assert.equal(await virsh.domainPausedReason(TEST, 'nope'), undefined);
    assert.equal(await virsh.domainState(TEST, '--version'), undefined);
    await assert.rejects(virsh.dumpXml(TEST, 'nope', { inactive: true }), { code: 'server-unknown' });
    await assert.rejects(virsh.startDomain(TEST, 'nope'), { code: 'server-unknown' });
    assert.equal(await virsh.shutdownDomain(TEST, 'nope'), 'not-running');
    assert.equal(await virsh.destroyDomain(TEST, 'nope'), 'not-running');
  });

  it('tells a libvirt that does not answer from a domain that is not there', async () => {
    await assert.rejects(virsh.domainState(NOWHERE, 'test'), { code: 'unreachable' });
    await assert.rejects(virsh.listDomains(NOWHERE), { code: 'unreachable' });
  });

  it('knows what is running already, and what is asked of a running domain', async () => {
    assert.equal(await virsh.startDomain(TEST, 'test'), 'already-running');
    assert.equal(await virsh.shutdownDomain(TEST, 'test'), 'requested');
    assert.equal(await virsh.destroyDomain(TEST, 'test'), 'destroyed');
    const directory = await mkdtemp(join(tmpdir(), 'virsh-'));
    try {
      const file = join(directory, 'test.xml');
      await writeFile(file, await virsh.dumpXml(TEST, 'test', { inactive: true }));
      assert.equal(await virsh.createDomain(TEST, file), 'already-running');
      await writeFile(file, '<domain/>');
      await assert.rejects(virsh.createDomain(TEST, file), { code: 'program-failed' });
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it('passes on what libvirt cannot do', async () => {
    await assert.rejects(virsh.beginBackup(TEST, 'test', '/nonexistent'), { code: 'program-failed' });
  });

  it('reads the socket that a backup job serves', async () => {
    assert.equal(await virsh.backupSocket("<domainbackup mode='pull'><server transport='unix' socket='/a &amp; b'/></domainbackup>"), '/a & b');
    assert.equal(await virsh.backupSocket("<domainbackup mode='push'><disks/></domainbackup>"), undefined);
  });
});
