import { STORE, type Disk, type Ground } from '../ground.js';
import type { Contender, Part } from './contender.js';

/**
 * virtnbdbackup, called on the receiving host: libvirt over ssh, the data over NBD (nothing is encrypted). Its guest runs and has a qcow2 disk with the
 * same content, since dirty bitmaps need that: first a full backup, then incremental ones. What libvirt and QEMU do is not in its processor time.
 */
export class Virtnbdbackup implements Contender {
  readonly name = 'virtnbdbackup';
  readonly kind = 'peer';
  readonly needs = 'virtnbdbackup';
  readonly note = 'virtnbdbackup copies over plain TCP, and reads only what its bitmaps name.';
  readonly #disk = '/var/lib/libvirt/images/virtnbd.qcow2';
  readonly #place = `${STORE}/virtnbd`;
  #level: 'full' | 'inc' = 'full';

  constructor(private readonly ground: Ground) {}

  async forget({ path }: Disk): Promise<void> {
    const { node, target } = this.ground;
    this.#level = 'full';
    await node.run('sh', ['-c', 'virsh destroy "$1"; virsh undefine "$1" --checkpoints-metadata; rm -f -- "$2"', 'sh', GUEST, this.#disk], { okExit: [0, 1] });
    await target.run('rm', ['-rf', '--', this.#place]);
    if (!await node.exists(path)) return;
    await node.run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', path, this.#disk], { timeoutMs: 300_000 });
    await node.writeFile(`/root/${GUEST}.xml`, definition(this.#disk));
    await node.run('virsh', ['define', `/root/${GUEST}.xml`]);
    await node.run('virsh', ['start', GUEST]);
  }

  /** The same places change on its disk; a guest that is shut down keeps its bitmaps. */
  async changed(parts: readonly Part[]): Promise<void> {
    const { node } = this.ground;
    await node.run('virsh', ['destroy', '--graceful', GUEST]);
    await node.run('qemu-io', ['-f', 'qcow2', this.#disk], { input: parts.map(([offset, length]) => `write -q -P 90 ${String(offset)} ${String(length)}\n`).join('') });
    await node.run('virsh', ['start', GUEST]);
  }

  async run(): Promise<undefined> {
    const { processes, target, node } = this.ground;
    await processes.run(target, 'virtnbdbackup', ['--noprogress', '-U', 'qemu+ssh://root@node01/system', '-I', node.address, '-d', GUEST, '-l', this.#level, '-o', this.#place]);
    await target.run('sync', ['-f', STORE]);
    this.#level = 'inc';
  }
}

const GUEST = 'virtnbd';

function definition(disk: string): string {
  return `<domain type='qemu'><name>${GUEST}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk>
<memballoon model='none'/></devices></domain>\n`;
}
