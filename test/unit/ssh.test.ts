import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { bulkOptions } from '../../src/system/ssh.js';
import { temporaryDirectory, type TestPlace } from '../support/file-systems.js';
import { skipBecause } from '../support/skip.js';

/** A program stands in for `ssh -G`, which says what the configuration of this host comes to; `-F none` is ssh without any. */
describe('the cipher of connections that disks go through', () => {
  const before = process.env['PATH'];
  let place: TestPlace;
  beforeEach(async () => {
    place = await temporaryDirectory('ssh');
    process.env['PATH'] = `${place.path}${delimiter}${before ?? ''}`;
  });
  afterEach(async () => {
    process.env['PATH'] = before;
    await place.remove();
  });
  const configured = (ciphers: string): Promise<void> =>
    writeFile(join(place.path, 'ssh'), `#!/bin/sh\ncase "$*" in "-G -F none dr01") echo "ciphers chacha,ctr,aes256-gcm@openssh.com,aes128-gcm@openssh.com" ;; "-G dr01") echo "port 22"; echo "ciphers ${ciphers}" ;; *) exit 255 ;; esac\n`, { mode: 0o755 });

  it('is the fastest where nobody has chosen one, and then any other', async function () {
    if (!/\baes\b/.test(await readFile('/proc/cpuinfo', 'utf8'))) skipBecause(this, 'this processor has no AES instructions');
    await configured('chacha,ctr,aes256-gcm@openssh.com,aes128-gcm@openssh.com');
    assert.deepEqual(await bulkOptions('dr01'), ['-o', 'Ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha,ctr']);
  });

  it('is the one that the configuration of ssh names', async () => {
    await configured('ctr');
    assert.deepEqual(await bulkOptions('dr01'), []);
  });

  it('is left to ssh where there is none, or it can\'t say', async () => {
    assert.deepEqual(await bulkOptions('local'), []);
    await configured('chacha,ctr,aes256-gcm@openssh.com,aes128-gcm@openssh.com');
    assert.deepEqual(await bulkOptions('elsewhere'), []);
  });
});
