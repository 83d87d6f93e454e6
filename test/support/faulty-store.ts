import { randomBytes } from 'node:crypto';
import { open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DrError } from '../../src/model/errors.js';
import { run } from '../../src/system/run.js';
import type { Store } from '../../src/stores/store.js';

/** Faults put in front of a store: the store behind is a real one. */

type Call = Exclude<keyof Store, 'ref'>;

/** What the decorators throw, so that a test can tell it from the store's own errors. */
export class Fault extends Error {}

/** Wraps every asynchronous call of a store. */
function around(store: Store, each: (call: Call, args: readonly unknown[], go: () => Promise<unknown>) => Promise<unknown>): Store {
  return new Proxy(store, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== 'function') return value;
      const call = (...args: unknown[]): unknown => Reflect.apply(value, target, args);
      return (...args: unknown[]) => each(property as Call, args, () => call(...args) as Promise<unknown>);
    },
  });
}

/** The n-th call fails (1 is the first); `after`: its work is done all the same, as when a host dies before it could say so. */
export function failAt(store: Store, call: Call, nth: number, when: 'before' | 'after' = 'before'): Store {
  let seen = 0;
  return around(store, async (called, _args, go) => {
    if (called !== call) return await go();
    seen += 1;
    if (seen !== nth) return await go();
    if (when === 'after') await go();
    throw new Fault(`${call} number ${String(nth)} was made to fail`);
  });
}

/** Allocations and enlargements beyond `bytes` in all find the store full. */
export function fullAfter(store: Store, bytes: number): Store {
  let used = 0;
  return around(store, async (called, args, go) => {
    if (called !== 'allocate' && called !== 'resize') return await go();
    used += Number(args[1]);
    if (used > bytes) throw new DrError('no-space', 'the store was made to be full', 'Free space on the store.');
    return await go();
  });
}

/** Changes one byte of a file; its modification time is put back to the nanosecond unless told otherwise, as when a disk rots. */
export async function flipByte(path: string, offset: number, keepTime = true): Promise<void> {
  const times = join(tmpdir(), `dr-test-times-${randomBytes(6).toString('hex')}`);
  await writeFile(times, '');
  await run('touch', [`--reference=${path}`, times]);
  const handle = await open(path, 'r+');
  try {
    const byte = Buffer.alloc(1);
    await handle.read(byte, 0, 1, offset);
    byte.writeUInt8(byte.readUInt8(0) ^ 0xff);
    await handle.write(byte, 0, 1, offset);
    await handle.sync();
  } finally {
    await handle.close();
  }
  if (keepTime) await run('touch', [`--reference=${times}`, path]);
  await rm(times);
}
