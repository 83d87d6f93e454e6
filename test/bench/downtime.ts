import { randomFillSync } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { Admin, cold } from '../lab-tests/admin.js';
import { Lab } from '../lab/lab.js';
import { median } from './statistics.js';
import type { Entry, Row } from './table.js';

const MIB = 2 ** 20;

/**
 * How long a server is down for a cold capture, as `dr run` reports it: from its shutdown to its start. The server ignores the power button and is
 * forced off, so that its own way down is no part of it.
 */
export async function* downtimeRows(runs: number, mebibytes: number, say: (text: string) => void): AsyncGenerator<Row> {
  const lab = await Lab.up({ name: 'bench-down', hosts: ['node01', 'dr01', 'head01'], store: { sizeMiB: mebibytes * 4 + 512 } });
  try {
    const node = lab.host('node01');
    const guest = await lab.addGuest('node01', { name: 'Bench01', disks: [{}, { sizeMiB: mebibytes }], start: false });
    const path = guest.disks[1]?.path ?? '';
    await fillNoise(join(node.directory, path.replace('/var/lib/libvirt', 'var-lib-libvirt')), mebibytes);
    await guest.start();
    const admin = new Admin(lab.host('head01'));
    await admin.configure({ anvils: { 'an-a01': { nodes: ['node01'] } }, jobs: { bench: cold(['Bench01']) } });
    const reading: number[] = [];
    for (let round = 0; round < runs; round++) {
      await node.run('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
      const began = performance.now();
      await node.run('dd', [`if=${path}`, 'of=/dev/null', 'bs=1M', 'iflag=direct', 'status=none']);
      reading.push((performance.now() - began) / 1000);
    }
    const down = async (what: string): Promise<number> => {
      await node.run('sh', ['-c', 'sync; dd if="$1" iflag=nocache count=0 status=none', 'sh', path]);
      const { server } = await admin.runsWell('bench');
      say(`downtime, ${what}: ${(server().down_ms / 1000).toFixed(2)} s`);
      return server().down_ms / 1000;
    };
    for (const [where, prepare] of [['straight to the target', undefined], ['over a cache drive', () => lab.addDrive('node01', { sizeMiB: mebibytes + 256 })]] as const) {
      await prepare?.();
      const first = await down(`${where}, first`);
      const later: number[] = [];
      for (let round = 0; round < runs; round++) later.push(await down(where));
      yield {
        name: 'downtime', what: `${String(mebibytes)} MiB, cold, ${where}`, limits: ['reading alone'], notes: ['Starting and stopping the server is in it.'],
        entries: [entry('reading alone', 'limit', reading), entry('dr run, next ones', 'ours', later), entry('dr run, first', 'ours', [first])],
      };
    }
  } finally {
    await Lab.down('bench-down');
  }
}

function entry(name: string, kind: Entry['kind'], seconds: readonly number[]): Entry {
  return { name, kind, runs: seconds.length, seconds: median(seconds), least: Math.min(...seconds), most: Math.max(...seconds), wireBytes: 0, peaks: {} };
}

/** Behind the first two MiB, where the guest keeps its heartbeat. */
async function fillNoise(path: string, mebibytes: number): Promise<void> {
  const handle = await open(path, 'r+');
  const noise = Buffer.alloc(MIB);
  for (let index = 2; index < mebibytes; index++) await handle.write(randomFillSync(noise), 0, MIB, index * MIB);
  await handle.sync();
  await handle.close();
}
