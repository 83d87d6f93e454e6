/** Names that LVM takes (lvm(8), "VALID NAMES"), known before anything is touched. Pure. */

/** What LVM keeps for parts of volumes, anywhere in a name. */
const RESERVED = [
  '_cdata', '_cmeta', '_corig', '_cpool', '_cvol', '_imeta', '_iorig', '_mimage', '_mlog', '_pmspare', '_rimage', '_rmeta', '_tdata', '_tmeta',
  '_vdata', '_vorigin', '_wcorig',
];
const RESERVED_BEGINNINGS = ['snapshot', 'pvmove'];
const CHARACTERS = /^[A-Za-z0-9_.+][A-Za-z0-9_.+-]*$/;

/** What LVM 2.03 takes: the two names together, and the device's name, `<group>-<volume>` with every hyphen in them doubled. */
const LENGTH_TOGETHER = 124;
const DEVICE_NAME_LENGTH = 127;

/** Why LVM takes no volume group or pool of that name; undefined if it does. */
export function volumeGroupProblem(name: string): string | undefined {
  if (name === '.' || name === '..') return 'it is a path';
  if (!CHARACTERS.test(name)) return 'names in LVM have letters, digits and the characters _ . + -, and do not begin with -';
  return name.length > 100 ? 'it is longer than 100 characters' : undefined;
}

/** Why LVM takes no volume of that name in the group; undefined if it does. */
export function volumeProblem(group: string, name: string): string | undefined {
  const basic = volumeGroupProblem(name.slice(0, 100));
  if (basic !== undefined) return basic;
  const beginning = RESERVED_BEGINNINGS.find((word) => name.startsWith(word));
  if (beginning !== undefined) return `LVM keeps names that begin with ${beginning} for itself`;
  const part = RESERVED.find((word) => name.includes(word));
  if (part !== undefined) return `LVM keeps names with ${part} in them for itself`;
  if (group.length + name.length > LENGTH_TOGETHER) {
    return `it has ${String(name.length)} characters, and in the volume group ${group} LVM takes no more than ${String(LENGTH_TOGETHER - group.length)}`;
  }
  const length = mappedLength(group) + 1 + mappedLength(name);
  return length > DEVICE_NAME_LENGTH
    ? `with the volume group ${group} it has ${String(length)} characters in device-mapper, where each hyphen counts twice and ${String(DEVICE_NAME_LENGTH)} are the limit` : undefined;
}

/** Hyphens are doubled in device-mapper's names. */
function mappedLength(name: string): number {
  return name.length + (name.match(/-/g)?.length ?? 0);
}
