import assert from 'node:assert/strict';
import { listMounts, mountAt, parseMountInfo, sameSource } from '../../src/system/mounts.js';

describe('mounts', () => {
  it('are read from mountinfo, with blanks in names and optional fields', () => {
    const text = [
      '24 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro',
      '30 24 7:0 / /mnt/my\\040drive ro,nosuid shared:5 master:2 - ext4 /dev/loop0 rw',
      '31 24 0:50 /sub /srv rw - btrfs /dev/sdb ro',
      '32 24 0:51 / /x rw - fuse  rw',
      'nonsense', '',
    ].join('\n');
    assert.deepEqual(parseMountInfo(text), [
      { mountPoint: '/', source: '/dev/sda2', fsType: 'ext4', device: '8:2', root: '/', readOnly: false },
      { mountPoint: '/mnt/my drive', source: '/dev/loop0', fsType: 'ext4', device: '7:0', root: '/', readOnly: true },
      { mountPoint: '/srv', source: '/dev/sdb', fsType: 'btrfs', device: '0:50', root: '/sub', readOnly: true },
      { mountPoint: '/x', source: '', fsType: 'fuse', device: '0:51', root: '/', readOnly: false },
    ]);
  });

  it('of this machine have a root', async () => {
    assert.ok((await listMounts()).length > 1);
    assert.equal((await mountAt('/'))?.mountPoint, '/');
    assert.equal(await mountAt('/nowhere'), undefined);
  });

  it('have the same source by name only, unless they are block devices', async () => {
    assert.equal(await sameSource('proc', 'proc'), true);
    assert.equal(await sameSource('/dev/null', '/dev/zero'), false);
    assert.equal(await sameSource('/etc/passwd', '/etc/hostname'), false);
  });
});
