import { DrError } from '../model/errors.js';
import { log } from './log.js';
import { attribute, child, children, dumpXml, listDomains, parseXml } from './virsh.js';

/**
 * The block devices that belong to a domain, running or not, as its definition names them. If libvirt is not there or does not answer
 * nothing is known of servers that are off; those that run have their disks open, which is looked at elsewhere.
 */
export async function guestDevices(uri: string): Promise<string[]> {
  const found = new Set<string>();
  try {
    for (const { uuid } of await listDomains(uri)) {
      for (const inactive of [true, false]) {
        const xml = await dumpXml(uri, uuid, { inactive }).catch((error: unknown) => {
          if (error instanceof DrError && error.code === 'server-unknown') return undefined; // it was undefined meanwhile
          throw error;
        });
        if (xml === undefined) continue;
        for (const disk of children(child(await parseXml(xml), 'devices'), 'disk')) {
          const source = child(disk, 'source');
          for (const path of [attribute(source, 'dev'), attribute(source, 'file')]) {
            if (path?.startsWith('/dev/') === true) found.add(path);
          }
        }
      }
    }
  } catch (error) {
    if (!(error instanceof DrError) || (error.code !== 'program-missing' && error.code !== 'unreachable')) throw error;
    log.info('libvirt could not be asked which devices are disks of servers', { why: error.message });
  }
  return [...found];
}
