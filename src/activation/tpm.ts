import { access, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hasCode } from '../system/durable.js';
import { run } from '../system/run.js';

/** Where libvirt's TPM emulator keeps each domain's state, by UUID. */
const SWTPM = '/var/lib/libvirt/swtpm';

/** Puts the TPM state of a set where libvirt looks for it, unless there is some already. A set without TPM state is left as it is. */
export async function restoreTpm(setDirectory: string, uuid: string): Promise<void> {
  const archive = join(setDirectory, 'tpm.tar');
  if (!await access(archive).then(() => true, () => false)) return;
  const place = join(SWTPM, uuid);
  try {
    await mkdir(SWTPM, { recursive: true, mode: 0o711 });
    await mkdir(place, { mode: 0o711 });
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return; // it was booted here before: its state goes on from there
    throw error;
  }
  try {
    await run('tar', ['--extract', '--file', archive, '--directory', place]);
  } catch (error) {
    await rm(place, { recursive: true, force: true }); // made by us just now
    throw error;
  }
}
