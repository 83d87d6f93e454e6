import { readdir } from 'node:fs/promises';
import { z } from 'zod';
import { DrError } from '../model/errors.js';
import { SET_ID, type SetId } from '../model/image-set.js';
import { checkNamePart } from '../model/names.js';
import { hasCode, makeDirectory, readJson, removeDurable, writeDurable } from '../system/durable.js';
import { stateDirectory } from '../system/state.js';

/** Servers that were booted here from their images and not yet released. Until then no job touches their images. */
export interface Activated {
  readonly server: string;
  /** The set it was booted from. */
  readonly set: SetId;
  /** RFC 3339. */
  readonly at: string;
  /** For people: `by dr-activate`. */
  readonly by: string;
}

const schema = z.object({ server: z.string(), set: z.string().regex(SET_ID), at: z.string(), by: z.string() });

function pathOf(server: string): string {
  checkNamePart('server', server);
  return stateDirectory('activated', `${server}.json`);
}

/** Durably marks a server as booted here; to be called before it is started. */
export async function markActivated(mark: Activated): Promise<void> {
  const path = pathOf(mark.server);
  await makeDirectory(stateDirectory('activated'));
  await writeDurable(path, `${JSON.stringify(mark)}\n`);
}

/** All marks, by server. A mark that can't be read still marks its server. */
export async function readActivated(): Promise<ReadonlyMap<string, Activated>> {
  const entries = await readdir(stateDirectory('activated')).catch((error: unknown) => { if (hasCode(error, 'ENOENT')) return []; throw error; });
  const marks = new Map<string, Activated>();
  for (const entry of entries.filter((name) => name.endsWith('.json') && !name.startsWith('.'))) {
    const server = entry.slice(0, -'.json'.length);
    const parsed = schema.safeParse(await readJson(stateDirectory('activated', entry)).catch((error: unknown) => {
      if (error instanceof DrError && error.code === 'manifest-damaged') return undefined;
      throw error;
    }));
    marks.set(server, parsed.success ? parsed.data : { server, set: '', at: 'at an unknown time', by: `(${stateDirectory('activated', entry)} is damaged)` });
  }
  return marks;
}

/** Removes the mark; false if there was none. */
export async function releaseActivated(server: string): Promise<boolean> {
  const path = pathOf(server);
  const there = (await readActivated()).has(server);
  await removeDurable(path).catch((error: unknown) => { if (!hasCode(error, 'ENOENT')) throw error; }); // no mark was ever made here
  return there;
}
