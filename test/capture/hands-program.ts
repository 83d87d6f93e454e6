import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { nodeHands } from '../../src/agent/node-hands.js';
import type { CallContext } from '../../src/agent/protocol.js';
import { runGuard } from '../../src/capture/guard.js';
import { Ledger } from '../../src/capture/obligations.js';
import { DrError } from '../../src/model/errors.js';
import { zeroExtents } from '../../src/system/qemu.js';
import { domainPid, frozen, jobActive } from '../../src/system/virsh.js';

/**
 * A node's hands without the wire: runs in a lab host, reads one call per line as JSON, `[number, method, params]`, and answers
 * `[number, result]` or `[number, null, error]`. `["cancel", n]` cancels call n. At the end of its input it lets go of everything, as an agent does.
 */
type Call = (params: never, context: CallContext) => Promise<unknown>;

const [mode, directory] = process.argv.slice(2);
if (mode === '--guard' && directory !== undefined) {
  await runGuard(directory);
} else {
  process.umask(0o077);
  const ledger = await Ledger.open([process.execPath, fileURLToPath(import.meta.url), '--guard']);
  const ends: (() => Promise<void>)[] = [];
  const calls: Readonly<Record<string, Call>> = {
    ...nodeHands({ ledger, atEnd: (_what, letGo) => { ends.push(letGo); } }),
    'test.owed': () => ledger.list(),
    'test.zeros': ({ image, format }: { image: string; format: string }) => zeroExtents(image, format),
    'test.pid': ({ uri, name }: { uri: string; name: string }) => domainPid(uri, name),
    'test.job': ({ uri, name }: { uri: string; name: string }) => jobActive(uri, name),
    'test.frozen': ({ uri, name }: { uri: string; name: string }) => frozen(uri, name),
  };
  const running = new Map<number, AbortController>();

  const answer = async (number: number, method: string, params: never): Promise<void> => {
    const cancel = new AbortController();
    running.set(number, cancel);
    try {
      const call = calls[method];
      if (call === undefined) throw new Error(`no ${method}`);
      const result = await call(params, { signal: cancel.signal, progress: () => undefined }) ?? null;
      process.stdout.write(`${JSON.stringify([number, result])}\n`);
    } catch (error) {
      process.stdout.write(`${JSON.stringify([number, null, DrError.from(error).toJSON()])}\n`);
      if (!(error instanceof DrError)) console.error(error);
    } finally {
      running.delete(number);
    }
  };

  for await (const line of createInterface({ input: process.stdin })) {
    const [number, method, params] = JSON.parse(line) as [number | 'cancel', string, never];
    if (number === 'cancel') running.get(Number(method))?.abort();
    else void answer(number, method, params);
  }
  for (const letGo of ends) await letGo();
  await ledger.payAll();
  await ledger.close();
}
