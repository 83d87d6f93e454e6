import { SET_ID } from '../model/image-set.js';
import type { Identity } from './store.js';

/** The text that an image carries for its identity, in whatever way its store keeps it there: `<set>/<disk>`. Undefined if it is none. */
export function parseIdentity(text: string | undefined): Identity | undefined {
  const [set, disk, ...rest] = text?.split('/') ?? [];
  if (set === undefined || disk === undefined || rest.length > 0 || !SET_ID.test(set) || disk === '') return undefined;
  return { set, disk };
}
