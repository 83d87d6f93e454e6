import assert from 'node:assert/strict';
import { until } from '../lab/namespaces.js';
import type { LabHost } from '../lab/host.js';
import { SERVER, SPARE, STORE, TARGET, type Ground } from './ground.js';

/**
 * The promises, looked at from the outside: with sha256sum, getfattr, virsh, findmnt, ls and a virsh create by hand, never through
 * dr-engine. Only what makes a set complete is read from where dr-engine keeps it: that its manifest exists.
 */

/** What is looked at. */
export type Seen = Pick<Ground, 'lab' | 'node' | 'target' | 'guest'>;

/** set → disk file's checksum, of every set that was ever seen complete. */
export type Remembered = Map<string, Readonly<Record<string, string>>>;

interface SlotSeen {
  readonly slot: string;
  /** disk → [set, checksum] */
  readonly disks: Readonly<Record<string, readonly [set: string, sum: string]>>;
}

const DISKS = [`${SERVER}_0`, `${SERVER}_1`];

/** Everything numbered in the store, with checksums made now. */
async function slotsOf(target: LabHost): Promise<SlotSeen[]> {
  const { stdout } = await target.run('sh', ['-c', `cd ${STORE} && for f in ${SERVER}_*_[0-9]*.raw; do [ -e "$f" ] && [ "\${f%_incomplete.raw}" = "$f" ] || continue; ` +
    'printf "%s %s %s\\n" "$f" "$(getfattr --only-values -n user.dr.set "$f" 2>/dev/null || echo none)" "$(sha256sum < "$f" | cut -d" " -f1)"; done']);
  const slots = new Map<string, Record<string, readonly [string, string]>>();
  for (const line of stdout.split('\n').filter((each) => each !== '')) {
    const [file = '', bound = '', sum = ''] = line.split(' ');
    const match = /^(.*)_(\d+)\.raw$/.exec(file.slice(SERVER.length + 1));
    assert.ok(match?.[1] !== undefined && match[2] !== undefined, `an odd name in the store: ${file}`);
    const [set = ''] = bound.split('/');
    slots.set(match[2], { ...slots.get(match[2]), [match[1]]: [set, sum] });
  }
  return [...slots].map(([slot, disks]) => ({ slot, disks }));
}

async function provenSets(target: LabHost): Promise<ReadonlySet<string>> {
  const { stdout } = await target.run('sh', ['-c', `cd ${STORE}/.dr/sets && for s in *; do [ -e "$s/manifest.json" ] && echo "$s"; done; true`], { okExit: [0, 1] });
  return new Set(stdout.split('\n').filter((line) => line !== ''));
}

/** Adds the complete sets that are there now to what is remembered, and gives them newest slot first. */
export async function remember(ground: Seen, remembered: Remembered): Promise<readonly string[]> {
  const proven = await provenSets(ground.target);
  const order: string[] = [];
  for (const { disks } of (await slotsOf(ground.target)).sort((a, b) => Number(a.slot) - Number(b.slot))) {
    const set = disks[DISKS[0] ?? '']?.[0];
    if (set === undefined || !proven.has(set) || DISKS.some((disk) => disks[disk]?.[0] !== set)) continue;
    if (!order.includes(set)) order.push(set); // between two numbers, if a death left it so
    if (!remembered.has(set)) remembered.set(set, Object.fromEntries(DISKS.map((disk) => [disk, disks[disk]?.[1] ?? ''])));
  }
  return order;
}

/** P1 and P3: enough good sets, none of them changed, equal numbers from one capture. */
export async function assertImages(ground: Seen, remembered: Remembered, atLeast: number): Promise<void> {
  const proven = await provenSets(ground.target);
  const good = new Set<string>();
  for (const { slot, disks } of await slotsOf(ground.target)) {
    const sets = new Set(Object.values(disks).map(([set]) => set));
    assert.equal(sets.size, 1, `P3: the images numbered ${slot} are of different captures: ${JSON.stringify(disks)}`);
    const [set = ''] = sets;
    if (!proven.has(set) || DISKS.some((disk) => disks[disk] === undefined)) continue;
    for (const disk of DISKS) {
      const known = remembered.get(set)?.[disk];
      if (known !== undefined) assert.equal(disks[disk]?.[1], known, `P1: ${SERVER}_${disk}_${slot} of set ${set} has changed`);
    }
    good.add(set);
  }
  assert.ok(good.size >= atLeast, `P1: only ${String(good.size)} good sets are left (${[...good].join(', ')}), ${String(atLeast)} were promised`);
}

