import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import { step } from '../system/steps.js';
import { backupSocket, backupXml, beginBackup, blockJobActive, jobActive } from '../system/virsh.js';
import type { PlannedDisk } from './disks.js';
import type { DomainRef } from './owing.js';

/** libvirt's pull-mode backup job: all disks of a domain at one instant, served by QEMU over NBD. */

/** Throws `refused` if the domain has a job already: it is not ours to abort. */
export async function refuseForeignJobs(domain: DomainRef, disks: readonly PlannedDisk[]): Promise<void> {
  const job = await backupXml(domain.uri, domain.uuid) === undefined ? await jobActive(domain.uri, domain.uuid) : 'a backup job';
  if (job !== undefined) throw busy(domain, `of its own (${job})`);
  for (const disk of disks) {
    if (await blockJobActive(domain.uri, domain.uuid, disk.target)) throw busy(domain, `on disk ${disk.target}`);
  }
}

function busy(domain: DomainRef, which: string): DrError {
  return new DrError('refused', `${domain.server} can't be captured live now: libvirt is busy with a job ${which}. It was left alone; nothing was touched.`,
    `Wait until it has ended (virsh domjobinfo ${domain.server}), then run the job again.`);
}

/** What the bitmap beside an export is called. */
export const BITMAP = 'changed';

/**
 * What `virsh backup-begin` is told; scratch files and socket are in `directory`, exports are named for the disks' targets. `since`: by targets, the
 * checkpoints since which bitmaps of what changed are shown beside the whole disks.
 */
export async function writeBackupXml(path: string, socket: string, directory: string, disks: readonly PlannedDisk[], since?: ReadonlyMap<string, string>): Promise<void> {
  // Disks that are not listed take no part.
  const lines = disks.map((disk, index) => {
    const checkpoint = since?.get(disk.target);
    const shown = checkpoint === undefined ? '' : ` backupmode='incremental' incremental='${attribute(checkpoint)}' exportbitmap='${BITMAP}'`;
    const scratch = join(directory, `${since === undefined ? 'scratch' : 'tracked'}${String(index)}`); // a job that could not begin may leave its own
    return `    <disk name='${attribute(disk.target)}' backup='yes' type='file'${shown} exportname='${attribute(disk.target)}'><scratch file='${attribute(scratch)}'/></disk>`;
  });
  await writeFile(path, [
    "<domainbackup mode='pull'>", `  <server transport='unix' socket='${attribute(socket)}'/>`, '  <disks>', ...lines, '  </disks>', '</domainbackup>', '',
  ].join('\n'), { mode: 0o600, flag: 'wx' });
}

/** A value within apostrophes in XML. */
export function attribute(value: string): string {
  return value.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/'/g, '&apos;');
}

/** Begins the job, and a checkpoint with it if there is to be one: the instant of the capture. Throws `capture-failed`. */
export async function begin(domain: DomainRef, xmlPath: string, checkpointXmlPath?: string): Promise<void> {
  step('backup-before-begin');
  try {
    await beginBackup(domain.uri, domain.uuid, xmlPath, checkpointXmlPath);
  } catch (error) {
    const failure = DrError.from(error);
    throw new DrError('capture-failed', `the live capture of ${domain.server} could not begin: ${failure.message}. The server runs on.`,
      'virsh domblklist and the QEMU log of the domain say more; capture: shutdown needs no backup job.', { cause: error });
  }
  step('backup-after-begin');
}

/** Whether the job that serves `socket` still runs. */
export async function isRunning(domain: DomainRef, socket: string): Promise<boolean> {
  const xml = await backupXml(domain.uri, domain.uuid);
  return xml !== undefined && await backupSocket(xml) === socket;
}
