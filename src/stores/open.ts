import { isAbsolute, join, normalize } from 'node:path';
import { DrError } from '../model/errors.js';
import { FileCatalog } from './catalog.js';
import { FileSystemStore } from './file-system.js';
import { volumesCatalog, VolumeStore } from './lvm.js';
import type { Catalog, Store } from './store.js';

/** A store and what is remembered of its images. */
export interface OpenStore {
  readonly store: Store;
  readonly catalog: Catalog;
}

/**
 * Opens what the configuration names: `fs:/directory`, or `vg:VG[,VG…]` (`VG/POOL` for thin volumes). Nothing is touched. Throws
 * `config-invalid` for anything else.
 */
export function openStore(ref: { readonly store: string; readonly allocation: 'sparse' | 'full' }): OpenStore {
  if (ref.store.startsWith('vg:')) return { store: new VolumeStore(ref.store), catalog: new FileCatalog(volumesCatalog()) };
  const directory = ref.store.startsWith('fs:') ? ref.store.slice(3) : '';
  if (!isAbsolute(directory) || directory === '/') {
    throw new DrError('config-invalid', `the store ${JSON.stringify(ref.store)} is neither fs:/directory nor vg:VG[,VG…]`, 'Write for example fs:/srv/dr.');
  }
  const path = normalize(directory).replace(/\/+$/, '');
  return { store: new FileSystemStore(path, ref.allocation), catalog: new FileCatalog(join(path, '.dr')) };
}
