import assert from 'node:assert/strict';
import { join } from 'node:path';
import { hostDirectory } from '../lab/layout.js';
import type { Lab } from '../lab/lab.js';
import type { Guest, GuestDiskMade } from '../lab/guest.js';
import type { LabHost, Started } from '../lab/host.js';
import { until } from '../lab/namespaces.js';

/** Looks at hosts with b2sum, getfattr, ls, cmp, qemu-img and virsh: what dr-engine says of itself is no evidence here. */

export interface FileSeen {
  readonly name: string;
  readonly inode: string;
  readonly bytes: number;
  /** Blocks of 512 bytes that it occupies. */
  readonly blocks: number;
  /** The capture that is bound to the file, and the disk. */
  readonly set: string;
  readonly disk: string;
  readonly sum: string;
}

/** Every image file of a server in a store, by name without suffix, with checksums made now. */
export async function files(target: LabHost, server: string, store = '/srv/dr'): Promise<ReadonlyMap<string, FileSeen>> {
  const { stdout } = await target.run('sh', ['-c', 'cd "$1" && for f in "$2"_*.raw; do [ -e "$f" ] || continue; ' +
    'printf "%s %s %s %s\\n" "${f%.raw}" "$(stat -c "%i %s %b" "$f")" "$(getfattr --only-values -n user.dr.set "$f" 2>/dev/null || echo none/none)" "$(b2sum < "$f" | cut -d" " -f1)"; done', 'sh', store, server], { timeoutMs: 120_000 });
  return new Map(stdout.split('\n').filter((line) => line !== '').map((line) => {
    const [name = '', inode = '', bytes = '', blocks = '', bound = '', sum = ''] = line.split(' ');
    const [set = '', disk = ''] = bound.split('/');
    return [name, { name, inode, bytes: Number(bytes), blocks: Number(blocks), set, disk, sum }];
  }));
}

export interface VolumeSeen {
  readonly name: string;
  readonly group: string;
  readonly uuid: string;
  readonly bytes: number;
  /** The capture that is bound to the volume, and the disk; empty if none is. */
  readonly set: string;
  readonly disk: string;
  /** Of its first `dr.bytes`. */
  readonly sum: string;
}

/** Every logical volume whose name begins with a server's, by name, with checksums made now past the page cache. */
export async function volumes(target: LabHost, server: string): Promise<ReadonlyMap<string, VolumeSeen>> {
  const { stdout } = await target.run('sh', ['-c', 'lvs --noheadings --units b --nosuffix --separator " " -o lv_name,vg_name,lv_uuid,lv_size,lv_tags | while read -r name group uuid size tags; do ' +
    'case $name in "$1"_*) ;; *) continue;; esac; bytes=$(echo "$tags" | tr , "\\n" | sed -n "s/^dr.bytes=//p"); set=$(echo "$tags" | tr , "\\n" | sed -n "s/^dr.set=//p"); ' +
    'echo "$name $group $uuid $size ${set:-/} $(dd if="/dev/$group/$name" bs=1M iflag=direct,count_bytes count="${bytes:-$size}" status=none | sha256sum | cut -d" " -f1)"; done', 'sh', server], { timeoutMs: 180_000 });
  return new Map(stdout.split('\n').filter((line) => line !== '').map((line) => {
    const [name = '', group = '', uuid = '', bytes = '', bound = '', sum = ''] = line.split(' ');
    const [set = '', disk = ''] = bound.split('/');
    return [name, { name, group, uuid, bytes: Number(bytes), set, disk, sum }];
  }));
}

/** Names in a directory, sorted; none if it is not there. */
export async function names(host: LabHost, directory: string): Promise<string[]> {
  const { stdout } = await host.run('ls', ['-1A', directory], { okExit: [0, 2] });
  return stdout.split('\n').filter((name) => name !== '').sort();
}

/** Names of sets whose manifest is there. */
export async function provenSets(target: LabHost, catalog = '/srv/dr/.dr'): Promise<ReadonlySet<string>> {
  const { stdout } = await target.run('sh', ['-c', 'cd "$1/sets" && for s in *; do [ -e "$s/manifest.json" ] && echo "$s"; done; true', 'sh', catalog], { okExit: [0, 1, 2] });
  return new Set(stdout.split('\n').filter((line) => line !== ''));
}

