import { truncate } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import { run } from './run.js';

/** Reserves all blocks of a file through fallocate(1): they read as zeros. Throws `no-space`. */
export async function reserve(path: string, bytes: number): Promise<void> {
  if (bytes === 0) return;
  const { exitCode, stderr } = await run('fallocate', ['--length', String(bytes), path], { okExit: [0, 1], timeoutMs: 600_000 });
  if (exitCode === 0) return;
  if (/No space left|Disk quota exceeded|File too large/.test(stderr)) {
    throw new DrError('no-space', `${String(bytes)} bytes could not be reserved for ${path}: ${stderr.trim()}`, 'Free space on the store or enlarge it.');
  }
  throw new DrError('io', `${String(bytes)} bytes could not be reserved for ${path}: ${stderr.trim()}`, 'Set allocation: sparse for this target.');
}

/** Has an empty file share all blocks of another one, through cp(1), where the file system can do that (btrfs, xfs); else it is left empty, and false. */
export async function clone(from: string, to: string): Promise<boolean> {
  const { exitCode } = await run('cp', ['--reflink=always', '--no-target-directory', '--', from, to], { okExit: [0, 1], timeoutMs: 600_000 });
  if (exitCode !== 0) await truncate(to, 0);
  return exitCode === 0;
}
