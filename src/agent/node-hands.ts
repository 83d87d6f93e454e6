import { dropBases } from '../capture/bases.js';
import { dropCheckpoints } from '../capture/checkpoints.js';
import { openCold } from '../capture/cold.js';
import { openLive } from '../capture/live.js';
import { openSnapshots } from '../capture/lvm-snapshot.js';
import { OpenCaptures } from '../capture/open-captures.js';
import { seeServers, seeStates } from '../capture/servers.js';
import { seeSnapshots } from '../capture/snapshot-outlook.js';
import { Shutdowns } from '../capture/shutdown.js';
import type { Capture, Handlers } from './protocol.js';
import type { Session } from './session.js';

/** What these hands need of a session. */
export type NodeSession = Pick<Session, 'ledger' | 'atEnd'>;

export type NodeMethod = 'node.servers' | 'node.states' | 'capture.shutDown' | 'capture.bootAgain' | 'capture.openCold' | 'capture.openLive' | 'capture.openSnapshots' | 'capture.close';

/** The file that marks a cache drive, unless the configuration names another. */
const SIGNATURE = '.dr_cache';

/** Looking at a node's servers, shutting them down and capturing them. Open captures are closed at the session's end. */
export function nodeHands(session: NodeSession): Pick<Handlers, NodeMethod> {
  const captures = new OpenCaptures();
  const shutdowns = new Shutdowns(session.ledger);
  session.atEnd('open captures', () => captures.closeAll());

  return {
    'node.servers': async ({ uri, names, definitions, snapshotSize }) => {
      const servers = await seeServers(uri, names, definitions);
      return { servers: snapshotSize === undefined ? servers : await seeSnapshots(servers, snapshotSize) };
    },
    'node.states': async ({ uri, names }) => ({ states: await seeStates(uri, names) }),
    'capture.shutDown': async (params, { signal }) => {
      await dropCheckpoints(params); // only a server that runs can be rid of them
      return { downAt: await shutdowns.shutDown(params, signal) };
    },
    'capture.bootAgain': async ({ uuid }) => ({ upAt: await shutdowns.bootAgain(uuid) }),
    'capture.openCold': async (params, { signal }): Promise<Capture> => {
      await dropBases(params.server);
      const id = captures.newId();
      const { facts, capture } = await openCold(session.ledger, id, params, signal);
      captures.add(id, capture);
      return { id, ...facts, xml: params.xml };
    },
    'capture.openLive': async (params, { signal }): Promise<Capture> => {
      await dropBases(params.server);
      const id = captures.newId();
      const { facts, capture } = await openLive(session.ledger, id, { ...params, signature: params.signature ?? SIGNATURE }, signal);
      captures.add(id, capture);
      return { id, ...facts, xml: params.xml };
    },
    'capture.openSnapshots': async (params, { signal }): Promise<Capture> => {
      await dropCheckpoints(params);
      const id = captures.newId();
      const { facts, capture } = await openSnapshots(session.ledger, id, params, signal);
      captures.add(id, capture);
      return { id, ...facts, xml: params.xml };
    },
    'capture.close': async ({ id }) => captures.close(id),
  };
}
