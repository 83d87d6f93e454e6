import assert from 'node:assert/strict';
import { diskName } from '../../src/capture/servers.js';
import { readDomainXml } from '../../src/system/domain-xml.js';

const domain = (devices: string, os = ''): string => `<domain type='kvm'><name>Web01</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid><os>${os}</os><devices>${devices}</devices></domain>`;

const disk = async (xml: string): ReturnType<typeof readDomainXml> => readDomainXml(domain(xml));

describe('reading a domain\'s XML', () => {
  it('lists disks in order, with their paths and formats, and no optical or floppy drives', async () => {
    const found = await disk(`
      <disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/vg0/web'/><target dev='sda' bus='scsi'/></disk>
      <disk type='file' device='cdrom'><source file='/iso'/><target dev='hda'/><readonly/></disk>
      <disk type='file' device='floppy'><target dev='fda'/></disk>
      <disk type='file'><driver name='qemu' type='qcow2'/><source file='/a &amp; b.qcow2'/><backingStore type='file'><format type='raw'/><source file='/base'/></backingStore><target dev='vda'/><readonly/></disk>
      <disk type='file' device='disk'><source file='/plain'/><target dev='vdb'/></disk>`);
    assert.deepEqual(found.disks, [
      { target: 'sda', format: 'raw', path: '/dev/vg0/web' },
      { target: 'vda', format: 'qcow2', path: '/a & b.qcow2' },
      { target: 'vdb', format: 'raw', path: '/plain' },
    ]);
    assert.equal(found.name, 'Web01');
    assert.equal(found.uuid, '6695eb01-f6a4-8304-79aa-97f2502e193f');
  });

  const problems: readonly (readonly [string, string, RegExp])[] = [
    ['a network disk', "<disk type='network'><source protocol='rbd' name='pool/image'/><target dev='vda'/></disk>", /network disk \(rbd\)/],
    ['a volume', "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>", /type 'volume'/],
    ['a directory', "<disk type='dir'><source dir='/x'/><target dev='vda'/></disk>", /type 'dir'/],
    ['an NVMe device', "<disk type='nvme'><source type='pci'/><target dev='vda'/></disk>", /type 'nvme'/],
    ['no source', "<disk type='file'><target dev='vda'/></disk>", /no source/],
    ['an empty source', "<disk type='file'><source file=''/><target dev='vda'/></disk>", /no source/],
    ['a relative path', "<disk type='file'><source file='x.raw'/><target dev='vda'/></disk>", /no absolute path/],
    ['a transient disk', "<disk type='file'><source file='/x'/><target dev='vda'/><transient/></disk>", /<transient\/>/],
    ['a shareable disk', "<disk type='file'><source file='/x'/><target dev='vda'/><shareable/></disk>", /<shareable\/>/],
    ['encryption inside qcow2', "<disk type='file'><driver name='qemu' type='qcow2'/><source file='/x'><encryption format='luks'/></source><target dev='vda'/></disk>", /encrypted inside a qcow2 file/],
    ['a slice', "<disk type='file'><source file='/x'><slices><slice type='storage' offset='0' size='512'/></slices></source><target dev='vda'/></disk>", /slice/],
    ['another format', "<disk type='file'><driver name='qemu' type='vmdk'/><source file='/x'/><target dev='vda'/></disk>", /format vmdk/],
  ];
  for (const [what, xml, expected] of problems) {
    it(`names ${what} as what keeps a disk from being imaged`, async () => {
      const { disks } = await disk(xml);
      assert.match(disks[0]?.problem ?? '', expected);
    });
  }

  it('sees that a raw disk is encrypted, in both ways of writing it; whether it may be imaged is the job\'s word', async () => {
    const inDisk = await disk("<disk type='file'><source file='/x'/><target dev='vda'/><encryption format='luks'/></disk>");
    const inSource = await disk("<disk type='file'><source file='/x'><encryption format='luks'/></source><target dev='vda'/></disk>");
    for (const { disks } of [inDisk, inSource]) assert.deepEqual(disks, [{ target: 'vda', format: 'raw', path: '/x', encrypted: true }]);
    assert.equal((await disk("<disk type='file'><source file='/x'/><target dev='vda'/></disk>")).disks[0]?.encrypted, undefined);
  });

  it('finds UEFI variables in both ways of writing them, and TPM emulators only', async () => {
    assert.equal((await readDomainXml(domain('', '<nvram template="/t">/var/nvram/web.fd</nvram>'))).nvram, '/var/nvram/web.fd');
    assert.equal((await readDomainXml(domain('', "<nvram type='file'><source file='/var/nvram/web.fd'/></nvram>"))).nvram, '/var/nvram/web.fd');
    assert.equal((await readDomainXml(domain(''))).nvram, undefined);
    assert.equal((await readDomainXml(domain("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"))).tpm, true);
    assert.equal((await readDomainXml(domain("<tpm model='tpm-tis'><backend type='passthrough'/></tpm>"))).tpm, false);
  });
});

describe('the name that a disk\'s images carry', () => {
  const names: readonly (readonly [string, string])[] = [
    ['/srv/web01.qcow2', 'web01'], ['/srv/web01.disk.raw', 'web01.disk'], ['/srv/web01', 'web01'], ['/srv/.hidden', '.hidden'],
    ['/dev/vg0/web01.root', 'web01.root'], ['/dev/mapper/vg0-web01', 'web01'], ['/dev/mapper/my--vg-web--01', 'web-01'],
    ['/dev/mapper/mpatha', 'mpatha'], ['/dev/drbd/by-res/web/0', '0'], ['/dev/sdb', 'sdb'],
  ];
  for (const [path, name] of names) it(`is ${name} for ${path}`, () => { assert.equal(diskName(path), name); });
});
