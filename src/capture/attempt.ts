import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';

/** Does what is a convenience: what goes wrong with it is logged as `what`, and fails nothing. */
export async function attempt<T>(what: string, act: () => Promise<T>): Promise<T | undefined> {
  try {
    return await act();
  } catch (error) {
    log.warn(what, { error: DrError.from(error).message });
    return undefined;
  }
}
