import assert from 'node:assert/strict';
import type { ServerSeen } from '../../src/model/server.js';
import type { Host } from '../lab/host.js';
import type { Lab } from '../lab/lab.js';
import { Hands } from './hands.js';
import { nodeOrSkip, see, URI } from './node.js';

describe('what a node says of its servers', function () {
  this.timeout(60_000);
  let lab: Lab;
  let host: Host;
  let hands: Hands;

  before(async function () {
    ({ lab, host } = await nodeOrSkip(this, 'capture-servers'));
    hands = await Hands.start(host);
  });
  after(async () => {
    await (hands as Hands | undefined)?.end(); // neither is there if it was skipped
    await (lab as Lab | undefined)?.down();
  });

  const problemOf = (server: ServerSeen, target: string): string => {
    const disk = server.disks.find((each) => each.target === target);
    assert.ok(disk, `${server.name} has no ${target}`);
    return disk.problem ?? '';
  };

  it('sees state, definition and disks, with sizes; an unknown server is absent', async () => {
    const guest = await lab.addGuest('node01', { name: 'Web01', disks: [{}, { format: 'qcow2', backing: true, sizeMiB: 32 }] });
    await host.writeFile('/shared/definitions/Web01.xml', '<!-- kept by hand --><domain/>');
    const { servers } = await hands.call('node.servers', { uri: URI, names: ['Nope', 'Web01', guest.uuid], definitions: '/shared/definitions' });
    assert.equal(servers.length, 1, 'a UUID is no name');
    const [server] = servers;
    assert.ok(server);
    assert.equal(server.uuid, guest.uuid);
    assert.equal(server.state, 'running');
    assert.equal(server.persistent, true);
    assert.match(server.definitionFile ?? '', /kept by hand/);
    assert.match(server.xml, /<name>Web01<\/name>/);
    assert.deepEqual(server.disks, [
      { target: 'vda', format: 'raw', name: 'Web01_0', path: '/var/lib/libvirt/images/Web01_0.raw', bytes: 8 << 20 },
      { target: 'vdb', format: 'qcow2', name: 'Web01_1', path: '/var/lib/libvirt/images/Web01_1.qcow2', bytes: 32 << 20 },
    ]);
    const { states } = await hands.call('node.states', { uri: URI, names: ['Web01', 'Nope'] });
    assert.deepEqual(states, { Web01: { state: 'running', uuid: guest.uuid } });
    await guest.destroy();
    assert.equal((await see(hands, 'Web01')).state, 'shut off');
    assert.equal((await hands.call('node.servers', { uri: URI, names: ['Web01'] })).servers[0]?.definitionFile, undefined);
  });

  it('names disks whose source is missing, is no image, or hangs on one that is missing', async () => {
    await lab.addGuest('node01', { name: 'Bad01', start: false, disks: [{}, { format: 'qcow2', backing: true }, { format: 'qcow2' }] });
    await host.run('sh', ['-c', 'cd /var/lib/libvirt/images && rm Bad01_0.raw Bad01_1.qcow2.base && echo text > Bad01_2.qcow2']);
    const server = await see(hands, 'Bad01');
    assert.match(problemOf(server, 'vda'), /^there is no /);
    assert.match(problemOf(server, 'vdb'), /No such file/);
    assert.match(problemOf(server, 'vdc'), /can't be read as qcow2/);
  });

  it('names a disk that the running server has and its definition has not, and the other way round', async () => {
    const guest = await lab.addGuest('node01', { name: 'Hot01', disks: [{}, {}, {}] });
    await host.run('sh', ['-c', 'truncate -s 1M /var/lib/libvirt/images/plugged.raw']);
    await host.run('virsh', ['attach-disk', 'Hot01', '/var/lib/libvirt/images/plugged.raw', 'vdx', '--driver', 'qemu', '--subdriver', 'raw', '--live']);
    await host.run('virsh', ['detach-disk', 'Hot01', 'vdc', '--config']);
    await host.run('virsh', ['attach-disk', 'Hot01', '/var/lib/libvirt/images/later.raw', 'vdy', '--driver', 'qemu', '--subdriver', 'raw', '--config']);
    const server = await see(hands, 'Hot01');
    assert.equal(problemOf(server, 'vda'), '');
    assert.match(problemOf(server, 'vdx'), /running server has it but its definition has not/);
    assert.match(problemOf(server, 'vdc'), /running server has it but its definition has not/);
    assert.match(problemOf(server, 'vdy'), /in the definition but not in the running server/);
    await guest.destroy();
    assert.equal((await see(hands, 'Hot01')).disks.some(({ target }) => target === 'vdx'), false, 'off, only the definition counts');
  });

  it('sees a server whose name is a number', async () => {
    const guest = await lab.addGuest('node01', { name: '1', start: false });
    assert.equal((await see(hands, '1')).uuid, guest.uuid);
    const { states } = await hands.call('node.states', { uri: URI, names: ['1'] });
    assert.equal(states['1']?.state, 'shut off');
  });

  it('sees UEFI variables and a TPM', async () => {
    await lab.addGuest('node01', { name: 'Efi01', start: false, edit: (xml) => xml
      .replace('</os>', "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram>/var/lib/libvirt/qemu/nvram/Efi01.fd</nvram></os>")
      .replace('<memballoon', "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm><memballoon") });
    const server = await see(hands, 'Efi01');
    assert.equal(server.nvram, '/var/lib/libvirt/qemu/nvram/Efi01.fd');
    assert.equal(server.tpm, true);
  });

  it('says unreachable when libvirt does not answer', async () => {
    await assert.rejects(hands.call('node.servers', { uri: 'qemu+unix:///system?socket=/nonexistent', names: ['Web01'] }), { code: 'unreachable' });
  });
});
