import type { TextEdits } from './edit.js';
import type { Recorder } from './rewrite-disk.js';
import { all, attributeOf, first, type XmlElement } from './xml.js';

/**
 * The definition of a transient server is only to be had as that of the running domain, which says more than a definition should. libvirt
 * passes over most of it (`id`, aliases, port IDs, `/dev/pts` paths, `vnet` names), so it stays. What would stop the server from starting on another
 * host is taken out.
 */
export function clearLiveState(root: XmlElement, edits: TextEdits, record: Recorder): void {
  if (!isOfRunningDomain(root)) return;

  // a label that this host's AppArmor or SELinux made for one process: libvirt refuses to start it where that driver is missing
  for (const label of all(root, 'seclabel')) {
    if (attributeOf(label, 'type') !== 'dynamic' || attributeOf(label, 'model') === 'dac') continue;
    const made = label.children.some(({ name }) => name === 'label' || name === 'imagelabel');
    if (!made || first(label, 'baselabel') !== undefined) continue; // an admin asked for this driver
    record('seclabel', attributeOf(label, 'model'), undefined);
    edits.removeElement(label);
  }

  // `full` demands every feature bit that QEMU gave on the old host, as for a migration
  const check = first(root, 'cpu')?.attributes.find(({ name }) => name === 'check');
  if (check?.value === 'full') {
    record('cpu/@check', 'full', 'partial');
    edits.replaceAttribute(check, 'check', 'partial');
  }
}

/** `virsh dumpxml` of a running domain has an ID; with `--inactive`, of a transient one, only the aliases that libvirt gave give it away. */
function isOfRunningDomain(root: XmlElement): boolean {
  return attributeOf(root, 'id') !== undefined
    || first(root, 'devices')?.children.some((device) => all(device, 'alias').some((alias) => attributeOf(alias, 'name')?.startsWith('ua-') === false)) === true;
}
