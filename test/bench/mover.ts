import { createInterface } from 'node:readline';
import { connect } from '../../src/agent/connect.js';
import { transfer } from '../../src/jobs/transfer.js';
import type { DataSource } from '../../src/model/host.js';
import { run } from '../../src/system/run.js';
import type { Start } from '../../src/transfer/ticket.js';

/**
 * The head's part of a transfer, with both agents connected for as long as it runs, as in a job of many disks. Orders come as lines of JSON on
 * standard input, answers go as lines to standard output.
 */

export interface MoveOrder {
  readonly source: DataSource;
  readonly path: string;
  readonly start: Start;
  /** Where the block digests of the copy are kept, on the receiving host. */
  readonly digests: string;
  readonly streams?: number;
}

export interface Moved {
  readonly seconds: number;
  readonly error?: string;
}

const AGENT = ['dr'];
const TO = { host: 'dr01', agentCommand: AGENT };
const STATE = '/var/lib/dr-engine';

const from = await connect({ host: 'local', agentCommand: AGENT }, 'bench');
const to = await connect(TO, 'bench');
process.stdout.write('ready\n');
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await move(JSON.parse(line) as MoveOrder))}\n`);
}
await Promise.all([from.close(), to.close()]);

async function move(order: MoveOrder): Promise<Moved> {
  const began = performance.now();
  const seconds = (): number => (performance.now() - began) / 1000;
  try {
    const { ticket } = await transfer({
      from: { agent: from, source: order.source }, to, route: TO, path: order.path, start: order.start, readBack: true, bandwidth: [], streams: order.streams,
      signal: new AbortController().signal, show: { what: 'sending', server: 'bench', disk: 'disk', to: 'dr01', emit: () => undefined },
    });
    const took = seconds();
    await run('ssh', ['-o', 'BatchMode=yes', 'dr01', `cp ${STATE}/tickets/${ticket}/digests ${order.digests}`]);
    await to.call('transfer.abort', { ticket });
    return { seconds: took };
  } catch (error) {
    return { seconds: seconds(), error: error instanceof Error ? error.message : String(error) };
  }
}
