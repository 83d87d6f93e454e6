import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import { hasCode } from '../system/durable.js';
import { run } from '../system/run.js';

/** Small state that belongs to a server's set: UEFI variables and the TPM's memory. */

/** Where libvirt keeps the state of its TPM emulators, a directory for each domain's UUID. */
const TPM_STATES = '/var/lib/libvirt/swtpm';

/** A UEFI variables file is 64 KiB to a few MiB; anything much larger is something else. */
const LARGEST = 64 * 1024 * 1024;

export interface Attachments {
  /** Base64. */
  readonly nvram?: string;
  /** Base64 of a tar archive of the state directory. */
  readonly tpm?: string;
}

/** Reads both as they are now. `directory` is a private place for the archive while it is made. */
export async function readAttachments(server: string, uuid: string, wanted: { readonly nvram?: string; readonly tpm: boolean }, directory: string): Promise<Attachments> {
  const nvram = wanted.nvram === undefined ? undefined : await readNvram(server, wanted.nvram);
  const tpm = wanted.tpm ? await archiveTpm(uuid, directory) : undefined;
  return { ...(nvram === undefined ? {} : { nvram }), ...(tpm === undefined ? {} : { tpm }) };
}

/** A file that the guest is just writing to is read again until two readings are equal. Absent: the server was never started. */
async function readNvram(server: string, path: string): Promise<string | undefined> {
  try {
    let before: Buffer | undefined;
    for (let tries = 0; tries < 10; tries += 1) {
      const now = await readFile(path);
      if (now.length > LARGEST) throw new DrError('capture-failed', `the UEFI variables of ${server} (${path}) have ${String(now.length)} bytes; that is no variables file`);
      if (before?.equals(now) === true) return now.toString('base64');
      before = now;
    }
    throw new DrError('capture-failed', `the UEFI variables of ${server} (${path}) change all the time`);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

async function archiveTpm(uuid: string, directory: string): Promise<string | undefined> {
  const archive = join(directory, 'tpm.tar');
  for (let tries = 0; ; tries += 1) {
    // Exit 1: a file changed while it was read.
    const { exitCode, stderr } = await run('tar', ['--create', '--file', archive, '--directory', join(TPM_STATES, uuid), '.'], { okExit: [0, 1, 2] });
    if (exitCode === 0) return (await readFile(archive)).toString('base64');
    if (exitCode === 2 && /Cannot open: No such file/.test(stderr)) return undefined; // no state yet
    if (exitCode === 2 || tries > 5) throw new DrError('capture-failed', `the TPM state of domain ${uuid} could not be read: ${stderr.trim()}`);
  }
}
