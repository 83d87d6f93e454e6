import { STORE, type Disk, type Ground } from '../ground.js';
import type { Contender } from './contender.js';

/** Copies to a file that qemu-nbd shows at the other end: no ssh, so no cipher either. The server is started beforehand. */
export class OverNbd implements Contender {
  readonly kind = 'peer';
  readonly copy: string;
  readonly note = 'qemu-img and nbdcopy go over plain TCP: nothing is encrypted.';

  constructor(readonly name: string, readonly needs: string, private readonly ground: Ground, private readonly command: (source: string, uri: string) => readonly [string, ...string[]]) {
    this.copy = `${STORE}/${needs}.raw`;
  }

  async forget({ bytes }: Disk): Promise<void> {
    await this.ground.target.run('sh', ['-c', 'rm -f -- "$1"; truncate -s "$2" "$1"', 'sh', this.copy, String(bytes)]);
  }

  async run({ path }: Disk): Promise<number> {
    const server = await this.ground.processes.spawn(this.ground.target, 'qemu-nbd',
      ['--format=raw', '--cache=none', '--aio=native', '--discard=unmap', '--detect-zeroes=off', '--shared=8', '--port=10809', this.copy]);
    await this.ground.target.run('sh', ['-c', 'until ss -Hltn "sport = :10809" | grep -q .; do sleep 0.02; done'], { timeoutMs: 10_000 });
    const began = performance.now();
    const [program, ...args] = this.command(path, 'nbd://dr01:10809');
    await this.ground.processes.run(this.ground.node, program, args);
    const seconds = (performance.now() - began) / 1000;
    await server.exit; // it ends with its last client
    return seconds;
  }
}

/** The two programs that copy to such a server. */
export function overNbd(ground: Ground): readonly Contender[] {
  return [
    new OverNbd('qemu-img convert', 'qemu-img', ground, (source, uri) => ['qemu-img', 'convert', '-n', '-W', '-t', 'none', '-T', 'none', '-f', 'raw', '-O', 'raw', source, uri]),
    new OverNbd('nbdcopy', 'nbdcopy', ground, (source, uri) => ['nbdcopy', '--destination-is-zero', '--flush', source, uri]),
  ];
}
