import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open, stat, statfs, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import { alignedBuffer } from '../system/aligned.js';
import { hasCode } from '../system/durable.js';
import { residentBytes } from '../system/page-cache.js';
import { bootId, startTime } from '../system/processes.js';
import { readAttributes, setAttribute } from '../system/xattr.js';

/** Whether a directory can be a store, found out with one small file. */

/** `f_type` of file systems that live in memory (statfs(2)). */
export const IN_MEMORY: ReadonlyMap<number, string> = new Map([[0x01021994, 'tmpfs'], [0x858458f6, 'ramfs']]);
const PROBE_BYTES = 1024 * 1024;

/**
 * Throws `store-unusable` unless images can be kept under `directory`: a directory on a lasting file system with user
 * extended attributes and hard links, where O_DIRECT works and leaves nothing in the page cache (otherwise reading back would
 * prove what is in memory, not what is on the device). `workshop` is a directory of ours in it.
 */
export async function probe(directory: string, workshop: string): Promise<void> {
  const refuse = (why: string, hint: string): DrError => new DrError('store-unusable', `the store fs:${directory} can't be used: ${why}. Nothing was touched.`, hint);
  if (!(await stat(directory)).isDirectory()) throw refuse('it is not a directory', 'Configure a directory.');
  const memory = IN_MEMORY.get((await statfs(directory)).type);
  if (memory !== undefined) throw refuse(`it is a ${memory}: its content is gone after a power cut`, 'Keep the store on ext4, xfs or btrfs on a disk.');
  if ((await stat(directory)).dev !== (await stat(workshop)).dev) {
    throw refuse(`${workshop} is on another file system`, 'Unmount what is mounted below the store.');
  }
  // Named like an unfinished allocation, so that a store's tidying removes it should we die here.
  const name = `${(await bootId()).slice(0, 8)}-${String(process.pid)}-${await startTime(process.pid) ?? '0'}-${randomBytes(6).toString('hex')}`;
  const path = join(workshop, name);
  const buffer = alignedBuffer(PROBE_BYTES).fill(0x5a);
  try {
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_DIRECT, 0o600).catch((error: unknown) => {
      if (hasCode(error, 'EINVAL', 'EOPNOTSUPP')) throw refuse('its file system refuses O_DIRECT', 'Keep the store on ext4, xfs or btrfs on a disk.');
      throw error;
    });
    try {
      await handle.write(buffer, 0, PROBE_BYTES, 0);
      await handle.sync();
      buffer.fill(0);
      await handle.read(buffer, 0, PROBE_BYTES, 0);
    } finally {
      await handle.close();
    }
    if (buffer.some((byte) => byte !== 0x5a)) throw refuse('what was written is not what was read back', 'Check the disk and its file system.');
    if (await residentBytes(path) > 0) {
      throw refuse('O_DIRECT reads go through the page cache there, so reading back would prove nothing',
        'On ext4 mount without data=journal; on btrfs turn compression off for the directory.');
    }
    await setAttribute(path, 'user.dr.probe', 'yes');
    if ((await readAttributes(workshop, [name], 'user.dr.')).get(name)?.get('user.dr.probe') !== 'yes') throw refuse('user extended attributes are lost there', 'Keep the store on ext4, xfs or btrfs.');
  } catch (error) {
    if (hasCode(error, 'ENOSPC', 'EDQUOT')) throw refuse('it is full', 'Free space on the store.');
    if (hasCode(error, 'EROFS', 'EACCES', 'EPERM')) throw refuse('it can\'t be written', 'Mount it with write access.');
    throw error;
  } finally {
    await unlink(path).catch((error: unknown) => { if (!hasCode(error, 'ENOENT', 'EROFS')) throw error; }); // it was never made
  }
}
