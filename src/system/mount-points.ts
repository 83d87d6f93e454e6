import { readFile } from 'node:fs/promises';

/** The mount table as this process sees it, from /proc: asking a mount itself could hang. */

export interface MountPoint {
  readonly path: string;
  readonly source: string;
  readonly fsType: string;
}

/** Mounts by mount point; of several on one another the topmost. */
export async function mountPoints(): Promise<ReadonlyMap<string, MountPoint>> {
  const table = new Map<string, MountPoint>();
  for (const line of (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')) {
    // proc(5): ID parent major:minor root mount-point options [optional…] - type source super-options
    const fields = line.split(' ');
    const separator = fields.indexOf('-', 6);
    const path = fields[4];
    if (path === undefined || separator < 0) continue;
    table.set(unescape(path), { path: unescape(path), fsType: fields[separator + 1] ?? '', source: unescape(fields[separator + 2] ?? '') });
  }
  return table;
}

/** The mount that a path lies on. */
export async function mountOf(path: string): Promise<MountPoint> {
  const table = await mountPoints();
  for (let at = path; ; at = at.slice(0, Math.max(at.lastIndexOf('/'), 1))) {
    const found = table.get(at);
    if (found !== undefined) return found;
    if (at === '/' || !at.includes('/')) return { path: '/', source: '', fsType: '' };
  }
}

function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}
