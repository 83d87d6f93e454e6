import { STORE, type Disk, type Ground } from '../ground.js';
import type { Contender } from './contender.js';

/** Backup programs that keep a repository at the other end. Their later runs look at the whole disk again, as ours do: it always looks changed. */

interface Program {
  readonly name: string;
  readonly init: readonly [string, ...string[]];
  readonly backup: (path: string) => readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
}

class Repository implements Contender {
  readonly kind = 'peer';
  readonly name: string;
  readonly needs: string;

  constructor(private readonly ground: Ground, private readonly program: Program, private readonly place: string) {
    this.name = program.name;
    this.needs = program.name;
  }

  async forget(): Promise<void> {
    await this.ground.target.run('rm', ['-rf', '--', this.place]);
    await this.ground.node.run('rm', ['-rf', '--', '/root/.cache', '/root/.config/borg']);
    const [program, ...args] = this.program.init;
    await this.ground.node.run(program, args, { env: this.program.env });
  }

  async run({ path }: Disk): Promise<undefined> {
    await this.ground.node.run('touch', ['--', path]);
    const [program, ...args] = this.program.backup(path);
    await this.ground.processes.run(this.ground.node, program, args, this.program.env);
    await this.ground.target.run('sync', ['-f', STORE]);
  }
}

export function repositories(ground: Ground): readonly Contender[] {
  const restic = ['restic', '--quiet', '--repo', `sftp:dr01:${STORE}/restic`] as const;
  const borg = `dr01:${STORE}/borg`;
  return [
    new Repository(ground, {
      name: 'restic', env: { RESTIC_PASSWORD: 'bench' }, init: [...restic, 'init'], backup: (path) => [...restic, 'backup', path],
    }, `${STORE}/restic`),
    new Repository(ground, {
      name: 'borg', env: { BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: 'yes', BORG_RELOCATED_REPO_ACCESS_IS_OK: 'yes' },
      init: ['borg', 'init', '--encryption=none', borg], backup: (path) => ['borg', 'create', '--files-cache=mtime,size', `${borg}::{utcnow:%s.%f}`, path],
    }, `${STORE}/borg`),
  ];
}
