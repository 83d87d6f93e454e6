import { isAbsolute, join, normalize } from 'node:path';
import { DrError } from '../model/errors.js';
import { FileCatalog } from './catalog.js';
import { FileSystemStore } from './file-system.js';
import type { Catalog, Store } from './store.js';

/** A store and what is remembered of its images. */
export interface OpenStore {
  readonly store: Store;
  readonly catalog: Catalog;
}

/**
 * Opens what the configuration names: `fs:/directory`. Nothing is touched. Throws `config-invalid` for anything else, and
 * `store-unusable` for volume groups.
 */
export function openStore(ref: { readonly store: string; readonly allocation: 'sparse' | 'full' }): OpenStore {
  if (ref.store.startsWith('vg:')) {
    throw new DrError('store-unusable', `the store ${ref.store} can't be used: this version keeps images in file systems only. Nothing was touched.`,
      'Make a file system on a logical volume and use store: fs:/where/it/is/mounted.');
  }
  const directory = ref.store.startsWith('fs:') ? ref.store.slice(3) : '';
  if (!isAbsolute(directory) || directory === '/') {
    throw new DrError('config-invalid', `the store ${JSON.stringify(ref.store)} is not fs:/directory`, 'Write for example fs:/srv/dr.');
  }
  const path = normalize(directory).replace(/\/+$/, '');
  return { store: new FileSystemStore(path, ref.allocation), catalog: new FileCatalog(join(path, '.dr')) };
}
