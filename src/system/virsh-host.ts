import { child, children, attribute, parseXml } from './virsh.js';
import { run } from './run.js';

/** Machine types that the emulators of this host know, aliases included; empty if libvirt can't say. From `virsh capabilities`. */
export async function machineTypes(uri: string): Promise<string[]> {
  const { stdout } = await run('virsh', ['-c', uri, 'capabilities'], { timeoutMs: 30_000 });
  const root = await parseXml(stdout);
  const machines = children(root, 'guest').flatMap((guest) => children(child(guest, 'arch'), 'machine'));
  return [...new Set(machines.flatMap((machine) => [machine._?.trim() ?? '', attribute(machine, 'canonical') ?? ''].filter((name) => name !== '')))];
}

