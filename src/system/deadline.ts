import { DrError } from '../model/errors.js';

/**
 * Waits for something at most so many milliseconds, then throws `timeout`; what was begun goes on. For what ends in a device that may never
 * answer: a process that waits for it can't even be killed.
 */
export async function within<T>(milliseconds: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => { reject(new DrError('timeout', `${what}: no answer in ${String(Math.round(milliseconds / 1000))} s`)); }, milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
