import assert from 'node:assert/strict';
import { readDefinition } from '../../src/definitions/read.js';
import { definitionCase } from '../support/definition-cases.js';

const facts = (name: string) => readDefinition(definitionCase(name).input);

describe('reading what a definition needs', function () {
  this.timeout(60_000);

  it('names disks, with what and where they are', () => {
    assert.deepEqual(facts('volume-group-store').disks, [
      { target: 'vda', device: 'disk', bus: 'virtio', type: 'file', path: '/srv/vm/Db01-system.qcow2', format: 'qcow2' },
      { target: 'vdb', device: 'disk', bus: 'virtio', type: 'block', path: '/dev/vg0/Db01_1', format: 'raw', slice: { offset: 1048576, size: 1073741824 } },
      { target: 'vdc', device: 'disk', bus: 'virtio', type: 'block', path: '/dev/vg0/Db01_2', format: 'raw' },
    ]);
    assert.deepEqual(facts('cdrom').disks.map(({ target, device, type, path }) => [target, device, type, path]), [
      ['vda', 'disk', 'file', '/srv/vm/Cd01.img'], ['sda', 'cdrom', 'file', '/srv/iso/debian-12.iso'], ['sdb', 'cdrom', 'block', '/dev/sr0'],
      ['sdc', 'cdrom', 'file', undefined], ['sdd', 'cdrom', 'network', undefined],
    ]);
    assert.deepEqual(facts('lun').disks.map(({ device }) => device), ['lun', 'lun']);
  });

  it('knows memory in every unit, virtual CPUs and huge pages', () => {
    const bytes = (memory: string): number => readDefinition(`<domain><name>S</name>${memory}</domain>`).memoryBytes;
    assert.equal(bytes('<memory>1024</memory>'), 1048576);
    for (const [unit, size] of [['b', 1], ['bytes', 1], ['k', 1024], ['KB', 1000], ['KiB', 1024], ['M', 1048576], ['MB', 1e6], ['MiB', 1048576], ['g', 2 ** 30], ['GB', 1e9], ['TiB', 2 ** 40]] as const) {
      assert.equal(bytes(`<memory unit='${unit}'> 3 </memory>`), 3 * size, unit);
    }
    assert.equal(facts('cpu-numa').vcpus, 4);
    assert.equal(facts('volume-group-store').hugepages, true);
    assert.equal(facts('plain').hugepages, false);
  });

  it('knows firmware, machine, emulator and CPU', () => {
    const { firmware, loader, nvram, nvramTemplate, machine, arch, cpu, emulator, type, tpm } = facts('live-transient');
    assert.deepEqual({ firmware, loader, nvram, nvramTemplate, machine, arch, cpu, emulator, type, tpm }, {
      firmware: 'efi', loader: '/usr/share/OVMF/OVMF_CODE_4M.ms.fd', nvram: '/var/lib/libvirt/qemu/nvram/Live01_VARS.fd', nvramTemplate: '/usr/share/OVMF/OVMF_VARS_4M.ms.fd',
      machine: 'pc-q35-7.2', arch: 'x86_64', cpu: { mode: 'custom', model: 'EPYC' }, emulator: '/usr/bin/qemu-system-x86_64', type: 'qemu', tpm: true,
    });
    assert.equal(facts('plain').firmware, 'bios');
    assert.equal(facts('uefi-autoselect').firmware, 'efi');
    assert.equal(facts('nvram-source').nvram, '/dev/vg0/Uefi03_vars');
  });

  it('knows what the host must have', () => {
    assert.deepEqual(facts('hostdev').hostDevices, ['pci 0000:03:00.0', 'usb 0x1234:0xbeef', 'scsi scsi_host0 0 0 0', 'mdev c2177883-f1bb-47f0-914d-32a22e3a8804']);
    assert.deepEqual(facts('virtiofs-vsock').paths, [
      { what: 'shared directory', path: '/srv/share', need: 'exists' }, { what: 'file system daemon', path: '/usr/lib/qemu/virtiofsd', need: 'exists' },
      { what: 'shared directory', path: '/srv/plan9', need: 'exists' },
    ]);
    assert.deepEqual(facts('serial-channels').paths.map(({ path, need }) => [path, need]), [['/var/log/libvirt/Chat01-console.log', 'parent'], ['/var/log/libvirt/Chat01-second.log', 'parent']]);
    assert.deepEqual(facts('live-transient').networks, ['default']);
    assert.deepEqual(facts('live-transient').securityModels, ['apparmor']);
    const { bridges, nics } = readDefinition(`<domain><name>S</name><devices>
      <interface type='bridge'><source bridge='br0'/></interface><interface type='bridge'><source bridge='br0'/></interface>
      <interface type='direct'><source dev='eth1' mode='bridge'/></interface></devices></domain>`);
    assert.deepEqual({ bridges, nics }, { bridges: ['br0'], nics: ['eth1'] });
    assert.deepEqual(facts('qemu-commandline').commandLine, ['-fw_cfg', 'name=opt/com.example/greeting,string=<hello & goodbye>']);
  });

  it('is not led astray by foreign elements of the same names', () => {
    assert.deepEqual(facts('metadata').disks.map(({ path }) => path), ['/srv/vm/Meta01.qcow2']);
    assert.equal(facts('cdata-entities').name, 'Text01');
    assert.deepEqual(facts('cdata-entities').disks.map(({ path }) => path), ["/srv/vm/R&D/it's<here>.qcow2", '/srv/vm/R&D/"2".qcow2']);
  });

  it('refuses what is no definition', () => {
    for (const xml of ['', '<network/>', '<domain/>', '<domain><name> </name></domain>']) assert.throws(() => readDefinition(xml), { code: 'definition-unusable' });
  });
});
