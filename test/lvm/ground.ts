import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { run } from '../../src/system/run.js';
import { skipBecause } from '../support/skip.js';

/** What tests of logical volumes stand on: a virtual machine with real device-mapper and empty disks. `support/run-in-vm.ts` runs them there. */

/** The machine's empty disks, 2 GiB each. */
export const DISKS: readonly string[] = [0, 1, 2, 3].map((index) => `/dev/disk/by-id/virtio-disk${String(index)}`);

const ALLOWED = '/etc/dr/vgs';

/** Skips the suite unless it runs in such a machine: everything on its disks is going to be wiped. */
export function onlyInVm(context: Mocha.Context): void {
  if (process.env['DR_TEST_VM'] !== '1' || !DISKS.every((disk) => existsSync(disk))) {
    skipBecause(context, 'it needs a virtual machine of its own: node build/test/support/run-in-vm.js');
  }
}

/** Forgets all volume groups, makes these (name → indexes of DISKS), and allows them to dr-engine. */
export async function freshGroups(groups: Readonly<Record<string, readonly number[]>>): Promise<void> {
  await wipe();
  for (const [name, disks] of Object.entries(groups)) {
    await run('vgcreate', ['--quiet', '--yes', name, ...disks.map((index) => DISKS[index] ?? '')], { timeoutMs: 60_000 });
  }
  await allow(...Object.keys(groups));
}

/** Removes every volume group, and whatever else is found on the disks. */
export async function wipe(): Promise<void> {
  const { stdout } = await run('vgs', ['--noheadings', '--options', 'vg_name'], { okExit: [0, 5] });
  for (const name of new Set(stdout.split(/\s+/).filter((word) => word !== ''))) {
    await run('vgremove', ['--quiet', '--force', '--force', '--yes', name], { okExit: [0, 5], timeoutMs: 60_000 });
  }
  await run('dmsetup', ['remove_all', '--force'], { okExit: [0, 1] });
  for (const disk of DISKS) await run('wipefs', ['--quiet', '--all', '--force', disk]);
}

/** Says which volume groups dr-engine may touch on this host. */
export async function allow(...groups: readonly string[]): Promise<void> {
  await mkdir('/etc/dr', { recursive: true });
  await writeFile(ALLOWED, groups.map((name) => `${name}\n`).join(''), { mode: 0o644 });
}

/** Removes all volumes of a group, which is quicker than making the group anew. */
export async function clearGroup(name: string): Promise<void> {
  await run('lvremove', ['--quiet', '--force', '--yes', name], { okExit: [0, 5], timeoutMs: 60_000 });
}

/** Writes 0x5a all over a disk's first part, so that whoever relies on new volumes being empty is found out. */
export async function soil(disk: number, mebibytes: number): Promise<void> {
  await run('sh', ['-c', 'head -c "$2" /dev/zero | tr "\\000" Z | dd of="$1" bs=1M oflag=direct iflag=fullblock status=none', 'sh', DISKS[disk] ?? '', `${String(mebibytes)}M`], { timeoutMs: 120_000 });
}
