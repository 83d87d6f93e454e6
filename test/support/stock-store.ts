import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { publishDefinition } from '../../src/definitions/publish.js';
import { rewriteDefinition } from '../../src/definitions/rewrite.js';
import { newSetId } from '../../src/model/image-set.js';
import { imageName } from '../../src/model/names.js';
import { FileCurrentLinks } from '../../src/rotation/current.js';
import { openStore } from '../../src/stores/open.js';
import { bootSector, missingFor, STARTABLE_DEFINITIONS, wantedOf } from './startable-definitions.js';

/**
 * Runs on a target: `stock-store.js <store> <current> <definitions>`. Puts images of every startable definition into the store, points the
 * `current` links at them and publishes the definitions, as a run would have.
 */
const [ref = '', current = '', definitions = ''] = process.argv.slice(2);
const { store, catalog } = openStore({ store: ref, allocation: 'sparse' });
await store.check();
for (const [index, one] of STARTABLE_DEFINITIONS.entries()) {
  if (missingFor(one).length > 0) continue;
  const set = newSetId(new Date(), index.toString(16).padStart(16, '0'));
  const paths: Record<string, string> = {};
  for (const { target, disk, bytes } of one.disks) {
    const image = await store.allocate(imageName(one.server, disk, 1), bytes, { set, disk });
    if (target === one.boots) await writeFile(image.path, bootSector(), { flag: 'r+' });
    paths[disk] = image.path;
  }
  const extras: Record<string, string> = {};
  if (one.nvram !== undefined) {
    await mkdir(catalog.directory(set), { recursive: true });
    extras['nvram'] = join(catalog.directory(set), 'nvram');
    await copyFile(one.nvram, extras['nvram']);
  }
  await new FileCurrentLinks(current, () => Promise.resolve(extras)).point(one.server, { set, slot: 1, paths });
  await publishDefinition(definitions, one.server, rewriteDefinition(one.xml, wantedOf(one, current)).xml);
}
