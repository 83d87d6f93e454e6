import { chmod, readdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { DrError } from '../model/errors.js';
import { SET_ID, type Manifest, type SetId, type SetIntent } from '../model/image-set.js';
import { createDurable, hasCode, makeDirectory, readJson, removeDurable, writeDurable } from '../system/durable.js';
import { step } from '../system/steps.js';
import { parseIntent, parseManifest } from './records.js';
import type { Catalog } from './store.js';

const INTENT = 'intent.json';
const MANIFEST = 'manifest.json';
const RETRACTED = 'retracted.json';

/**
 * A catalog in a directory (`<store>/.dr`). Files are 0600, directories 0711. What makes a set complete is one file, `manifest.json`, which
 * appears whole or not at all.
 */
export class FileCatalog implements Catalog {
  constructor(private readonly root: string) {}

  async begin(intent: SetIntent): Promise<void> {
    const directory = this.directory(intent.set);
    await makeDirectory(directory, 0o711);
    for (const made of [this.root, join(this.root, 'sets'), directory]) await chmod(made, 0o711); // whatever the umask
    step('intent-before');
    if (!await createDurable(join(directory, INTENT), toText(intent)) && !isDeepStrictEqual(await this.intent(intent.set), intent)) {
      throw new DrError('exists', `the set ${intent.set} is recorded already, as another capture. Nothing was touched.`, 'Run the job again.');
    }
    step('intent-after');
  }

  async intent(set: SetId): Promise<SetIntent | undefined> {
    const path = join(this.directory(set), INTENT);
    const value = await readJson(path);
    return value === undefined ? undefined : this.insistOn(set, parseIntent(value, path), path);
  }

  async manifest(set: SetId): Promise<Manifest | undefined> {
    const path = join(this.directory(set), MANIFEST);
    const value = await readJson(path);
    return value === undefined ? undefined : this.insistOn(set, parseManifest(value, path), path);
  }

  async complete(manifest: Manifest): Promise<void> {
    step('manifest-before');
    if (!await createDurable(join(this.directory(manifest.set), MANIFEST), toText(manifest)) && !isDeepStrictEqual(await this.manifest(manifest.set), manifest)) {
      throw new DrError('exists', `the set ${manifest.set} has a manifest already. It was not touched.`, 'Run dr images to see what it is.');
    }
    step('manifest-after');
  }

  async amend(manifest: Manifest): Promise<void> {
    if (await this.manifest(manifest.set) === undefined) {
      throw new DrError('state-changed', `the set ${manifest.set} has no manifest that could be amended`, 'Run dr verify again.');
    }
    await writeDurable(join(this.directory(manifest.set), MANIFEST), toText(manifest));
  }

  async retract(set: SetId, why: string): Promise<void> {
    const path = join(this.directory(set), MANIFEST);
    const proof = await readJson(path).catch(() => 'was damaged'); // it is set aside for people, not for us
    if (proof === undefined) return;
    await writeDurable(join(this.directory(set), RETRACTED), toText({ why, at: new Date().toISOString(), manifest: proof }));
    await removeDurable(path);
  }

  async retracted(set: SetId): Promise<string | undefined> {
    const value = await readJson(join(this.directory(set), RETRACTED)).catch(() => undefined); // only a remark
    return typeof value === 'object' && value !== null && 'why' in value && typeof value.why === 'string' ? value.why : undefined;
  }

  async sets(server?: string): Promise<SetId[]> {
    const names = await readdir(join(this.root, 'sets')).catch((error: unknown) => { if (hasCode(error, 'ENOENT')) return []; throw error; });
    const sets = names.filter((name) => SET_ID.test(name)).sort();
    if (server === undefined) return sets;
    const intents = await Promise.all(sets.map((set) => this.intent(set).catch(() => undefined))); // a damaged record is nobody's
    return sets.filter((_, index) => intents[index]?.server === server);
  }

  directory(set: SetId): string {
    if (!SET_ID.test(set)) throw new DrError('internal', `${JSON.stringify(set)} is not a set's identity`);
    return join(this.root, 'sets', set);
  }

  digestsPath(set: SetId, disk: string): string {
    if (disk.includes('/')) throw new DrError('internal', `${JSON.stringify(disk)} is not a disk's name`);
    return join(this.directory(set), `${disk}.digests`);
  }

  /** The proof goes first and the intent last, so that a death in between leaves a set that is known and counts for nothing. */
  async forget(set: SetId): Promise<void> {
    const directory = this.directory(set);
    const entries = await readdir(directory).catch((error: unknown) => { if (hasCode(error, 'ENOENT')) return undefined; throw error; });
    if (entries === undefined) return;
    const rank = (name: string): number => name === MANIFEST ? 0 : name === INTENT ? 2 : 1;
    for (const name of entries.sort((a, b) => rank(a) - rank(b))) await removeDurable(join(directory, name));
    await rmdir(directory);
  }

  /** A record that was copied from another set's directory is not that set's. */
  private insistOn<T extends { readonly set: SetId }>(set: SetId, record: T, path: string): T {
    if (record.set === set) return record;
    throw new DrError('manifest-damaged', `${path} is the record of another set, ${record.set}`, 'Move it away and run dr verify.');
  }
}

function toText(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}