/** The link leads to a whole, proven set, and what it leads to boots by hand (it is started paused: nothing is written). */
export async function assertCurrent(ground: Seen, { byHand }: { readonly byHand: boolean }): Promise<void> {
  const { target } = ground;
  const proven = await provenSets(target);
  const { stdout } = await target.run('sh', ['-c', `for d in ${DISKS.join(' ')}; do p=$(readlink -f /shared/dr/current/${SERVER}/$d) && [ -f "$p" ] && getfattr --absolute-names --only-values -n user.dr.set "$p" && echo; done`], { okExit: [0, 1] });
  const bound = stdout.trim().split('\n');
  assert.equal(bound.length, DISKS.length, `current leads to ${stdout}`);
  const sets = new Set(bound.map((line) => line.split('/')[0] ?? ''));
  assert.equal(sets.size, 1, `current mixes sets: ${stdout}`);
  assert.ok(proven.has([...sets][0] ?? ''), `current leads to a set that is not proven: ${stdout}`);
  if (!byHand) return;
  await target.run('virsh', ['create', '--paused', `/shared/definitions/${SERVER}.xml`]);
  await target.run('virsh', ['destroy', SERVER]);
}

/** Prints what is not as it was before; nothing if all is well. A shutdown that may have been requested is watched for hours: that is no debt that shows. */
const LOOK_AT_NODE = `
state=$(virsh domstate "$1" 2>&1); [ "$state" = running ] || echo "the server is $state"
virsh domjobinfo "$1" 2>&1 | grep -q "Job type: *None" || echo "it has a job"
for exe in /proc/[0-9]*/exe; do case $(readlink "$exe") in */qemu-storage-daemon*) echo "a storage daemon is left: $exe";; esac; done
findmnt -rn -o TARGET | grep -E "dr-engine/|dr_cache" | sed "s/^/mounted: /"
find /var/lib/dr-engine/owed -name "[0-9]*-*.json" -exec grep -LE '"wentDown": ?false' {} + 2>/dev/null | sed "s/^/owed: /"
ls /var/lib/libvirt/dr-engine 2>/dev/null | sed "s/^/scratch: /"
true`;

/** P6: within 30 s production is as it was before, and nothing of ours is left on the node. */
export async function assertProduction(ground: Seen, timeoutMs = 30_000): Promise<void> {
  const { node, guest } = ground;
  // One program per look: the campaigns look often, and on two cores that counts.
  const wrong = async (): Promise<string | undefined> => {
    const { stdout } = await node.run('sh', ['-c', LOOK_AT_NODE, 'sh', SERVER], { okExit: [0, 1, 123] });
    return stdout.trim() === '' ? undefined : stdout.trim();
  };
  let last: string | undefined;
  await until('production to be back', async () => {
    last = await wrong();
    return last === undefined ? true : undefined;
  }, timeoutMs).catch(() => { assert.fail(`P6: after ${String(timeoutMs / 1000)} s ${last ?? ''}`); });
  await guest.beats(1, 90_000); // it lives: it may have to boot first, but nothing is frozen
}

/** P7: nothing runs on the target, nothing is defined there; and the server runs on one node only. */
export async function assertNoTwin(ground: Seen): Promise<void> {
  for (const host of ground.lab.hosts.filter(({ name }) => name === TARGET || name === SPARE)) {
    assert.equal((await host.run('virsh', ['list', '--all', '--name'])).stdout.trim(), '', `P7: a domain is on ${host.name}`);
  }
}

const STRANGERS = [`${STORE}/notes.txt`, `${STORE}/Other_disk_1.raw`, `${STORE}/${SERVER}_notes.raw`, '/shared/definitions/Other.xml', '/shared/dr/current/README'];

/** Puts things beside ours that are not ours. */
export async function addStrangers(ground: Seen): Promise<string> {
  for (const path of STRANGERS) await ground.target.writeFile(path, `${path} is not dr-engine's\n`);
  return sumOfStrangers(ground);
}

/** The admin tunes the published definition. */
export async function tuneDefinition(ground: Seen): Promise<void> {
  await ground.target.run('sed', ['-i', 's|</domain>|<!-- tuned by hand: keep -->\\n</domain>|', `/shared/definitions/${SERVER}.xml`]);
}

export async function sumOfStrangers(ground: Seen): Promise<string> {
  return (await ground.target.run('sha256sum', [...STRANGERS, `/shared/definitions/${SERVER}.xml`], { okExit: [0, 1] })).stdout;
}
