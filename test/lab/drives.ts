import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { run } from '../../src/system/run.js';
import { until } from './namespaces.js';
import { makeImage, type FileSystem } from './prepare.js';

/** Drives: image files behind loop devices. */

export interface DriveOptions {
  /** Default 512. XFS wants at least 300, btrfs 128. */
  readonly sizeMiB?: number;
  /** Default ext4. */
  readonly fs?: FileSystem;
  /** Name of the signature file in the root; `null` for none. Default `.dr_cache`. */
  readonly signature?: string | null;
}

/** Makes a drive and attaches it; gives the device's path. */
export async function makeDrive(image: string, options: DriveOptions): Promise<string> {
  await mkdir(dirname(image), { recursive: true });
  const fs = options.fs ?? 'ext4';
  await makeImage(image, options.sizeMiB ?? 512, fs);
  const signature = options.signature === undefined ? '.dr_cache' : options.signature;
  if (signature !== null) {
    // A mount namespace of its own: the machine never sees this mount.
    const mountPoint = `${image}.mnt`;
    await mkdir(mountPoint, { recursive: true });
    await run('unshare', ['--mount', '--propagation', 'private', 'sh', '-ec', 'mount -o loop "$1" "$2"; : > "$2/$3"; umount "$2"', 'sh', image, mountPoint, signature]);
    await rm(mountPoint, { recursive: true });
    await letGo(image);
  }
  return attach(image);
}

async function attach(image: string): Promise<string> {
  return (await run('losetup', ['--find', '--show', image])).stdout.trim();
}

/** Waits until no loop device shows the file any more: the kernel lets go of them in the background. */
async function letGo(image: string): Promise<void> {
  await until(`${image} to be let go`, async () => (await run('losetup', ['--associated', image])).stdout.trim() === '' ? true : undefined);
}

/** Detaches every loop device that shows a file below the directory, recorded or not. */
export async function detachBelow(directory: string): Promise<void> {
  const all = await loopDevices();
  for (const { device, image } of all) {
    if (image.startsWith(`${directory}/`)) await run('losetup', ['--detach', device], { okExit: [0, 1] });
  }
  await until(`the loop devices of ${directory} to go`, async () =>
    (await loopDevices()).some(({ image }) => image.startsWith(`${directory}/`)) ? undefined : true);
}

export async function loopDevices(): Promise<readonly { readonly device: string; readonly image: string }[]> {
  const { stdout } = await run('losetup', ['--list', '--noheadings', '--raw', '--output', 'NAME,BACK-FILE']);
  return stdout.split('\n').filter((line) => line !== '').map((line) => {
    const [device = '', ...image] = line.split(' ');
    return { device, image: image.join(' ').replace(/ \(deleted\)$/, '') };
  });
}

/** The image file of a drive. */
export function driveImage(host: string, index: number): string {
  return join(host, 'drives', `drive${String(index)}.img`);
}
