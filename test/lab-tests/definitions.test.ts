import assert from 'node:assert/strict';
import { join } from 'node:path';
import { imageName } from '../../src/model/names.js';
import { CHECKOUT } from '../lab/layout.js';
import { Lab } from '../lab/lab.js';
import type { Host } from '../lab/host.js';
import { until } from '../lab/namespaces.js';
import { skipBecause } from '../support/skip.js';
import { bootSector, missingFor, STARTABLE_DEFINITIONS } from '../support/startable-definitions.js';

describe('virsh create of a published definition', function () {
  this.timeout(120_000);
  const name = 'definitions';
  const definitions = '/shared/definitions';
  const current = '/shared/dr/current';
  let host: Host;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    host = (await Lab.up({ name, hosts: ['dr01'], store: { sizeMiB: 512 } })).host('dr01');
    await host.run(process.execPath, [join(CHECKOUT, 'build/test/support/stock-store.js'), 'fs:/srv/dr', current, definitions], { timeoutMs: 60_000 });
  });

  after(async () => { await Lab.down(name); });

  for (const one of STARTABLE_DEFINITIONS) {
    const proof = one.boots === undefined ? 'starts with its disks' : `boots from ${one.boots}, a link to an image in the store`;
    it(`${proof}: ${one.name}`, async function () {
      const missing = missingFor(one);
      if (missing.length > 0) skipBecause(this, `${missing.join(' and ')} is missing (scripts/setup.sh installs it)`);
      const path = `${definitions}/${one.server}.xml`;
      const published = await host.readFile(path);
      await host.run('virsh', ['create', path]);
      try {
        assert.equal((await host.run('virsh', ['domstate', one.server])).stdout.trim(), 'running');
        for (const { target, disk, bytes } of one.disks) {
          const { stdout } = await host.run('virsh', ['domblkinfo', one.server, target]);
          assert.match(stdout, new RegExp(`^Capacity: +${String(bytes)}$`, 'm'));
          const list = (await host.run('virsh', ['domblklist', one.server])).stdout;
          assert.match(list, new RegExp(`^ *${target} +${current}/${one.server}/${disk}$`, 'm'));
        }
        const booted = one.disks.find(({ target }) => target === one.boots);
        if (booted !== undefined) {
          const image = `/srv/dr/${imageName(one.server, booted.disk, 1)}.raw`;
          const mark = async (): Promise<true | undefined> => {
            const { stdout } = await host.run('sh', ['-c', 'dd if="$1" bs=512 skip=1 count=1 status=none | od -An -v -tx1 | tr -d " \\n"', 'sh', image]);
            return stdout === bootSector().toString('hex') ? true : undefined;
          };
          await until(`${one.server} to write to ${image}`, mark, 60_000);
        }
        assert.equal(await host.readFile(path), published);
      } finally {
        await host.run('virsh', ['destroy', one.server], { okExit: [0, 1] });
      }
      assert.doesNotMatch((await host.run('virsh', ['list', '--all', '--name'])).stdout, new RegExp(`^${one.server}$`, 'm'));
    });
  }

  it('refuses to start when an image is gone, whatever the source said of its start-up policy', async () => {
    await host.run('mv', [`/srv/dr/${imageName('Cd01', 'Cd01', 1)}.raw`, '/srv/dr/away']);
    await assert.rejects(host.run('virsh', ['create', `${definitions}/Cd01.xml`]), /Cannot access storage file/);
    await host.run('mv', ['/srv/dr/away', `/srv/dr/${imageName('Cd01', 'Cd01', 1)}.raw`]);
  });
});
