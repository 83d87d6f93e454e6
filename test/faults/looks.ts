import assert from 'node:assert/strict';
import type { LabHost } from '../lab/host.js';
import { SERVER, STORE } from './cast.js';

/** How the two kinds of store are looked at from the outside. One program per look, and the quickest checksum at hand: the campaigns look often. */

export interface ImageSeen {
  readonly slot: string;
  readonly disk: string;
  readonly set: string;
  /** Made now. */
  readonly sum: string;
}

export interface StoreLook {
  /** As the configuration names it. */
  readonly ref: string;
  /** Everything numbered, and the sets that have a manifest. */
  look(target: LabHost): Promise<{ readonly images: readonly ImageSeen[]; readonly proven: ReadonlySet<string> }>;
  /** The set that each link leads to an image of; fewer than the links if one leads nowhere. */
  linked(target: LabHost, links: readonly string[]): Promise<readonly string[]>;
  /** Where the records of the sets are. */
  readonly catalog: string;
  /** Shell that makes things beside ours that are not ours, and shell that prints what tells whether they are unharmed. */
  readonly makeStrangers: string;
  readonly printStrangers: string;
}

const PROVEN = 'for manifest in "$CATALOG"/sets/*/manifest.json; do [ ! -e "$manifest" ] || { set=${manifest%/*}; echo "proven ${set##*/}"; }; done; true';

const FILES_BESIDE = [`${STORE}/notes.txt`, `${STORE}/Other_disk_1.raw`, `${STORE}/${SERVER}_notes.raw`].join(' ');

export const FILES: StoreLook = {
  ref: `fs:${STORE}`,
  catalog: `${STORE}/.dr`,
  look: async (target) => {
    const { stdout } = await target.run('sh', ['-c', `
cd "$1" || exit; CATALOG=$1/.dr
for image in "$2"_*_[0-9]*.raw; do case $image in *_incomplete.raw) ;; *) [ ! -e "$image" ] || set -- "$@" "$image" ;; esac; done
shift 2
[ $# = 0 ] || { getfattr --name=user.dr.set -- "$@" 2>/dev/null; b2sum -- "$@"; }
${PROVEN}`, 'sh', STORE, SERVER], { timeoutMs: 120_000 });
    const bound = new Map([...stdout.matchAll(/^# file: (.+)\nuser\.dr\.set="([^"]*)"$/gm)].map(([, file = '', set = '']) => [file, set]));
    const sums = [...stdout.matchAll(/^([0-9a-f]{128}) {2}(.+)\.raw$/gm)];
    return { images: sums.map(([, sum = '', name = '']) => imageSeen(name, bound.get(`${name}.raw`) ?? 'none', sum)), proven: provenIn(stdout) };
  },
  linked: async (target, links) => {
    const { stdout } = await target.run('sh', ['-c', 'for l in "$@"; do p=$(readlink -f "$l") && [ -f "$p" ] && getfattr --absolute-names --only-values -n user.dr.set "$p" && echo; done', 'sh', ...links], { okExit: [0, 1] });
    return setsIn(stdout);
  },
  makeStrangers: `for f in ${FILES_BESIDE}; do echo "$f is not of dr-engine" > "$f"; done`,
  printStrangers: `sha256sum ${FILES_BESIDE}`,
};

/** For a target whose store is `vg:vg0,vg1`. */
export const VOLUMES: StoreLook = {
  ref: 'vg:vg0,vg1',
  catalog: '/var/lib/dr-engine/volumes',
  look: async (target) => {
    const { stdout } = await target.run('sh', ['-c', `
CATALOG=/var/lib/dr-engine/volumes
lvs --noheadings --options lv_path,lv_tags vg0 vg1
set -- $(ls -d /dev/vg0/"$1"_*_[0-9] /dev/vg1/"$1"_*_[0-9] 2>/dev/null)
[ $# = 0 ] || { blockdev --flushbufs "$@"; b2sum "$@"; } # what the devices hold, not what is in memory
${PROVEN}`, 'sh', SERVER], { timeoutMs: 180_000 });
    const bound = new Map([...stdout.matchAll(/^ *(\/dev\/\S+) .*\bdr\.set=([^,\s]*)/gm)].map(([, path = '', set = '']) => [path, set]));
    // The images of this ground fill their volumes.
    const sums = [...stdout.matchAll(/^([0-9a-f]{128}) {2}(\S+)$/gm)];
    return { images: sums.map(([, sum = '', path = '']) => imageSeen(path.split('/').at(-1) ?? '', bound.get(path) ?? 'none', sum)), proven: provenIn(stdout) };
  },
  linked: async (target, links) => {
    const { stdout } = await target.run('sh', ['-c', 'for l in "$@"; do p=$(readlink -f "$l") && [ -b "$p" ] && lvs --noheadings -o lv_tags --select "lv_kernel_minor=${p#/dev/dm-}" | tr -s " ," "\\n\\n" | sed -n "s/^dr.set=//p"; done; true', 'sh', ...links], { timeoutMs: 60_000 });
    return setsIn(stdout);
  },
  makeStrangers: `lvcreate -qq -y -L 4M -n ${SERVER}_notes vg0; lvcreate -qq -y -L 4M -n Other_disk_1 vg1; for v in vg0/${SERVER}_notes vg1/Other_disk_1; do echo "$v is not of dr-engine" > /dev/$v; done`,
  printStrangers: `lvs --noheadings -o vg_name,lv_name,lv_uuid,lv_size,lv_tags vg0/${SERVER}_notes vg1/Other_disk_1; for v in vg0/${SERVER}_notes vg1/Other_disk_1; do head -c 100 /dev/$v | sha256sum; done`,
};

function imageSeen(name: string, bound: string, sum: string): ImageSeen {
  const match = /^(.*)_(\d+)$/.exec(name.slice(SERVER.length + 1));
  assert.ok(match?.[1] !== undefined && match[2] !== undefined, `an odd name in the store: ${name}`);
  return { disk: match[1], slot: match[2], set: bound.split('/')[0] ?? '', sum };
}

function provenIn(text: string): ReadonlySet<string> {
  return new Set([...text.matchAll(/^proven (.+)$/gm)].map(([, set = '']) => set));
}

function setsIn(text: string): readonly string[] {
  return text.split('\n').filter((line) => line !== '').map((line) => line.split('/')[0] ?? '');
}
