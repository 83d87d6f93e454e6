import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { z } from 'zod';
import { hasCode, makeDirectory, readJson, writeDurable } from '../system/durable.js';
import { stateDirectory } from '../system/state.js';

/** The stores that this host keeps images in, as jobs have named them: at boot nobody is there to ask. */

const schema = z.object({ store: z.string(), allocation: z.enum(['sparse', 'full']), current: z.string(), definitions: z.string() });
export type RememberedStore = z.infer<typeof schema>;

export async function rememberStore(store: RememberedStore): Promise<void> {
  const path = stateDirectory('stores', `${createHash('sha256').update(`${store.store} ${store.current}`).digest('hex').slice(0, 16)}.json`);
  const text = JSON.stringify(schema.parse(store));
  if (JSON.stringify(await readJson(path)) === text) return;
  await makeDirectory(stateDirectory('stores'));
  await writeDurable(path, text);
}

export async function rememberedStores(): Promise<RememberedStore[]> {
  const names = await readdir(stateDirectory('stores')).catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return []; // no job has come here yet
    throw error;
  });
  const read = await Promise.all(names.filter((name) => /^[0-9a-f]{16}\.json$/.test(name)).map((name) => readJson(stateDirectory('stores', name))));
  return read.map((one) => schema.parse(one));
}
