import type { TextEdits } from './edit.js';
import type { Recorder } from './rewrite-disk.js';
import { all, attributeOf, first, type XmlElement } from './xml.js';

/**
 * The definition of a transient server is only to be had as that of the running domain, which says more than a definition should. libvirt
 * passes over most of it (`id`, aliases, `/dev/pts` paths, `vnet` names). What would stop the server from starting on another host is taken out.
 */
export function clearLiveState(root: XmlElement, edits: TextEdits, record: Recorder): void {
  if (attributeOf(root, 'id') === undefined) return;

  // labels that this host's security driver made for this one process; the other host may have another driver, or none
  for (const label of all(root, 'seclabel')) {
    if (attributeOf(label, 'type') !== 'dynamic') continue;
    const made = label.children.filter(({ name }) => name === 'label' || name === 'imagelabel');
    if (made.length === 0) continue;
    if (first(label, 'baselabel') === undefined) {
      record('seclabel', attributeOf(label, 'model'), undefined);
      edits.removeElement(label);
    } else {
      for (const child of made) {
        record(`seclabel/${child.name}`, child.text.trim(), undefined);
        edits.removeElement(child);
      }
    }
  }

  // `full` demands every feature bit that QEMU gave on the old host, as for a migration
  const check = first(root, 'cpu')?.attributes.find(({ name }) => name === 'check');
  if (check?.value === 'full') {
    record('cpu/@check', 'full', 'partial');
    edits.replaceAttribute(check, 'check', 'partial');
  }

  // a port of the old host's virtual network
  for (const interface_ of all(root, 'devices', 'interface')) {
    const port = first(interface_, 'source')?.attributes.find(({ name }) => name === 'portid');
    if (port === undefined) continue;
    record('devices/interface/source/@portid', port.value, undefined);
    edits.removeAttribute(port);
  }
}
