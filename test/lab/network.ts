import { join } from 'node:path';
import { run } from '../../src/system/run.js';
import { initsBelow } from './namespaces.js';

/** The lab's network: a bridge in a namespace of its own. Labs can't collide, and the machine's network knows nothing of them. */

export function switchDirectory(lab: string): string {
  return join(lab, 'switch');
}

export async function switchInit(lab: string): Promise<number> {
  const [init] = (await initsBelow(switchDirectory(lab))).inits;
  if (init === undefined) throw new Error(`the switch of ${lab} is not running`);
  return init.pid;
}

async function atSwitch(lab: string, program: string, ...args: readonly string[]): Promise<void> {
  await run('nsenter', [`--target=${String(await switchInit(lab))}`, '--net', '--', program, ...args]);
}

async function atHost(init: number, program: string, ...args: readonly string[]): Promise<void> {
  await run('nsenter', [`--target=${String(init)}`, '--net', '--', program, ...args]);
}

/** A host keeps its hardware address over a power cut, or others would look for it in vain for a while. */
export function hardwareAddress(address: string): string {
  return `02:77:00:00:00:${Number(address.split('.')[3]).toString(16).padStart(2, '0')}`;
}

/** Connects a host's `eth0` with the bridge; the port there has the host's name. */
export async function plugIn(lab: string, host: string, address: string, init: number): Promise<void> {
  // After a power cut the old port may still be there: the kernel takes a dead network namespace apart in the background.
  await atSwitch(lab, 'ip', 'link', 'del', host).catch(() => undefined); // usually there is none
  await atSwitch(lab, 'ip', 'link', 'add', host, 'type', 'veth', 'peer', 'name', 'eth0',
    'address', hardwareAddress(address), 'netns', String(init));
  await atSwitch(lab, 'ip', 'link', 'set', host, 'master', 'br0', 'up');
}

/** Pulls the cable: nobody gets an end of file, packets just stay away. */
export async function cut(lab: string, host: string): Promise<void> {
  await atSwitch(lab, 'ip', 'link', 'set', host, 'down');
}

/** Puts the cable back, at full speed. */
export async function restore(lab: string, host: string, init: number | undefined): Promise<void> {
  await atSwitch(lab, 'ip', 'link', 'set', host, 'up');
  await unlimited(lab, host, init);
}

async function unlimited(lab: string, host: string, init: number | undefined): Promise<void> {
  const nothingThere = (): void => undefined; // deleting a limit that was never set is what `restore` means too
  await atSwitch(lab, 'tc', 'qdisc', 'del', 'dev', host, 'root').catch(nothingThere);
  if (init !== undefined) await atHost(init, 'tc', 'qdisc', 'del', 'dev', 'eth0', 'root').catch(nothingThere);
}

/** Limits a host's link in both directions, of a virtual machine only what it receives (no `init`); `rate` as tc(8) writes it, e.g. `10mbit`. */
export async function slow(lab: string, host: string, init: number | undefined, rate: string): Promise<void> {
  const limit = ['root', 'tbf', 'rate', rate, 'burst', '128kb', 'latency', '100ms'];
  await atSwitch(lab, 'tc', 'qdisc', 'replace', 'dev', host, ...limit);
  if (init !== undefined) await atHost(init, 'tc', 'qdisc', 'replace', 'dev', 'eth0', ...limit);
}

/** Connects a virtual machine: a tap device that has the host's name. */
export async function plugInTap(lab: string, host: string): Promise<void> {
  await atSwitch(lab, 'ip', 'link', 'del', host).catch(() => undefined); // usually there is none
  await atSwitch(lab, 'ip', 'tuntap', 'add', host, 'mode', 'tap');
  await atSwitch(lab, 'ip', 'link', 'set', host, 'master', 'br0', 'up');
}
