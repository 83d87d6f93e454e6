import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../src/system/run.js';

/** Drives of any size for tests: loop devices on sparse files. Needs root. Everything is taken down by `remove`. */
export class LoopDrives {
  readonly directory: string;
  readonly #devices: string[] = [];
  readonly #mounts: string[] = [];
  #count = 0;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async make(): Promise<LoopDrives> {
    return new LoopDrives(await mkdtemp(join(tmpdir(), 'drives-')));
  }

  /** The file behind the next drive, with a file system in it. */
  async image(fsType: 'ext4' | 'xfs' | 'btrfs' | 'swap', mebibytes: number, files: readonly string[] = []): Promise<string> {
    this.#count += 1;
    const path = join(this.directory, `drive${String(this.#count)}.img`);
    await writeFile(path, '');
    await truncate(path, mebibytes * 2 ** 20);
    if (fsType === 'swap') await run('mkswap', [path]);
    else await run(`mkfs.${fsType}`, [...(fsType === 'ext4' ? ['-Fq'] : fsType === 'btrfs' ? ['-q'] : ['-qf']), path]);
    if (files.length > 0) {
      const at = await this.mount(path, ['loop']);
      for (const file of files) await (file.endsWith('/') ? mkdir(join(at, file)) : writeFile(join(at, file), ''));
      await this.unmount(at);
    }
    return path;
  }

  async attach(image: string, options: readonly string[] = []): Promise<string> {
    const device = (await run('losetup', ['--find', '--show', ...options, image])).stdout.trim();
    this.#devices.push(device);
    return device;
  }

  /** A drive that is not mounted. */
  async drive(fsType: 'ext4' | 'xfs' | 'btrfs' | 'swap', mebibytes: number, files: readonly string[] = []): Promise<string> {
    return this.attach(await this.image(fsType, mebibytes, files));
  }

  async mount(source: string, options: readonly string[] = []): Promise<string> {
    const at = await mkdtemp(join(this.directory, 'mnt-'));
    await run('mount', ['-o', ['rw', ...options].join(','), source, at]);
    this.#mounts.push(at);
    return at;
  }

  async unmount(at: string): Promise<void> {
    await run('umount', [at]);
    this.#mounts.splice(this.#mounts.indexOf(at), 1);
  }

  async remove(): Promise<void> {
    for (const at of [...this.#mounts].reverse()) await this.unmount(at);
    for (const device of this.#devices) await run('losetup', ['--detach', device]);
    await rm(this.directory, { recursive: true });
  }
}
