import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectory } from '../system/durable.js';
import { bootId } from '../system/processes.js';
import { FUSE_SOURCE, prepareStorageDaemon, type BlockSource, type StorageDaemon } from '../system/qemu.js';
import { stateDirectory } from '../system/state.js';
import { step } from '../system/steps.js';
import type { Holdings } from './holdings.js';

/** Block sources shown as plain files, each by a storage daemon of its own. */
export interface Exports {
  /** By disk target. This process must never open, or ask the status of, any of them: a stopped daemon would hang it. */
  readonly paths: ReadonlyMap<string, string>;
  /** Why an export can't be read any more; undefined while all can. */
  broken(): string | undefined;
}

/** A directory that only we can enter, owed before it is made. */
export async function privateDirectory(holdings: Holdings, capture: string): Promise<string> {
  const directory = stateDirectory('captures', capture);
  await holdings.hold({ kind: 'remove', path: directory });
  await makeDirectory(directory);
  return directory;
}

/** Starts the daemons and waits until every file can be read. What it made is in `holdings`, also when it throws. */
export async function openExports(holdings: Holdings, directory: string, sources: ReadonlyMap<string, BlockSource>, cancelled: () => void): Promise<Exports> {
  const paths = new Map<string, string>();
  const daemons: (readonly [string, StorageDaemon])[] = [];
  for (const [target, source] of sources) {
    cancelled();
    const mountPoint = join(directory, `disk${String(paths.size)}`);
    await writeFile(mountPoint, '', { mode: 0o600, flag: 'wx' });
    await holdings.hold({ kind: 'unmount', mountPoint, source: FUSE_SOURCE });
    const daemon = await prepareStorageDaemon(source, mountPoint, `${mountPoint}.log`);
    await holdings.hold({ kind: 'kill', pid: daemon.pid, startTime: daemon.startTime, bootId: await bootId(), what: `storage daemon for ${mountPoint}` });
    daemons.push([target, daemon]);
    step('export-before');
    await daemon.go();
    step('export-after');
    paths.set(target, mountPoint);
  }
  return {
    paths,
    broken: () => {
      const dead = daemons.find(([, daemon]) => !daemon.alive());
      return dead === undefined ? undefined : `the storage daemon that showed disk ${dead[0]} has died`;
    },
  };
}
