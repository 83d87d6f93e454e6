import assert from 'node:assert/strict';
import { mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { readLabels } from '../../src/stores/volume-tags.js';
import { createVolume, lvmState, tagVolume, type Volume } from '../../src/system/lvm.js';
import { run } from '../../src/system/run.js';
import { stateDirectory } from '../../src/system/state.js';
import { freshGroups, onlyInVm } from './ground.js';

const HOOK = fileURLToPath(new URL('../../../hooks/libvirt-qemu', import.meta.url));
const SET = '20260101T000000Z-0000000000000001';

describe('the libvirt hook, for volumes', function () {
  this.timeout(240_000);
  const manifest = stateDirectory('volumes', 'sets', SET, 'manifest.json');

  before(async function () {
    onlyInVm(this);
    await freshGroups({ 'dr-a': [0] });
    for (const name of ['Web01_root_1', 'Web01_data_1', 'Web01_root_incomplete', 'boots']) await createVolume({ vg: 'dr-a', name, bytes: 4 << 20, tags: name === 'boots' ? [] : [`dr.set=${SET}/root`] });
    await mkdir('/run/hook', { recursive: true });
    await symlink((await find('Web01_root_1')).path, '/run/hook/root');
    await mkdir('/etc/libvirt/hooks/qemu.d', { recursive: true });
    await writeFile('/etc/libvirt/hooks/qemu.d/dr-engine', await readFile(HOOK), { mode: 0o755 });
    // libvirt looks for hooks only when it starts.
    await run('sh', ['-ec', 'pid=$(cat /run/libvirtd.pid); kill $pid; while [ -e /proc/$pid ]; do sleep 0.2; done; libvirtd -d; until virsh --quiet list >/dev/null 2>&1; do sleep 0.2; done'], { timeoutMs: 120_000 });
  });

  const find = async (name: string): Promise<Volume> => {
    const found = (await lvmState()).volumes.find((each) => each.name === name);
    assert(found, name);
    return found;
  };
  const mark = async (name: string): Promise<string | undefined> => readLabels((await find(name)).tags).modified;
  const domain = (name: string, ...devices: readonly string[]): string => `<domain type='qemu'><name>${name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
    <os><type arch='x86_64'>hvm</type></os><devices>${devices.map((device, index) => `<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='${device}'/><target dev='vd${'ab'.charAt(index)}' bus='virtio'/></disk>`).join('')}</devices></domain>`;
  const create = async (name: string, ...devices: readonly string[]): Promise<string> => {
    await writeFile(`/run/hook/${name}.xml`, domain(name, ...devices));
    return (await run('virsh', ['create', `/run/hook/${name}.xml`], { okExit: [0, 1], timeoutMs: 120_000 })).stderr.trim();
  };
  const hook = async (name: string, ...devices: readonly string[]): Promise<number> =>
    (await run('sh', [HOOK, name, 'prepare', 'begin', '-'], { input: domain(name, ...devices), okExit: [0, 1] })).exitCode;

  it('lets a whole copy boot by hand through its link, and marks it', async () => {
    assert.equal(await create('Web01', '/run/hook/root', '/dev/dr-a/boots'), '');
    assert.match(await mark('Web01_root_1') ?? '', /^booted \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ as Web01$/);
    assert.deepEqual((await find('boots')).tags, ['dr-engine'], 'one that is bound to no set is no image');
    assert.equal((await find('Web01_root_1')).open, true);
    await run('virsh', ['destroy', 'Web01'], { timeoutMs: 120_000 });
    assert.match(await mark('Web01_root_1') ?? '', /^booted/, 'after it was shut down too');
  });

  it('keeps a copy that is being written from being booted, and marks nothing', async () => {
    const { path } = await find('Web01_root_incomplete');
    assert.match(await create('Half', '/dev/dr-a/Web01_data_1', path), /dr-engine: Half is not started: dr-a\/Web01_root_incomplete is being written/);
    assert.deepEqual([await mark('Web01_root_incomplete'), await mark('Web01_data_1')], [undefined, undefined]);
    assert.equal((await run('virsh', ['list', '--name'])).stdout.trim(), '');
    await mkdir(stateDirectory('volumes', 'sets', SET), { recursive: true });
    await writeFile(manifest, '{}');
    assert.equal(await hook('Half', path), 0, 'its name was not given yet, but it is whole');
    assert.match(await mark('Web01_root_incomplete') ?? '', /^booted/);
    await rm(manifest);
  });

  it('keeps the first mark, and has no opinion on volumes that are not ours', async () => {
    const volume = await find('Web01_data_1');
    await tagVolume(volume, { add: [`dr.modified=${Buffer.from('before').toString('base64url')}`], remove: [] });
    await run('lvcreate', ['--quiet', '--yes', '--size', '4M', '--name', 'Other_root_incomplete', '--addtag', `dr.set=${SET}/root`, 'dr-a']);
    assert.equal(await hook('Web01', volume.path, '/dev/dr-a/Other_root_incomplete', '/dev/dr-a/none', '/dev/mapper/control'), 0);
    assert.equal(await mark('Web01_data_1'), 'before');
    assert.deepEqual((await find('Other_root_incomplete')).tags, [`dr.set=${SET}/root`]);
  });
});
