import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { hasCode } from './durable.js';

/** Facts about processes from /proc. */

/** Tells a process from a later one with the same number: the kernel's start time in clock ticks; undefined if it is gone. */
export async function startTime(pid: number): Promise<string | undefined> {
  try {
    const text = await readFile(`/proc/${String(pid)}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ESRCH')) return undefined;
    throw error;
  }
}

/** Changes with every boot of this host. */
export async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

export interface Opener {
  readonly pid: number;
  readonly command: string;
  /** The path that was asked for. */
  readonly path: string;
}

/**
 * Which processes hold one of the paths open, compared by device and inode (or by the device itself for block devices),
 * so that other names and links of the same file count. Paths that do not exist are passed over.
 */
export async function openersOf(paths: readonly string[]): Promise<Opener[]> {
  const wanted = new Map<string, string>();
  for (const path of paths) {
    const key = await identityOf(path);
    if (key !== undefined) wanted.set(key, path);
  }
  if (wanted.size === 0) return [];
  const found: Opener[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const seen = new Set<string>();
    for (const fd of await readdir(`/proc/${entry}/fd`).catch(() => [])) { // the process has just ended, or is a kernel thread
      const key = await identityOf(`/proc/${entry}/fd/${fd}`);
      const path = key === undefined ? undefined : wanted.get(key);
      if (path === undefined || seen.has(path)) continue;
      seen.add(path);
      const command = await readFile(`/proc/${entry}/comm`, 'utf8').catch(() => 'unknown'); // ended meanwhile
      found.push({ pid: Number(entry), command: command.trim(), path });
    }
  }
  return found;
}

async function identityOf(path: string): Promise<string | undefined> {
  try {
    if (path.startsWith('/proc/')) {
      const target = await readlink(path);
      if (!target.startsWith('/')) return undefined; // sockets, pipes, anonymous inodes; a FUSE file is never asked for its status
    }
    const status = await stat(path, { bigint: true });
    if (status.isBlockDevice()) return `b${String(status.rdev)}`;
    return status.isFile() ? `f${String(status.dev)}:${String(status.ino)}` : undefined;
  } catch {
    return undefined; // closed or removed between listing and looking
  }
}
