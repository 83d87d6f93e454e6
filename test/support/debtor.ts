import { fileURLToPath } from 'node:url';
import { Ledger } from '../../src/capture/obligations.js';
import type { Debt, Obligation } from '../../src/model/obligation.js';

/**
 * An agent that does nothing but owe: the debts are argv[2] as JSON. Says on stdout where its session is and what it owes, then lives until it
 * is killed, or until a line on standard input tells it to `close` or to `pay` an ID.
 */
const ledger = await Ledger.open([process.execPath, fileURLToPath(new URL('guard-main.js', import.meta.url))]);
const obligations: Obligation[] = [];
for (const debt of JSON.parse(process.argv[2] ?? '[]') as Debt[]) obligations.push(await ledger.owe(debt));
process.stdout.write(`${JSON.stringify({ directory: ledger.directory, obligations })}\n`);

process.stdin.setEncoding('utf8').on('data', (text: string) => {
  void (async () => {
    const [order, id] = text.trim().split(' ');
    if (order === 'pay' && id !== undefined) process.stdout.write(`${await ledger.pay(id).catch((error: unknown) => String(error))}\n`);
    if (order === 'close') {
      await ledger.close();
      process.exit(0);
    }
  })();
});
