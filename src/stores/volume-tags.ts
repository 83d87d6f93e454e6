import type { StoredImage } from '../model/image-set.js';
import { parseIdentity } from './identity.js';
import type { Identity } from './store.js';

/**
 * What a volume of ours carries as LVM tags, so that it follows every rename. `hooks/libvirt-qemu` knows some by the same names. Pure.
 *
 *     dr.set=<set>/<disk>        the capture it is bound to
 *     dr.was=fresh|stale|<set>/<disk>   what it held when it was bound
 *     dr.bytes=<size>            the image's; the volume is rounded up to extents
 *     dr.modified=<base64url>    booted or changed by hand: when, and how that is known
 */

/** The wrappers give it to what they make, and change nothing without it. */
export const OURS = 'dr-engine';

/** A tag has up to 1024 characters, of which base64 makes four out of three bytes. */
const MODIFIED_BYTES = 700;

export interface Labels {
  readonly identity?: Identity;
  readonly origin?: NonNullable<StoredImage['origin']>;
  readonly bytes?: number;
  readonly modified?: string;
}

/** What the tags say. Without `dr-engine`, or with two identities, a volume is bound to nothing. */
export function readLabels(tags: readonly string[]): Labels {
  if (!tags.includes(OURS)) return {};
  const sets = valuesOf(tags, 'dr.set');
  const identity = sets.length === 1 ? parseIdentity(sets[0]) : undefined;
  const [was] = valuesOf(tags, 'dr.was');
  const origin = was === 'fresh' || was === 'stale' ? was : parseIdentity(was);
  const [bytes] = valuesOf(tags, 'dr.bytes');
  const [modified] = valuesOf(tags, 'dr.modified');
  return {
    ...(identity === undefined ? {} : { identity }),
    ...(origin === undefined ? {} : { origin }),
    ...(bytes !== undefined && /^\d{1,15}$/.test(bytes) ? { bytes: Number(bytes) } : {}),
    ...(modified === undefined ? {} : { modified: Buffer.from(modified, 'base64url').toString('utf8') }),
  };
}

/** The tags of a new image. */
export function labelsOf({ identity, origin, bytes }: Required<Pick<Labels, 'identity' | 'origin' | 'bytes'>>): string[] {
  return [`dr.set=${spell(identity)}`, `dr.was=${typeof origin === 'string' ? origin : spell(origin)}`, `dr.bytes=${String(bytes)}`];
}

/** What is to be said from now on; null: nothing more. Labels that are not named stay. */
export interface Relabeling {
  readonly identity?: Identity;
  readonly origin?: NonNullable<StoredImage['origin']> | null;
  readonly bytes?: number;
  readonly modified?: string | null;
}

/** The tags to add and to remove, for one change that makes it so; both are empty if it is so already. */
export function relabel(tags: readonly string[], to: Relabeling): { readonly add: readonly string[]; readonly remove: readonly string[] } {
  const wanted: Readonly<Record<string, string | null | undefined>> = {
    'dr.set': to.identity === undefined ? undefined : spell(to.identity),
    'dr.was': to.origin === undefined || to.origin === null || typeof to.origin === 'string' ? to.origin : spell(to.origin),
    'dr.bytes': to.bytes === undefined ? undefined : String(to.bytes),
    'dr.modified': to.modified === undefined || to.modified === null ? to.modified : encode(to.modified),
  };
  const changed = Object.entries(wanted).flatMap(([key, value]) => value === undefined ? [] : [{ key, tag: value === null ? undefined : `${key}=${value}` }]);
  return {
    add: changed.flatMap(({ tag }) => tag === undefined || tags.includes(tag) ? [] : [tag]),
    remove: changed.flatMap(({ key, tag }) => tags.filter((one) => one.startsWith(`${key}=`) && one !== tag)),
  };
}

function valuesOf(tags: readonly string[], key: string): string[] {
  return tags.flatMap((tag) => tag.startsWith(`${key}=`) ? [tag.slice(key.length + 1)] : []);
}

function spell({ set, disk }: Identity): string {
  return `${set}/${disk}`;
}

function encode(text: string): string {
  const bytes = Buffer.from(text, 'utf8');
  let end = Math.min(bytes.length, MODIFIED_BYTES);
  while (end < bytes.length && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1; // not within a character
  return bytes.subarray(0, end).toString('base64url');
}
