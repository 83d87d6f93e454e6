import { run } from './run.js';

/** A loop device and the file behind it, known by the kernel's numbers: its path may mean nothing in our mount namespace. */
export interface LoopDevice {
  readonly device: string;
  readonly backingFile: string;
  /** `<device number>:<inode>` of the backing file, as in `bigint` stat results. */
  readonly key: string;
}

/** All loop devices in use, through losetup(8). */
export async function loopDevices(): Promise<LoopDevice[]> {
  const { stdout } = await run('losetup', ['--list', '--json', '--output', 'NAME,BACK-FILE,BACK-INO,BACK-MAJ:MIN']);
  if (stdout.trim() === '') return [];
  const parsed: unknown = JSON.parse(stdout);
  const rows = typeof parsed === 'object' && parsed !== null && 'loopdevices' in parsed && Array.isArray(parsed.loopdevices) ? parsed.loopdevices as unknown[] : [];
  return rows.flatMap((row) => {
    if (typeof row !== 'object' || row === null) return [];
    const field = (name: string): string => {
      const value: unknown = Object.entries(row).find(([key]) => key === name)?.[1];
      return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
    };
    const [major, minor] = field('back-maj:min').split(':').map(Number);
    if (major === undefined || minor === undefined || Number.isNaN(major) || Number.isNaN(minor)) return [];
    return [{ device: field('name'), backingFile: field('back-file'), key: `${String(deviceNumber(major, minor))}:${field('back-ino')}` }];
  });
}

/** The number that stat(2) gives for a device's major and minor, as glibc's makedev(3) builds it. */
export function deviceNumber(major: number, minor: number): bigint {
  const [a, b] = [BigInt(major), BigInt(minor)];
  return (b & 0xffn) | ((a & 0xfffn) << 8n) | ((b & 0xfff00n) << 12n) | ((a & 0xfffff000n) << 32n);
}
