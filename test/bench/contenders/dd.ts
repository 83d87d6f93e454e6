import { remoteCommand } from '../../../src/system/ssh.js';
import { STORE, type Disk, type Ground } from '../ground.js';
import type { Contender } from './contender.js';

/** `dd | ssh | dd` with our options of ssh, so with the same cipher; past the page cache at both ends, and durable at the end. */
export class DdSshDd implements Contender {
  readonly name = 'dd | ssh | dd';
  readonly kind = 'peer';
  readonly copy = `${STORE}/dd.raw`;

  constructor(private readonly ground: Ground, private readonly sshOptions: readonly string[]) {}

  async forget(): Promise<void> {
    await this.ground.target.run('rm', ['-f', '--', this.copy]);
  }

  async run({ path }: Disk): Promise<undefined> {
    const ssh = remoteCommand('dr01', ['dd'], [`of=${this.copy}`, 'bs=1M', 'iflag=fullblock', 'oflag=direct', 'conv=fsync,notrunc', 'status=none'], this.sshOptions);
    await this.ground.processes.run(this.ground.node, 'sh', ['-c', 'dd if="$1" bs=1M iflag=direct status=none | { shift; "$@"; }', 'sh', path, ssh.program, ...ssh.args]);
  }
}
