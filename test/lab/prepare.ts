import { randomUUID } from 'node:crypto';
import { chmod, copyFile, mkdir, open, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { run } from '../../src/system/run.js';
import { cacheDirectory, CHECKOUT, hostDirectory, type HostRecord } from './layout.js';

/** Files that a host finds when it boots: its configuration, its keys and its empty disks. */

export interface StoreOptions {
  /** Size of the target's store; sparse. Default 8192. */
  readonly sizeMiB?: number;
  /** Default ext4. */
  readonly fs?: 'ext4' | 'xfs';
}

/** `/usr/local` for `/usr/local/bin/node`: what must be visible in a host so that node runs there. */
const nodePrefix = dirname(dirname(process.execPath));
const nodeBin = dirname(process.execPath);
export const HOST_PATH = [...new Set(['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin', nodeBin])].join(':');

/** One key pair for all hosts of a lab, as host key and as root's key: every host knows and trusts every other one. */
export async function makeKeys(lab: string): Promise<void> {
  await mkdir(join(lab, 'keys'), { recursive: true, mode: 0o700 });
  for (const name of ['host', 'root']) {
    await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', `lab-${name}`, '-f', join(lab, 'keys', name)]);
  }
}

const sshdConfig = `HostKey /etc/ssh/ssh_host_ed25519_key
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
MaxStartups 100
MaxSessions 100
PidFile /run/sshd.pid
SetEnv PATH=${HOST_PATH}
Subsystem sftp internal-sftp
`;

// The cheapest key exchange: a run makes half a dozen connections, and a campaign a hundred runs.
const sshConfig = `Host *
  StrictHostKeyChecking yes
  KexAlgorithms curve25519-sha256
`;

const qemuConf = `# No cgroups and no other users in a lab: its hosts share one kernel.
cgroup_controllers = []
user = "root"
group = "root"
dynamic_ownership = 1
remember_owner = 0
security_driver = "none"
`;

const libvirtdConf = `auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:file:/var/log/libvirtd.log"
`;

const wrapper = (program: string): string => `#!/bin/sh
# ${program} of the checkout, with what the tests set for this host.
if [ -r /etc/dr/lab.env ]; then set -a; . /etc/dr/lab.env; set +a; fi
exec ${process.execPath} ${join(CHECKOUT, 'bin', program)} "$@"
`;

/** Writes everything of one host; `all` are the hosts of the lab. */
export async function prepareHost(lab: string, host: HostRecord, all: readonly HostRecord[], store: StoreOptions): Promise<void> {
  const home = hostDirectory(lab, host.name);
  const at = (...parts: readonly string[]): string => join(home, ...parts);
  for (const directory of ['etc/ssh', 'etc-libvirt', 'etc-dr', 'bin', 'var-lib-libvirt/images', 'dr-engine', 'log/guests', 'log/libvirt/qemu', 'log/swtpm/libvirt/qemu', 'tmp', 'home/.ssh', 'shared/definitions', 'steps']) {
    await mkdir(at(directory), { recursive: true });
  }
  await chmod(at('dr-engine'), 0o700);
  await mkdir(cacheDirectory('libvirt-capabilities'), { recursive: true });

  await writeFile(at('etc/hostname'), `${host.name}\n`);
  // No password, and yet not locked: sshd without PAM asks for this line.
  await writeFile(at('etc/shadow'), 'root:*:19000:0:99999:7:::\n', { mode: 0o600 });
  await writeFile(at('etc/machine-id'), `${randomUUID().replaceAll('-', '')}\n`);
  await writeFile(at('etc/hosts'), `127.0.0.1 localhost\n${all.map(({ name, address }) => `${address} ${name}\n`).join('')}`);
  await copyFile(join(lab, 'keys/host'), at('etc/ssh/ssh_host_ed25519_key'));
  await writeFile(at('etc/ssh/sshd_config'), sshdConfig);
  await writeFile(at('etc/ssh/ssh_config'), sshConfig);
  await copyFile(join(lab, 'keys/root'), at('home/.ssh/id_ed25519'));
  await chmod(at('home/.ssh/id_ed25519'), 0o600);
  await copyFile(join(lab, 'keys/root.pub'), at('home/.ssh/authorized_keys'));
  const names = all.flatMap(({ name, address }) => [name, address]).join(',');
  const hostKey = await run('cat', [join(lab, 'keys/host.pub')]);
  await writeFile(at('home/.ssh/known_hosts'), `${names} ${hostKey.stdout}`);
  await writeFile(at('etc-libvirt/qemu.conf'), qemuConf);
  await writeFile(at('etc-libvirt/libvirtd.conf'), `${libvirtdConf}host_uuid = "${randomUUID()}"\n`);
  // Hosts share the kernel's block devices; this list is what each may take for its own drives.
  await writeFile(at('etc-dr/devices'), '');
  for (const program of ['dr', 'dr-activate']) await writeFile(at('bin', program), wrapper(program), { mode: 0o755 });
  if (host.role === 'target') await makeImage(at('store.img'), store.sizeMiB ?? 8192, store.fs ?? 'ext4');

  await writeFile(at('host.env'), [
    `HOST_NAME='${host.name}'`, `ADDRESS='${host.address}'`, `ROLE='${host.role}'`, `CHECKOUT='${CHECKOUT}'`, `LAB_DIR='${lab}'`,
    `NODE_PREFIX='${nodePrefix}'`, `CACHE='${cacheDirectory()}'`, `STORE_OPTIONS='noatime'`,
  ].join('\n') + '\n');
}

/** What is new with every boot: the boot ID, and no trace of the last boot. */
export async function freshBoot(lab: string, host: string): Promise<void> {
  const home = hostDirectory(lab, host);
  await writeFile(join(home, 'boot_id'), `${randomUUID()}\n`);
  await rm(join(home, 'ready'), { force: true });
}

export type FileSystem = 'ext4' | 'xfs' | 'btrfs' | 'vfat';

/** A sparse file with a file system in it; an ext4 one can be filled with what is in a directory. */
export async function makeImage(path: string, sizeMiB: number, fs: FileSystem, content?: string): Promise<void> {
  const handle = await open(path, 'w');
  await handle.truncate(sizeMiB * 1024 * 1024);
  await handle.close();
  const make: Record<FileSystem, readonly [string, ...string[]]> = {
    ext4: ['mkfs.ext4', '-q', '-F', '-E', 'lazy_itable_init=1,lazy_journal_init=1,nodiscard', '-m', '0', '-e', 'remount-ro'],
    xfs: ['mkfs.xfs', '-q', '-f', '-K'],
    btrfs: ['mkfs.btrfs', '-q', '-f', '-K'],
    vfat: ['mkfs.vfat', '-F', '32'],
  };
  const [program, ...args] = make[fs];
  await run(program, [...args, ...(content === undefined ? [] : ['-d', content]), path], { timeoutMs: 60_000 });
}
