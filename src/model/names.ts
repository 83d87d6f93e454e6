import { DrError } from './errors.js';

/**
 * Image names, in one place: `<server>_<disk>_<sequence>`, with the suffix `.raw` in a file-system store.
 * While an image is written its sequence is the word `incomplete`.
 */

/** Position of an image among its server's copies: 1 is the newest complete set. */
export type Slot = number | 'incomplete';

/** Longest name part accepted. LVM allows 127 characters for `<server>_<disk>_incomplete` and its own suffixes. */
const MAX_PART = 100;

/** Throws `name-invalid` unless `name` can be a server's or a disk's name in every kind of store. */
export function checkNamePart(kind: 'server' | 'disk', name: string): void {
  const why = name === '' ? 'it is empty'
    : name.length > MAX_PART ? `it is longer than ${String(MAX_PART)} characters`
    : name === '.' || name === '..' || name.includes('/') ? 'it is a path'
    : /^[-.]/.test(name) ? `it begins with "${name.charAt(0)}"`
    : !/^[A-Za-z0-9_.+-]+$/.test(name) ? 'only letters, digits and the characters _ . + - can be used in image names'
    : undefined;
  if (why !== undefined) {
    throw new DrError('name-invalid', `the ${kind} name ${JSON.stringify(name)} can't be used in an image name: ${why}. Nothing was touched.`,
      kind === 'disk' ? 'Give the disk another name with disk_names in the job.' : 'Rename the server in libvirt (virsh domrename).');
  }
}

/** What all copies of one disk share: `<server>_<disk>`. */
export function imageBase(server: string, disk: string): string {
  return `${server}_${disk}`;
}

/** The image's name without a store's suffix. */
export function imageName(server: string, disk: string, slot: Slot): string {
  return `${imageBase(server, disk)}_${String(slot)}`;
}

/** Splits a listed name into base and slot; undefined when it does not end like an image's name. */
export function parseImageName(name: string): { readonly base: string; readonly slot: Slot } | undefined {
  const match = /^(.+)_(incomplete|[1-9][0-9]{0,4})$/.exec(name);
  if (match?.[1] === undefined || match[2] === undefined) return undefined;
  return { base: match[1], slot: match[2] === 'incomplete' ? 'incomplete' : Number(match[2]) };
}
