import { z } from 'zod';
import { DrError, type ErrorData } from '../model/errors.js';
import { run } from '../system/run.js';
import { remoteCommand } from '../system/ssh.js';
import type { ActivationSeen, ServerToActivate } from './look.js';

/**
 * Whether a server's original may be alive: every node of its Anvil, as its newest set recorded them, is asked. Only a node that answers
 * and says no is an all-clear; a node that can't be asked may be running it behind a cut line.
 */

const Answer = z.object({ state: z.string() });

/** Milliseconds a node is given to answer. */
const ASK_MS = 15_000;

export async function originalsAlive(seen: Pick<ActivationSeen, 'servers' | 'sighting'>, uri: string): Promise<ReadonlyMap<string, ErrorData>> {
  const alive = new Map<string, ErrorData>();
  await Promise.all(seen.servers.filter(({ running }) => !running).map(async (server) => {
    const reason = await mayBeAlive(server, originOf(seen, server), uri);
    if (reason !== undefined) alive.set(server.server, reason);
  }));
  return alive;
}

/** Where the server may be: nodes and UUID as recorded with its sets. */
function originOf(seen: Pick<ActivationSeen, 'sighting'>, { onTarget }: ServerToActivate): { readonly nodes: readonly string[]; readonly uuids: readonly string[] } {
  const sets = new Set(onTarget?.images.flatMap((image) => image.identity?.set ?? []));
  const records = [...seen.sighting?.records ?? []].filter(([set]) => sets.has(set)).map(([, { about }]) => about);
  return { nodes: [...new Set(records.flatMap((about) => about.nodes ?? [about.node]))], uuids: [...new Set(records.map(({ uuid }) => uuid))] };
}

async function mayBeAlive({ server, onTarget }: ServerToActivate, { nodes, uuids }: ReturnType<typeof originOf>, uri: string): Promise<ErrorData | undefined> {
  const answers = await Promise.all(nodes.flatMap((node) => uuids.map((uuid) => ask(node, server, uuid, uri))));
  const running = answers.find(({ state }) => state === 'running' || state === 'paused' || state === 'other');
  if (running !== undefined) {
    return new DrError('original-alive', `${server} runs on ${running.node}. Two running is worse than none: it was not booted here.`,
      'Stop it there first, or cut that host off for good and say --originals-are-off.').toJSON();
  }
  if (onTarget?.activated !== undefined) return undefined; // it was booted here before; that silence means it is off was settled then
  const silent = [...new Set(answers.filter(({ state }) => state === 'unknown').map(({ node }) => node))];
  if (silent.length === 0 && nodes.length > 0) return undefined;
  return new DrError('original-alive', `the original of ${server} may be alive: ${silent.length === 0 ? 'it is not known where it ran' : `${silent.join(', ')} can't be asked`}.`,
    'Make sure that it is off and stays off (pull the plug), then say --originals-are-off.').toJSON();
}

async function ask(node: string, server: string, uuid: string, uri: string): Promise<{ readonly node: string; readonly state: string }> {
  try {
    const { program, args } = remoteCommand(node, ['dr'], ['agent', '--running', server, '--uuid', uuid, '--uri', uri]);
    const { stdout } = await run(program, args, { timeoutMs: ASK_MS });
    return { node, state: Answer.parse(JSON.parse(stdout)).state };
  } catch {
    return { node, state: 'unknown' }; // any failure to answer is no all-clear
  }
}
