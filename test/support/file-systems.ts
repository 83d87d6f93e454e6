import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../src/system/run.js';

/** Real file systems for tests: loop-mounted images, or a directory of this machine. */
export interface TestPlace {
  readonly path: string;
  remove(): Promise<void>;
}

export const isRoot = process.getuid?.() === 0;

export async function temporaryDirectory(what: string): Promise<TestPlace> {
  const path = await mkdtemp(join(tmpdir(), `dr-test-${what}-`));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** Makes a sparse image with the file system and mounts it. Needs root. */
export async function mountedFileSystem(type: 'ext4' | 'xfs', mebibytes: number, mkfs: readonly string[] = [], options: readonly string[] = []): Promise<TestPlace> {
  const base = await temporaryDirectory(type);
  const image = join(base.path, 'image');
  const path = join(base.path, 'mounted');
  await writeFile(image, '');
  await truncate(image, mebibytes * 1024 * 1024);
  try {
    await run(`mkfs.${type}`, [type === 'ext4' ? '-Fq' : '-qf', ...mkfs, image]);
    await run('mkdir', [path]);
    await run('mount', ['-o', ['loop', ...options].join(','), image, path]);
  } catch (error) {
    await base.remove();
    throw error;
  }
  return {
    path,
    remove: async () => {
      await run('umount', [path]);
      await base.remove();
    },
  };
}
