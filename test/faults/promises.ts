import assert from 'node:assert/strict';
import { until } from '../lab/namespaces.js';
import { SERVER, SPARE, type Ground } from './ground.js';

/**
 * The promises, looked at from the outside: with b2sum, getfattr, virsh, findmnt, ls and a virsh create by hand, never through
 * dr-engine. Only what makes a set complete is read from where dr-engine keeps it: that its manifest exists.
 */

/** What is looked at. */
export type Seen = Pick<Ground, 'lab' | 'node' | 'target' | 'guest' | 'look'>;

/** set → disk file's checksum, of every set that was ever seen complete. */
export type Remembered = Map<string, Readonly<Record<string, string>>>;

interface SlotSeen {
  readonly slot: string;
  /** disk → [set, checksum] */
  readonly disks: Readonly<Record<string, readonly [set: string, sum: string]>>;
}

const DISKS = [`${SERVER}_0`, `${SERVER}_1`];

/** A store at one moment. */
export interface StoreSeen {
  readonly slots: readonly SlotSeen[];
  /** Sets that have a manifest. */
  readonly proven: ReadonlySet<string>;
}

/** Everything numbered in the store, with checksums made now. While nothing of ours runs, one look serves several questions. */
export async function lookAtStore({ look, target }: Pick<Seen, 'look' | 'target'>): Promise<StoreSeen> {
  const { images, proven } = await look.look(target);
  const slots = new Map<string, Record<string, readonly [string, string]>>();
  for (const { slot, disk, set, sum } of images) slots.set(slot, { ...slots.get(slot), [disk]: [set, sum] });
  return { slots: [...slots].map(([slot, disks]) => ({ slot, disks })), proven };
}

/** Adds the complete sets that are there now to what is remembered, and gives them newest slot first. */
export async function remember(ground: Seen, remembered: Remembered, seen?: StoreSeen): Promise<readonly string[]> {
  const { slots, proven } = seen ?? await lookAtStore(ground);
  const order: string[] = [];
  for (const { disks } of [...slots].sort((a, b) => Number(a.slot) - Number(b.slot))) {
    const set = disks[DISKS[0] ?? '']?.[0];
    if (set === undefined || !proven.has(set) || DISKS.some((disk) => disks[disk]?.[0] !== set)) continue;
    if (!order.includes(set)) order.push(set); // between two numbers, if a death left it so
    if (!remembered.has(set)) remembered.set(set, Object.fromEntries(DISKS.map((disk) => [disk, disks[disk]?.[1] ?? ''])));
  }
  return order;
}

/** P1 and P3: enough good sets, none of them changed, equal numbers from one capture. */
export async function assertImages(ground: Seen, remembered: Remembered, atLeast: number, seen?: StoreSeen): Promise<void> {
  const { slots, proven } = seen ?? await lookAtStore(ground);
  const good = new Set<string>();
  for (const { slot, disks } of slots) {
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
  const linked = await ground.look.linked(target, DISKS.map((disk) => `/shared/dr/current/${SERVER}/${disk}`));
  assert.equal(linked.length, DISKS.length, `current leads to ${linked.join(', ')}`);
  assert.equal(new Set(linked).size, 1, `current mixes sets: ${linked.join(', ')}`);
  assert.ok(await target.exists(`${ground.look.catalog}/sets/${linked[0] ?? ''}/manifest.json`), `current leads to a set that is not proven: ${linked.join(', ')}`);
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
  for (const host of [...ground.lab.hosts.filter(({ name }) => name === SPARE), ground.target]) {
    assert.equal((await host.run('virsh', ['list', '--all', '--name'])).stdout.trim(), '', `P7: a domain is on ${host.name}`);
  }
}

const STRANGERS = ['/shared/definitions/Other.xml', '/shared/dr/current/README'];

/** Puts things beside ours that are not ours. */
export async function addStrangers(ground: Seen): Promise<string> {
  for (const path of STRANGERS) await ground.target.writeFile(path, `${path} is not dr-engine's\n`);
  await ground.target.run('sh', ['-c', ground.look.makeStrangers], { timeoutMs: 60_000 });
  return sumOfStrangers(ground);
}

/** The admin tunes the published definition. */
export async function tuneDefinition(ground: Seen): Promise<void> {
  await ground.target.run('sed', ['-i', 's|</domain>|<!-- tuned by hand: keep -->\\n</domain>|', `/shared/definitions/${SERVER}.xml`]);
}

export async function sumOfStrangers(ground: Seen): Promise<string> {
  const { stdout } = await ground.target.run('sh', ['-c', `sha256sum "$@"; ${ground.look.printStrangers}`, 'sh', ...STRANGERS, `/shared/definitions/${SERVER}.xml`], { okExit: [0, 1, 5], timeoutMs: 60_000 });
  return stdout;
}
