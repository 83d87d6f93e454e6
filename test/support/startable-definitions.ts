import { existsSync } from 'node:fs';
import type { Wanted } from '../../src/definitions/rewrite.js';
import { definitionCase } from './definition-cases.js';

/** A golden definition that starts anywhere under TCG, without devices of a host: `virsh create` after rewriting boots it from images of a store. */
export interface StartableDefinition {
  /** Name of the golden case. */
  readonly name: string;
  readonly server: string;
  /** The source's definition. */
  readonly xml: string;
  /** By device name, with the name that images bear. */
  readonly disks: readonly { readonly target: string; readonly disk: string; readonly bytes: number }[];
  /** A template for the UEFI variables that the set must hold, if it boots with UEFI. */
  readonly nvram?: string;
  /** The disk whose boot sector the BIOS runs; absent for UEFI. */
  readonly boots?: string;
  /** Files of the host without which it can't start. */
  readonly needs: readonly string[];
}

const OVMF = ['/usr/share/OVMF/OVMF_CODE_4M.fd', '/usr/share/OVMF/OVMF_VARS_4M.fd'] as const;
const MIB = 1024 * 1024;

function startable(name: string, { boots, needs = [] }: { readonly boots?: string; readonly needs?: readonly string[] } = {}): StartableDefinition {
  const { input, wanted } = definitionCase(name);
  return {
    name,
    server: wanted.server,
    xml: input,
    disks: wanted.disks.map(({ target, link }, index) => ({ target, disk: link.slice(link.lastIndexOf('/') + 1), bytes: (4 + index) * MIB })),
    ...(wanted.nvram === undefined ? {} : { nvram: OVMF[1] }),
    ...(boots === undefined ? {} : { boots }),
    needs: wanted.nvram === undefined ? needs : [...OVMF, ...needs],
  };
}

export const STARTABLE_DEFINITIONS: readonly StartableDefinition[] = [
  startable('plain', { boots: 'vda' }),
  startable('boot-order', { boots: 'vdb' }),
  startable('cdrom', { boots: 'vda' }),
  startable('comments', { boots: 'vda' }),
  startable('cpu-numa', { boots: 'vda' }),
  startable('crlf'),
  startable('disk-tuning', { boots: 'sda' }),
  startable('floppy', { boots: 'hda' }),
  startable('iothreads', { boots: 'vda' }),
  startable('many-buses', { boots: 'hda' }),
  startable('metadata', { boots: 'vda' }),
  startable('odd-whitespace', { boots: 'vda' }),
  startable('pci-addresses', { boots: 'vda' }),
  startable('processing-instructions', { boots: 'vda' }),
  startable('qemu-commandline', { boots: 'vda' }),
  startable('serial-channels', { boots: 'vda' }),
  startable('tpm', { boots: 'sda', needs: ['/usr/bin/swtpm'] }),
  startable('uefi-autoselect'),
  startable('uefi-nvram'),
  startable('utf8', { boots: 'vda' }),
  startable('windows', { boots: 'hda' }),
];

/** What is missing on this machine to start it; empty if nothing is. */
export function missingFor({ needs }: StartableDefinition): readonly string[] {
  return needs.filter((path) => !existsSync(path));
}

/** What a file-system store wants of it. */
export function wantedOf({ server, disks, nvram }: StartableDefinition, current: string): Wanted {
  return {
    server,
    disks: disks.map(({ target, disk }) => ({ target, link: `${current}/${server}/${disk}` })),
    ...(nvram === undefined ? {} : { nvram: `${current}/${server}/nvram` }),
  };
}

/**
 * A boot sector that copies itself to the second sector of the disk it was booted from, and halts: proof in the image that the
 * guest ran from it. `xor ax,ax; mov ds,ax; mov si,packet; mov ah,0x43; int 0x13; halt: hlt; jmp halt`.
 */
export function bootSector(): Buffer {
  const sector = Buffer.alloc(512);
  sector.set([0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x10, 0x7c, 0xb4, 0x43, 0xcd, 0x13, 0xf4, 0xeb, 0xfd]);
  // disk address packet: its size, one sector, from 0000:7c00, to block 1
  sector.set([16, 0, 1, 0, 0x00, 0x7c, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], 0x10);
  sector.set([0x55, 0xaa], 510);
  return sector;
}
