import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Lab } from '../lab/lab.js';
import type { Host } from '../lab/host.js';
import { skipBecause } from '../support/skip.js';

const HOOK = fileURLToPath(new URL('../../../hooks/libvirt-qemu', import.meta.url));
const INSTALLED = '/etc/libvirt/hooks/qemu.d/dr-engine';

describe('the libvirt hook, run by libvirt', function () {
  this.timeout(60_000);
  const name = 'hook';
  let host: Host;

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    const lab = await Lab.up({ name, hosts: ['dr01'], store: { sizeMiB: 64 } });
    host = lab.host('dr01');
    await host.run('mkdir', ['-p', '/etc/libvirt/hooks/qemu.d']);
    await host.writeFile(INSTALLED, await readFile(HOOK, 'utf8'), 0o755);
    await host.powerCut();
    await host.boot(); // libvirt looks for hooks only when it starts
    for (const image of ['Web01_root_1', 'Web01_root_incomplete']) {
      await host.run('truncate', ['-s', '8M', `/srv/dr/${image}.raw`]);
      await host.run('setfattr', ['-n', 'user.dr.set', '-v', '20260101T000000Z-0000000000000001/root', `/srv/dr/${image}.raw`]);
    }
    await host.run('sh', ['-c', 'mkdir -p /shared/dr/current/Web01 && ln -s /srv/dr/Web01_root_1.raw /shared/dr/current/Web01/root']);
  });
  after(async () => { await Lab.down(name); });

  const create = async (domain: string, disk: string): Promise<string> => {
    await host.writeFile(`/tmp/${domain}.xml`, `<domain type='qemu'><name>${domain}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
      <os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>`);
    return (await host.run('virsh', ['create', `/tmp/${domain}.xml`], { okExit: [0, 1] })).stderr;
  };
  const mark = async (image: string): Promise<string> => (await host.run('getfattr', ['--only-values', '-n', 'user.dr.modified', `/srv/dr/${image}.raw`], { okExit: [0, 1] })).stdout;

  it('lets a whole copy boot by hand through its link, and marks it', async () => {
    assert.equal((await create('Web01', '/shared/dr/current/Web01/root')).trim(), '');
    assert.match(await mark('Web01_root_1'), /^booted \S+ as Web01$/);
    await host.run('virsh', ['destroy', 'Web01']);
    assert.match(await mark('Web01_root_1'), /^booted/, 'after it was shut down too');
  });

  it('keeps a copy that is being written from being booted, with the reason', async () => {
    assert.match(await create('Half', '/srv/dr/Web01_root_incomplete.raw'), /dr-engine: Half is not started: \/srv\/dr\/Web01_root_incomplete\.raw is being written/);
    assert.equal(await mark('Web01_root_incomplete'), '');
    assert.equal((await host.run('virsh', ['list', '--name'])).stdout.trim(), '');
  });
});
