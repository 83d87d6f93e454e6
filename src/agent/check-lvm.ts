import { access, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DrError } from '../model/errors.js';
import { nestedGroups, type NestedGroup } from '../system/nested-groups.js';

/** What `dr check` says of LVM on a host, whatever it keeps on it. */

interface Report {
  pass(what: string): void;
  warn(what: string, remedy: string): void;
  fail(what: string, remedy: string): void;
}

const WRAPPERS = fileURLToPath(new URL('../../../lvm', import.meta.url));

/** Looks for volume groups of guests that this host has got hold of. A host without LVM has nothing to say. */
export async function checkLvm(report: Report): Promise<void> {
  if (!await Promise.any(['/usr/sbin/lvm', '/sbin/lvm'].map((path) => access(path))).then(() => true, () => false)) return;
  const nested = await nestedGroups().catch((error: unknown) => DrError.from(error));
  if (nested instanceof DrError) {
    report.warn(`whether LVM here looks into guests' disks is not known: ${nested.message}`, nested.hint);
    return;
  }
  for (const group of nested) tell(group, report);
  if (nested.length === 0) report.pass('LVM here does not look into guests\' disks');
}

function tell({ vg, inside, how }: NestedGroup, report: Report): void {
  const group = vg === '' ? 'a physical volume of no group' : `the volume group ${vg}`;
  if ('device' in inside) {
    report.warn(`LVM sees ${group} on ${inside.device}: if that is a guest's disk, this host must not look into it`,
      `If it is a guest's: in /etc/lvm/lvm.conf, devices { global_filter = [ "r|^${inside.device}$|" ] }`);
    return;
  }
  const [host = ''] = inside.volume.split('/');
  const filter = `in /etc/lvm/lvm.conf, devices { global_filter = [ "r|^/dev/${host}/|", "r|^/dev/mapper/${host.replaceAll('-', '--')}-|" ] }, or scan_lvs = 0`;
  if (how === 'seen') report.fail(`LVM looks into guests' disks: it sees ${group} inside ${inside.volume}`, `${filter}; with a devices file: lvmdevices --deldev /dev/${inside.volume}`);
  else report.fail(`${group} inside ${inside.volume} is active on this host: with its guest running, both may write to it`, `vgchange --activate n ${vg}, once nothing here uses it; so that it stays so: ${filter}`);
}

/** The wrappers run as root: whoever can change them is root. Matters where an agent reaches them with sudo. */
export async function checkWrappers(report: Report): Promise<void> {
  for (let path = WRAPPERS; path !== '/'; path = dirname(path)) {
    const { uid, mode } = await stat(path);
    if (uid === 0 && (mode & 0o022) === 0) continue;
    report.fail(`${path} does not belong to root, or others can write to it: whoever changes the wrappers in ${WRAPPERS} is root`, `chown root: ${path}; chmod go-w ${path}`);
    return;
  }
  report.pass('the wrappers of LVM can be changed by root only');
}
