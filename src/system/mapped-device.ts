import { readFile } from 'node:fs/promises';
import { deviceNumber } from './mounts.js';

/** The device-mapper's names for block devices. */

/** The volume group and name of a logical volume by its name in the device-mapper, which doubles the hyphens of both and joins them with a single one. */
export function volumeOf(mapped: string): { readonly vg: string; readonly name: string } | undefined {
  const split = /^((?:[^-]|--)+)-((?:[^-]|--)+)$/.exec(mapped);
  const [, vg, name] = split ?? [];
  return vg === undefined || name === undefined ? undefined : { vg: vg.replace(/--/g, '-'), name: name.replace(/--/g, '-') };
}

/** The name of the logical volume that a path leads to, whatever the path is; undefined if it leads to something else or nowhere. */
export async function volumeName(path: string): Promise<string | undefined> {
  const number = await deviceNumber(path);
  if (number === undefined) return undefined;
  const about = (what: string): Promise<string> => readFile(`/sys/dev/block/${number}/dm/${what}`, 'utf8').catch(() => ''); // no mapped device
  if (!(await about('uuid')).startsWith('LVM-')) return undefined;
  return volumeOf((await about('name')).trim())?.name;
}
