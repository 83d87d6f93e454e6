import { findCacheDrives } from '../cache/drives.js';
import { OpenDrives } from '../cache/open-drives.js';
import type { Handlers } from './protocol.js';
import type { Session } from './session.js';

/** What a host does with its cache drives, and what it owes. */
export function cacheHands(session: Session): Pick<Handlers, 'node.cacheDrives' | 'cache.open' | 'cache.close' | 'cache.allocate' | 'cache.without' | 'cache.remove' | 'owed'> {
  let opened: OpenDrives | undefined;
  const drives = (): OpenDrives => {
    if (opened === undefined) {
      const made = new OpenDrives(session.ledger);
      opened = made;
      session.atEnd('cache drives', () => made.closeAll());
    }
    return opened;
  };
  return {
    'node.cacheDrives': async ({ signature, uri }) => ({ drives: await findCacheDrives(signature, uri === undefined ? {} : { uri }) }),
    'cache.open': ({ device, signature, uri }) => drives().open(device, signature, uri),
    'cache.close': async ({ device }) => {
      await drives().close(device);
      return {};
    },
    'cache.allocate': async ({ device, run, name, ...size }) => ({ path: await drives().allocate(device, run, name, size) }),
    'cache.without': async ({ path, digests }) => ({ without: await drives().addWithout(path, Buffer.from(digests, 'base64')) }),
    'cache.remove': async ({ path }) => {
      await drives().remove(path);
      return {};
    },
    'owed': async () => ({ obligations: await session.ledger.listAll() }),
  };
}
