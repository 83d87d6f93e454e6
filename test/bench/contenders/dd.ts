import { remoteCommand } from '../../../src/system/ssh.js';
import { STORE, type Disk, type Ground } from '../ground.js';
import type { Contender } from './contender.js';

/** `dd | ssh | dd` with our options of ssh, so with the same cipher; past the page cache at both ends, and durable at the end. */
export class DdSshDd implements Contender {
  readonly name: string;
  readonly kind = 'peer';
  readonly copy: string;
  readonly needs?: string;

  /** `proven`: hashed at both ends, the copy when it is read back. */
  constructor(private readonly ground: Ground, private readonly sshOptions: readonly string[], private readonly proven = false) {
    this.name = `dd | ssh | dd${proven ? ', proven' : ''}`;
    if (proven) this.needs = 'openssl';
    this.copy = `${STORE}/dd${proven ? '-proven' : ''}.raw`;
  }

  async forget(): Promise<void> {
    await this.ground.target.run('rm', ['-f', '--', this.copy]);
  }

  async run({ path }: Disk): Promise<undefined> {
    const write = `dd of=${this.copy} bs=1M iflag=fullblock oflag=direct conv=fsync,notrunc status=none`;
    const ssh = remoteCommand('dr01', ['true'], [], this.sshOptions);
    const there = [ssh.program, ...ssh.args.slice(0, -1)];
    const read = 'dd if="$1" bs=1M iflag=direct status=none';
    const script = !this.proven ? `${read} | { shift; "$@" '${write}'; }`
      : `set -e; sums=$(mktemp -d); ${read} | tee >(openssl sha256 -r > $sums/here) | { shift; "$@" '${write}; dd if=${this.copy} bs=1M iflag=direct status=none | openssl sha256 -r'; } > $sums/there
         wait; cmp $sums/here $sums/there; rm -r $sums`;
    await this.ground.processes.run(this.ground.node, 'bash', ['-c', script, 'bash', path, ...there]);
  }
}
