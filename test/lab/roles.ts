import { basename } from 'node:path';
import type { LabHost } from './host.js';
import type { ProcessSeen } from './namespaces.js';

/** What a process of a host is to dr-engine, by its command line. */
export type ProcessRole =
  | 'head'            // dr run, and every other command of a person
  | 'agent'           // dr agent
  | 'data'            // the process that reads and writes disks
  | 'guard'           // pays what is owed when the agent is gone
  | 'agent-task'      // other forms of dr agent: --pay, --running, …
  | 'ssh'
  | 'storage-daemon'
  | 'guest'
  | 'libvirtd'
  | 'other';

export function roleOf(argv: readonly string[]): ProcessRole {
  const program = basename(argv[0] ?? '');
  if (program === 'node' || program === 'dr') {
    const main = argv.findIndex((word) => /(^|\/)(bin\/dr|src\/main\.js|dr)$/.test(word));
    const words = main === -1 ? [] : argv.slice(main + 1);
    if (words[0] !== 'agent') return main === -1 ? 'other' : 'head';
    if (words.some((word) => word === '--send' || word === '--receive')) return 'data';
    if (words.includes('--guard')) return 'guard';
    return words.some((word) => word.startsWith('--')) ? 'agent-task' : 'agent';
  }
  switch (program) {
    case 'ssh': return 'ssh';
    case 'qemu-storage-daemon': return 'storage-daemon';
    case 'libvirtd': return 'libvirtd';
    default: return program.startsWith('qemu-system-') ? 'guest' : 'other';
  }
}

/** The host's processes with that role. */
export async function processesOf(host: LabHost, role: ProcessRole): Promise<readonly ProcessSeen[]> {
  return (await host.processes()).filter((seen) => roleOf(seen.argv) === role);
}

/** Sends a signal to all processes with that role, at once; gives how many there were. */
export async function killRole(host: LabHost, role: ProcessRole, signal: NodeJS.Signals = 'SIGKILL'): Promise<number> {
  const found = await processesOf(host, role);
  await Promise.all(found.map(({ inner }) => host.kill(inner, signal)));
  return found.length;
}
