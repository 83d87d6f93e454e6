import assert from 'node:assert/strict';
import type { Params } from '../../src/agent/protocol.js';
import type { ServerSeen } from '../../src/model/server.js';
import type { GuestHost, Host } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import type { Hands } from './hands.js';
import { skipBecause } from '../support/skip.js';

/** One lab host with guests, and a node's hands at work in it. */

export const URI = 'qemu:///system';
export const SCRATCH = '/var/lib/libvirt/dr-engine';
const MIB = 1024 * 1024;

export interface Node {
  readonly lab: Lab;
  readonly host: Host;
}

/** Brings up a lab with one node, or skips the suite with the reason why there can be none. */
export async function nodeOrSkip(context: Mocha.Context, name: string): Promise<Node> {
  context.timeout(120_000);
  const why = await Lab.impossible();
  if (why !== undefined) skipBecause(context, why);
  const lab = await Lab.up({ name, hosts: ['node01'] });
  return { lab, host: lab.host('node01') };
}

export async function see(hands: Hands, name: string): Promise<ServerSeen> {
  const { servers: [server] } = await hands.call('node.servers', { uri: URI, names: [name] });
  assert.ok(server, `${name} is not on the node`);
  return server;
}

export function coldParams(server: ServerSeen): Params<'capture.openCold'> {
  return {
    uri: URI, server: server.name, uuid: server.uuid, xml: server.xml, tpm: server.tpm,
    disks: server.disks.map(({ target, path = '', format, bytes, problem }) => {
      assert.equal(problem, undefined);
      return { target, path, format, bytes };
    }),
    ...(server.nvram === undefined ? {} : { nvram: server.nvram }),
  };
}

export function liveParams(server: ServerSeen, changes: Partial<Params<'capture.openLive'>> = {}): Params<'capture.openLive'> {
  return { ...coldParams(server), scratch: SCRATCH, scratchReserveBytes: MIB, maxSeconds: 600, ...changes };
}

export function shutdownParams(server: ServerSeen, changes: Partial<Params<'capture.shutDown'>> = {}): Params<'capture.shutDown'> {
  return { uri: URI, server: server.name, uuid: server.uuid, timeoutSeconds: 20, onTimeout: 'fail', lateWatchSeconds: 60, peers: [], ...changes };
}

/** The digest of a file's content, read past the page cache as a transfer reads it. */
export async function digest(host: GuestHost, path: string): Promise<string> {
  const { stdout } = await host.run('sh', ['-c', 'dd if="$1" bs=1M iflag=direct status=none | sha256sum', 'sh', path], { timeoutMs: 30_000 });
  return stdout.slice(0, 64);
}

/** The digest of what a guest would read from a disk. */
export async function diskDigest(host: GuestHost, path: string, format: string): Promise<string> {
  await host.run('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', path, '/tmp/flat']);
  const { stdout } = await host.run('sh', ['-c', 'sha256sum < /tmp/flat; rm /tmp/flat']);
  return stdout.slice(0, 64);
}

/** What a capture could have left behind on the host; empty when all is clean. */
export async function leftovers(host: GuestHost, server?: string): Promise<string> {
  const { stdout } = await host.run('sh', ['-c', [
    'ls -A /var/lib/dr-engine/captures 2>/dev/null; for s in "$1"/dr-engine-*; do [ ! -e "$s" ] || echo "$s"; done',
    'find /var/lib/dr-engine/owed -name "*-*.json" 2>/dev/null',
    'grep -o "/var/lib/dr-engine/captures[^ ]*" /proc/self/mountinfo',
    'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline 2>/dev/null | grep "^qemu-storage-daemon"; done',
    '[ -z "$2" ] || virsh backup-dumpxml "$2" 2>/dev/null; true',
  ].join('\n'), 'sh', SCRATCH, server ?? '']);
  return stdout.trim();
}

/** Waits until a condition holds; fails with what was seen last. */
export async function eventually<T>(what: string, seconds: number, look: () => Promise<T>, wanted: (seen: T) => boolean): Promise<T> {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const seen = await look();
    if (wanted(seen)) return seen;
    if (Date.now() > deadline) assert.fail(`${what} did not happen in ${String(seconds)} s: ${String(seen)}`);
    await new Promise((resolve) => { setTimeout(resolve, 100); });
  }
}
