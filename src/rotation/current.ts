import { randomBytes } from 'node:crypto';
import { chmod, lstat, mkdir, readdir, readlink, rename, rmdir, symlink, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { DrError } from '../model/errors.js';
import type { SetId } from '../model/image-set.js';
import { checkNamePart, type Slot } from '../model/names.js';
import { hasCode, makeDirectory, syncDirectory } from '../system/durable.js';
import { step } from '../system/steps.js';
import type { CurrentLinks } from '../stores/store.js';

/**
 * The links that definitions point at:
 *
 *     current/Web01 -> ../sets/Web01-<set>-<slot>
 *     sets/Web01-<set>-<slot>/root -> /srv/dr/Web01_root_1.raw
 *
 * A directory of links is made whole before `current/Web01` is switched to it in one rename, so at every instant all disks belong to
 * one set. Only links and directories that are recognizably ours are replaced or removed.
 */
export class FileCurrentLinks implements CurrentLinks {
  private readonly sets: string;

  /**
   * `directory` is where definitions look, e.g. `/shared/dr/current`. `extras` names further files of a set that get a link (`nvram`); they must
   * not change from one call to the next.
   */
  constructor(private readonly directory: string, private readonly extras: (set: SetId) => Promise<Readonly<Record<string, string>>>) {
    this.sets = join(dirname(directory), 'sets');
  }

  async read(server: string): Promise<{ readonly set: SetId; readonly slot: Slot } | undefined> {
    const seen = await this.target(server);
    return seen === undefined ? undefined : { set: seen.set, slot: seen.slot };
  }

  async point(server: string, to: { readonly set: SetId; readonly slot: Slot; readonly paths: Readonly<Record<string, string>> } | null): Promise<void> {
    checkNamePart('server', server);
    const before = await this.target(server);
    if (to === null) {
      if (before !== undefined) await this.change(() => unlink(this.link(server)));
    } else {
      const links = new Map(Object.entries({ ...await this.extras(to.set), ...to.paths }));
      for (const [name, path] of links) await insistThere(server, name, path);
      if (before === undefined || before.set !== to.set || before.slot !== to.slot || !await holdsExactly(join(this.sets, before.directory), links)) {
        const made = await this.build(server, to, links, before?.directory);
        await this.change(() => this.switch(server, made, before !== undefined));
      } else {
        await syncDirectory(this.directory); // switched before; perhaps not durably
      }
    }
    await this.sweep(server, (await this.target(server))?.directory);
  }

  private link(server: string): string {
    return join(this.directory, server);
  }

  private async target(server: string): Promise<{ readonly directory: string; readonly set: SetId; readonly slot: Slot } | undefined> {
    checkNamePart('server', server);
    const path = this.link(server);
    const status = await lstat(path).catch((error: unknown) => { if (hasCode(error, 'ENOENT')) return undefined; throw error; });
    if (status === undefined) return undefined;
    const to = status.isSymbolicLink() ? await readlink(path) : '';
    const parsed = dirname(to) === `../${basename(this.sets)}` ? parseDirectory(basename(to)) : undefined;
    if (parsed?.server !== server) {
      throw new DrError('not-ours', `${path} was not made by dr-engine. It was not touched.`, 'Move it away: dr-engine keeps its link to the newest copy there.');
    }
    return { directory: basename(to), set: parsed.set, slot: parsed.slot };
  }

  /** Makes a whole directory of links under a name that is not in use; its name says whose it is. */
  private async build(server: string, to: { readonly set: SetId; readonly slot: Slot }, links: ReadonlyMap<string, string>, inUse: string | undefined): Promise<string> {
    await openDirectory(this.sets);
    await openDirectory(this.directory);
    const plain = `${server}-${to.set}-${String(to.slot)}`;
    for (let attempt = 0; ; attempt++) {
      const name = attempt === 0 ? plain : `${plain}~${String(attempt)}`;
      const path = join(this.sets, name);
      if (name === inUse) continue;
      await removeLinks(path); // what a death has left
      try {
        await mkdir(path, 0o755);
      } catch (error) {
        if (hasCode(error, 'EEXIST')) continue; // somebody put something of his own there
        throw error;
      }
      await chmod(path, 0o755); // whatever the umask: QEMU passes through
      for (const [link, target] of links) await symlink(target, join(path, link));
      await syncDirectory(path);
      await syncDirectory(this.sets);
      return name;
    }
  }

  /** The instant at which definitions begin to mean something else. */
  private async change(act: () => Promise<void>): Promise<void> {
    step('current-before-switch');
    await act();
    await syncDirectory(this.directory);
    step('current-after-switch');
  }

  private async switch(server: string, directory: string, replace: boolean): Promise<void> {
    const target = `../${basename(this.sets)}/${directory}`;
    if (replace) {
      const temporary = join(this.directory, `.${server}.${randomBytes(6).toString('hex')}.tmp`);
      await symlink(target, temporary);
      await rename(temporary, this.link(server));
    } else {
      await symlink(target, this.link(server)); // fails if somebody has put something there meanwhile
    }
  }

  /** Removes this server's other link directories, and half-made links. */
  private async sweep(server: string, keep: string | undefined): Promise<void> {
    for (const name of await entriesOf(this.sets)) {
      if (name !== keep && parseDirectory(name)?.server === server) await removeLinks(join(this.sets, name));
    }
    const half = new RegExp(`^\\.${server.replace(/[.+]/g, '\\$&')}\\.[0-9a-f]{12}\\.tmp$`);
    for (const name of await entriesOf(this.directory)) {
      if (half.test(name) && (await lstat(join(this.directory, name))).isSymbolicLink()) await unlink(join(this.directory, name));
    }
  }
}

/** `<server>-<set>-<slot>`, perhaps with `~<number>` when that name was taken. */
function parseDirectory(name: string): { readonly server: string; readonly set: SetId; readonly slot: Slot } | undefined {
  const [, server, set, slot] = /^(.+)-(\d{8}T\d{6}Z-[0-9a-f]{16})-(incomplete|[1-9]\d{0,4})(?:~\d+)?$/.exec(name) ?? [];
  if (server === undefined || set === undefined || slot === undefined) return undefined;
  return { server, set, slot: slot === 'incomplete' ? slot : Number(slot) };
}

async function insistThere(server: string, name: string, path: string): Promise<void> {
  await lstat(path).catch((error: unknown) => {
    throw new DrError('state-changed', `${name} of ${server} should be linked to ${path}, which is not there. The links were left as they are.`, 'Run the job again; it will look anew.', { cause: error });
  });
}

async function holdsExactly(directory: string, links: ReadonlyMap<string, string>): Promise<boolean> {
  const names = await entriesOf(directory);
  if (names.length !== links.size) return false;
  for (const name of names) {
    const to = await readlink(join(directory, name)).catch(() => undefined); // not a link: not what we made
    if (to === undefined || to !== links.get(name)) return false;
  }
  return true;
}

/** Removes a directory of links; one that holds anything else is left alone. */
async function removeLinks(directory: string): Promise<void> {
  const names = await entriesOf(directory);
  const kinds = await Promise.all(names.map(async (name) => (await lstat(join(directory, name))).isSymbolicLink()));
  if (kinds.includes(false)) return;
  for (const name of names) await unlink(join(directory, name));
  await rmdir(directory).catch((error: unknown) => { if (!hasCode(error, 'ENOENT', 'ENOTEMPTY', 'ENOTDIR')) throw error; });
}

async function entriesOf(directory: string): Promise<string[]> {
  return await readdir(directory).catch((error: unknown) => { if (hasCode(error, 'ENOENT', 'ENOTDIR')) return []; throw error; });
}

/** Makes a directory that QEMU's user can pass through, unless it is there. */
async function openDirectory(path: string): Promise<void> {
  const made: string[] = [];
  for (let at = path; ; at = dirname(at)) {
    if (await lstat(at).then(() => true, () => false)) break; // another error shows when it is made
    made.push(at);
  }
  if (made.length === 0) return;
  await makeDirectory(path, 0o755);
  for (const directory of made) await chmod(directory, 0o755);
}
