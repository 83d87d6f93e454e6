import { randomFillSync } from 'node:crypto';
import { mkdir, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Host } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { CHECKOUT } from '../lab/layout.js';
import type { Part } from './contenders/contender.js';
import { Processes } from './processes.js';
import type { Run } from './statistics.js';

export const MIB = 2 ** 20;

/** A disk on the sending host. */
export interface Disk {
  /** As the host sees it. */
  readonly path: string;
  readonly bytes: number;
}

/** Where copies are kept on the receiving host: a file system of its own, on a loop device without a page cache behind it. */
export const STORE = '/srv/dr';
const SOURCES = '/var/lib/libvirt/images';

/** The two hosts that everything is measured between, and what is on them. */
export class Ground {
  private constructor(readonly lab: Lab, readonly processes: Processes) {}

  /** `storeMiB`: what all contenders' copies need together; so much of it as plain files need is written beforehand. */
  static async make(storeMiB: number, filesMiB: number): Promise<Ground> {
    const lab = await Lab.up({ name: 'bench', hosts: ['node01', 'dr01'], store: { sizeMiB: storeMiB } });
    const target = lab.host('dr01');
    const device = (await target.run('findmnt', ['-no', 'SOURCE', STORE])).stdout.trim();
    await target.run('losetup', ['--direct-io=on', device]);
    // Space that was written before costs the same each time it is written again.
    await target.run('sh', ['-c', `dd if=/dev/zero of=${STORE}/fill bs=1M count=${String(filesMiB)} oflag=direct status=none; sync; rm ${STORE}/fill; sync -f ${STORE}`], { timeoutMs: 600_000, okExit: [0, 1] });
    return new Ground(lab, await Processes.watch([lab.host('node01'), target]));
  }

  get node(): Host {
    return this.lab.host('node01');
  }

  get target(): Host {
    return this.lab.host('dr01');
  }

  /** Makes a disk of `mebibytes`; only each MiB for which `full` says so has data, which can't be compressed. */
  async disk(name: string, mebibytes: number, full: (index: number) => boolean): Promise<Disk> {
    await mkdir(this.#outside(''), { recursive: true });
    const handle = await open(this.#outside(name), 'w');
    try {
      await handle.truncate(mebibytes * MIB);
      const noise = Buffer.alloc(MIB);
      for (let index = 0; index < mebibytes; index++) {
        if (full(index)) await handle.write(randomFillSync(noise), 0, MIB, index * MIB);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    return { path: join(SOURCES, name), bytes: mebibytes * MIB };
  }

  /** Writes noise over parts of a disk. */
  async change({ path, bytes }: Disk, parts: readonly Part[]): Promise<void> {
    const handle = await open(this.#outside(path.slice(SOURCES.length + 1)), 'r+');
    try {
      for (const [offset, length] of parts) {
        if (offset + length > bytes) throw new RangeError('a change beyond the end of the disk');
        await handle.write(randomFillSync(Buffer.alloc(length)), 0, length, offset);
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  /** Nothing of the disk or of any copy is in memory after this, and everything is on the disk. */
  async dropCaches({ path }: Disk): Promise<void> {
    const drop = 'for each; do dd if="$each" iflag=nocache count=0 status=none; done';
    await this.node.run('sh', ['-c', `sync "$1"; ${drop}`, 'sh', path]);
    await this.target.run('sh', ['-c', `sync -f ${STORE}; find ${STORE} -xdev -type f -size +64k -print0 | xargs -0 -r sh -c '${drop}' sh`]);
  }

  /** The receiving host's link, both ways, and the time there and back of what goes over ssh; undefined: as fast as it goes. */
  async link(limit: { readonly rate: string; readonly roundTripMs: number } | undefined): Promise<void> {
    const proxy = limit === undefined ? '' : `Host dr01\n  ProxyCommand ${process.execPath} ${CHECKOUT}/build/test/bench/delay.js %h %p ${String(limit.roundTripMs / 2)}\n`;
    await this.node.writeFile('/root/.ssh/config', proxy, 0o600);
    await (limit === undefined ? this.lab.restore('dr01') : this.lab.slow('dr01', limit.rate));
  }

  /** Whether what is at `copy` on the receiving host equals the disk. */
  async isCopy({ path }: Disk, copy: string): Promise<boolean> {
    const digest = async (host: Host, file: string): Promise<string | undefined> => (await host.run('sha256sum', ['--', file], { timeoutMs: 300_000 })).stdout.split(' ')[0];
    const [from, to] = await Promise.all([digest(this.node, path), digest(this.target, copy)]);
    return from === to;
  }

  /** Measures one run; `act` may say itself how long it took. `fresh`: it counts the memory only of processes that it started. */
  async measure(act: () => Promise<number | undefined>, fresh: boolean): Promise<Run> {
    const [cpu, sent] = [await this.processes.cpuSeconds(), await this.#sent()];
    const began = performance.now();
    const { value, peaks } = await this.processes.peaksDuring(act, fresh);
    const seconds = value ?? (performance.now() - began) / 1000;
    return { seconds, cpuSeconds: await this.processes.cpuSeconds() - cpu, wireBytes: await this.#sent() - sent, peaks };
  }

  async remove(): Promise<void> {
    await Lab.down(this.lab.name);
    await this.processes[Symbol.asyncDispose]();
  }

  async #sent(): Promise<number> {
    const text = await readFile(`/proc/${String(await this.node.init())}/net/dev`, 'utf8');
    return Number(/eth0:\s*(?:\d+\s+){8}(\d+)/.exec(text)?.[1] ?? '0');
  }

  #outside(name: string): string {
    return join(this.node.directory, 'var-lib-libvirt/images', name);
  }
}