/** One checksum of everything below some paths of a host: content, names, owners, modes, times, extended attributes, links. */
export async function sumOf(host: LabHost, ...paths: readonly string[]): Promise<string> {
  const { stdout } = await host.run('sh', ['-c', '{ find "$@" -printf "%p %y %i %s %T@ %C@ %m %u %l %n\\n" 2>/dev/null | sort; find "$@" -type f -exec b2sum {} + 2>/dev/null | sort; ' +
    'getfattr -R -d --absolute-names "$@" 2>/dev/null; } ', 'sh', ...paths], { okExit: [0, 1], timeoutMs: 120_000 });
  return stdout;
}

/** The image equals the source byte for byte. The source's guest must be off; whatever its format, qemu-img reads it. */
export async function assertEqual(lab: Lab, source: { readonly host: LabHost; readonly disk: Pick<GuestDiskMade, 'path' | 'format'> }, target: LabHost, image: string): Promise<void> {
  const path = `/srv/dr/${image}.raw`;
  // The lab's directory is the same place in all hosts that are namespaces.
  const shared = join(hostDirectory(lab.directory, source.host.name), 'tmp', 'compare.raw');
  await target.run('cp', ['--sparse=always', path, shared]);
  const { exitCode, stdout, stderr } = await source.host.run('qemu-img', ['compare', '-f', source.disk.format, '-F', 'raw', source.disk.path, shared], { okExit: [0, 1, 2] });
  assert.equal(exitCode, 0, `${image} differs from ${source.disk.path}: ${stdout}${stderr}`);
  assert.doesNotMatch(stdout + stderr, /size/i, `${image} is not of the size of ${source.disk.path}: ${stdout}${stderr}`);
  if (source.disk.format === 'raw') await source.host.run('cmp', [source.disk.path, shared]);
  await source.host.run('rm', [shared]);
}

/** What virsh on a host saw happen to domains, in order. */
export class Lifecycle {
  private constructor(readonly started: Started) {}

  static async watch(host: LabHost): Promise<Lifecycle> {
    const started = await host.spawn('virsh', ['event', '--loop', '--all', '--timestamp']);
    const lifecycle = new Lifecycle(started);
    await until('virsh event to listen', async () => (await host.run('sh', ['-c', 'ls -l /proc/"$1"/fd 2>/dev/null | grep -c socket', 'sh', String(started.pid)], { okExit: [0, 1] })).exitCode === 0 ? true : undefined);
    return lifecycle;
  }

  /** `Db01 Stopped`, `Db01 Started`, … with the time and the reason. */
  get events(): readonly { readonly at: number; readonly server: string; readonly what: string; readonly why: string }[] {
    return [...this.started.stdout().matchAll(/^(\S+) (\S+)\+0000: event 'lifecycle' for domain '([^']+)': (\S+) (.*)$/gm)]
      .map(([, day = '', time = '', server = '', what = '', why = '']) => ({ at: Date.parse(`${day}T${time}Z`), server, what, why }));
  }

  /** Only stops and starts: `-Db01` and `+Db01`. */
  get flips(): string {
    return this.events.flatMap(({ server, what }) => what === 'Stopped' ? [`-${server}`] : what === 'Started' ? [`+${server}`] : []).join(' ');
  }

  at(server: string, what: 'Stopped' | 'Started'): number {
    const found = this.events.find((event) => event.server === server && event.what === what);
    assert.ok(found, `${server} was never ${what.toLowerCase()}: ${this.started.stdout()}`);
    return found.at;
  }

  async end(): Promise<void> {
    await this.started.kill('SIGTERM');
    await this.started.exit;
  }
}

/** When a file was last written, in milliseconds since 1970. */
export async function writtenAt(host: LabHost, path: string): Promise<number> {
  return Number((await host.run('stat', ['-c', '%.Y', path])).stdout) * 1000;
}

/** Starts a server by hand from what its definition names, without letting it run, and ends it: nothing is written. */
export async function createByHand(target: LabHost, server: string): Promise<void> {
  await target.run('virsh', ['create', '--paused', `/shared/definitions/${server}.xml`]);
  assert.equal((await target.run('virsh', ['domstate', server])).stdout.trim(), 'paused');
  await target.run('virsh', ['destroy', server]);
}

/** Writes a pattern over a guest's disk that is off. */
export async function fill(guest: Guest, disk: number, ...commands: readonly string[]): Promise<void> {
  const made = guest.disks[disk];
  assert.ok(made);
  await guest.host.run('qemu-io', ['-f', made.format, ...commands.flatMap((command) => ['-c', command]), made.path]);
}
