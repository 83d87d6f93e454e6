import { STORE, type Disk, type Ground } from '../ground.js';
import type { Contender } from './contender.js';

/** rsync over ssh, changing the copy in place; holes stay holes; durable at the end. Without quick checks: a guest's disk always looks changed. */
export class Rsync implements Contender {
  readonly name = 'rsync --inplace';
  readonly kind = 'peer';
  readonly needs = 'rsync';
  readonly copy = `${STORE}/rsync.raw`;

  constructor(private readonly ground: Ground) {}

  async forget(): Promise<void> {
    await this.ground.target.run('rm', ['-f', '--', this.copy]);
  }

  async run({ path }: Disk): Promise<undefined> {
    await this.ground.processes.run(this.ground.node, 'rsync', ['--inplace', '--sparse', '--ignore-times', '--fsync', '--', path, `dr01:${this.copy}`]);
  }
}
