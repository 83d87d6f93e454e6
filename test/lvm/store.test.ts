import { readdir } from 'node:fs/promises';
import type { StoredImage } from '../../src/model/image-set.js';
import { VolumeStore } from '../../src/stores/lvm.js';
import { run } from '../../src/system/run.js';
import { describeStore, type StoreUnderTest } from '../conformance/store.js';
import { SOAK } from '../support/skip.js';
import { allow, clearGroup, DISKS, onlyInVm, soil, wipe } from './ground.js';
import { readAt, writeAt } from './volumes.js';

describe('stores of logical volumes', function () {
  this.timeout(180_000);
  before(async function () {
    onlyInVm(this);
    await wipe();
    await soil(0, 32);
    await run('vgcreate', ['--quiet', '--yes', '--physicalextentsize', '1M', 'plain', DISKS[0] ?? '']);
    await run('vgcreate', ['--quiet', '--yes', '--physicalextentsize', '1M', 'thin', DISKS[1] ?? '']);
    await makePool();
    await allow('plain', 'thin');
  });

  describeStore('plain volumes', () => Promise.resolve(storeOf('vg:plain', 'plain')));
  if (SOAK) describeStore('thin volumes', () => Promise.resolve(storeOf('vg:thin/pool', 'thin')));
});

async function makePool(): Promise<void> {
  await run('lvcreate', ['--quiet', '--yes', '--type', 'thin-pool', '--name', 'pool', '--size', '256M', '--poolmetadatasize', '4M', 'thin']);
}

function storeOf(ref: string, vg: string): StoreUnderTest {
  const thin = ref.includes('/');
  const pathOf = (name: string): string => `/dev/${vg}/${name}`;
  return {
    traits: { origin: thin ? 'fresh' : 'stale', adoptsForeign: false },
    open: () => new VolumeStore(ref),
    write: (image, offset, bytes) => writeAt(image.path, offset, bytes),
    read: (image, offset, length) => readAt(image.path, offset, length),
    plant: async (name) => {
      await run('lvcreate', ['--quiet', '--yes', '--wipesignatures', 'n', '--name', name, ...thin ? ['--thin', '--virtualsize', '1M', `${vg}/pool`] : ['--size', '1M', vg]]);
      await writeAt(pathOf(name), 0, Buffer.from(`planted ${name}`));
      return { unharmed: async () => (await readAt(pathOf(name), 0, 8 + name.length)).toString() === `planted ${name}` };
    },
    handOver: async (name) => { await run('lvchange', ['--quiet', '--addtag', 'dr-engine', `${vg}/${name}`]); },
    vanish: async (image: StoredImage) => { await run('lvremove', ['--quiet', '--yes', `${vg}/${image.name}`]); },
    names: async () => (await readdir(`/dev/${vg}`).catch(() => [])).sort(), // no volume is active
    remove: async () => {
      if (!thin) await clearGroup(vg);
      else await run('lvremove', ['--quiet', '--yes', '--select', `vg_name=${vg} && pool_lv=pool`], { okExit: [0, 5] });
    },
  };
}
