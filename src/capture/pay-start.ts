import { open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { DrError } from '../model/errors.js';
import type { Debt } from '../model/obligation.js';
import type { DomainState } from '../model/server.js';
import { remoteCommand } from '../system/ssh.js';
import { run } from '../system/run.js';
import { step } from '../system/steps.js';
import { createDomain, domainInfo, domainState, startDomain } from '../system/virsh.js';
import type { Outcome } from './payments.js';

/**
 * Starting a server that we shut down, and nothing else: it is started only if it is known to run nowhere. Two running is worse than none,
 * so a peer that can't be asked keeps the debt owed.
 */

type StartDebt = Extract<Debt, { readonly kind: 'start' }>;

/** A peer's whole answer, connection included, must be there in this many milliseconds. */
const PEER_MS = 8_000;
/** Answers that are older than this many milliseconds when the server is about to be started say nothing: we stood still, stopped or starved. */
const FRESH_MS = 2_000;

/** `directory` is a private one, where the definition is laid down for `virsh create`. */
export async function payStart(debt: StartDebt, directory: string, now: () => number = Date.now): Promise<Outcome> {
  const here = await domainInfo(debt.uri, debt.uuid);
  const state = here?.state ?? 'shut off';
  if (state === 'running' || state === 'paused') {
    if (debt.wentDown) return { kind: 'settled', how: 'it runs here' };
    if (now() >= Date.parse(debt.watchUntil)) return { kind: 'settled', how: `it never went down until ${debt.watchUntil}` };
    return { kind: 'waiting', why: `${debt.server} was asked to shut down and still runs; if it goes down before ${debt.watchUntil} it is started again` };
  }
  if (state === 'other') return { kind: 'waiting', why: `${debt.server} is neither running nor off; it is started when it is off` };

  const down: StartDebt = { ...debt, wentDown: true };
  for (;;) {
    const asked = debt.startCommand === undefined ? await askPeers(debt) : undefined;
    if (asked !== undefined) return asked.kind === 'stuck' ? { ...asked, debt: down } : asked;
    const answered = performance.now();
    if (debt.startCommand === undefined && await isAlive(debt)) return { kind: 'settled', how: 'somebody started it' }; // while the peers were asked
    step('start-before');
    if (debt.startCommand !== undefined || performance.now() - answered < FRESH_MS) break;
  }
  try {
    await startHere(debt, here !== undefined, directory);
  } catch (error) {
    return { kind: 'stuck', debt: down, why: DrError.from(error).message };
  }
  step('start-after');
  // A cluster manager may take its time, or start it on another node: with a start command its word is taken.
  if (debt.startCommand !== undefined || await isAlive(debt)) return { kind: 'settled', how: 'started' };
  return { kind: 'stuck', debt: down, why: `${debt.server} was started and does not run` };
}

/** Why the server is not to be started, from its peers' answers; undefined if it runs on none of them. */
async function askPeers(debt: StartDebt): Promise<Exclude<Outcome, { kind: 'waiting' }> | undefined> {
  const answers = await Promise.all(debt.peers.map(async (peer) => ({ peer, answer: await askPeer(peer, debt) })));
  const elsewhere = answers.find(({ answer }) => answer.kind === 'alive');
  if (elsewhere !== undefined) return { kind: 'settled', how: `it runs on ${elsewhere.peer}` };
  for (const { peer, answer } of answers) {
    if (answer.kind === 'unknown') {
      return { kind: 'stuck', why: `${debt.server} is off and is not started here, because it can't be known that it does not run on ${peer}: ${answer.why}. `
        + 'It is started as soon as all nodes answer; or start it by hand where it belongs' };
    }
  }
  return undefined;
}

async function isAlive(debt: StartDebt): Promise<boolean> {
  const state = (await domainState(debt.uri, debt.uuid))?.state;
  return state === 'running' || state === 'paused';
}

async function startHere(debt: StartDebt, defined: boolean, directory: string): Promise<void> {
  if (debt.startCommand !== undefined) {
    const [program, ...args] = debt.startCommand.map((word) => word.replaceAll('{server}', debt.server));
    if (program === undefined) throw new DrError('config-invalid', `the start command of ${debt.server} is empty`, 'Correct it in the configuration.');
    await run(program, args, { timeoutMs: 120_000 });
    return;
  }
  if (defined) {
    await startDomain(debt.uri, debt.uuid);
    return;
  }
  // A transient domain, or one that was undefined meanwhile: what was written down before the shutdown is all there is of it.
  const file = join(directory, `create-${randomBytes(6).toString('hex')}.xml`);
  const handle = await open(file, 'wx', 0o600);
  try {
    await handle.writeFile(debt.xml);
    await handle.close();
    await createDomain(debt.uri, file);
  } finally {
    await unlink(file);
  }
}

type PeerAnswer =
  | { readonly kind: 'alive' }
  | { readonly kind: 'off' }
  | { readonly kind: 'unknown'; readonly why: string };

const RUNNING = z.object({ state: z.enum(['running', 'paused', 'shut off', 'other', 'absent']), uuid: z.string() });

async function askPeer(peer: string, debt: StartDebt): Promise<PeerAnswer> {
  try {
    const there = remoteCommand(peer, debt.agentCommand, ['agent', '--running', debt.server, '--uuid', debt.uuid, '--uri', debt.uri]);
    const { stdout } = await run(there.program, there.args, { timeoutMs: PEER_MS });
    const answer = RUNNING.parse(JSON.parse(stdout));
    if (answer.state === 'absent' || answer.state === 'shut off') return { kind: 'off' };
    if (answer.uuid !== debt.uuid) return { kind: 'unknown', why: `another domain named ${debt.server} (UUID ${answer.uuid}) is ${answer.state} there` };
    return answer.state === 'other' ? { kind: 'unknown', why: 'it is neither running nor off there' } : { kind: 'alive' };
  } catch (error) {
    return { kind: 'unknown', why: error instanceof DrError ? error.message : 'its answer was not understood' };
  }
}

export type Running = { readonly state: DomainState | 'absent'; readonly uuid: string };

/** What this host's libvirt says of a server: found by UUID, else by name. Throws `unreachable` when libvirt does not answer. */
export async function runningHere(name: string, uuid: string, uri: string): Promise<Running> {
  return await domainState(uri, uuid) ?? await domainState(uri, name) ?? { state: 'absent', uuid };
}

/** `dr agent --running`: what a peer asks before it starts a server. One line of JSON on stdout. */
export async function printRunning(name: string, uuid: string, uri: string): Promise<void> {
  process.stdout.write(`${JSON.stringify(await runningHere(name, uuid, uri))}\n`);
}
