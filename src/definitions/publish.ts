import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { DrError } from '../model/errors.js';
import { checkNamePart } from '../model/names.js';
import { createDurable, hasCode, makeDirectory, syncDirectory } from '../system/durable.js';
import { step } from '../system/steps.js';
import { checkDomain } from './rewrite.js';
import { parseXml } from './xml.js';

export interface Published {
  /** False: something had that name, and was left exactly as it was. */
  readonly created: boolean;
  readonly path: string;
}

/** Where a server's definition is kept. Throws `name-invalid`. */
export function definitionPath(directory: string, server: string): string {
  checkNamePart('server', server);
  return join(directory, `${server}.xml`);
}

/**
 * Creates a server's definition if, and only if, nothing has its name: not a file, nor a dangling link, nor anything else. Whole or not at all, durable,
 * mode 0600 (it may hold passwords); of several at once one creates it. A missing directory is made.
 *
 * Throws `name-invalid`, `definition-unusable` (not that server's definition), `no-space`, `io`.
 */
export async function publishDefinition(directory: string, server: string, xml: string): Promise<Published> {
  const path = definitionPath(directory, server);
  const what = `the definition of ${server}`;
  checkDomain(parseXml(xml, what).root, server, what);
  step('definition-before-publish');
  try {
    await makeDirectory(directory, 0o755);
    const created = !(await isTaken(path)) && await createDurable(path, xml);
    // a run that died between giving the name and making it durable may have created what is there
    if (!created) await syncDirectory(directory);
    step('definition-after-publish');
    return { created, path };
  } catch (error) {
    throw explain(error, server, path);
  }
}

async function isTaken(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false;
    throw error;
  }
}

function explain(error: unknown, server: string, path: string): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error;
  const full = hasCode(error, 'ENOSPC', 'EDQUOT');
  return new DrError(full ? 'no-space' : 'io', `the definition of ${server} could not be written to ${path}: ${error.message}. Its images are not affected, and no other definition was touched.`,
    full ? 'Free space in the definitions directory and run the job again.' : 'Make the definitions directory writable for the agent and run the job again.', { cause: error });
}
