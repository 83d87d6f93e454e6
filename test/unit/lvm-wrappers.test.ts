import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CHECKOUT } from '../lab/layout.js';
import { hostileCalls, nastyEverywhere, VERBS, type Call, type Surroundings, type VolumeNamed } from '../support/hostile-arguments.js';
import { isRoot } from '../support/file-systems.js';
import { skipBecause } from '../support/skip.js';

/**
 * Whatever the arguments: what the wrappers run. They run here as they are, but for four lines of lvm/lib.sh, which say where programs, list, log and
 * state are; in place of lvm2 there is a program that writes down how it was called.
 */

const uuid = (letter: string): string => [6, 4, 4, 4, 4, 4, 6].map((length) => letter.repeat(length)).join('-');
const ours: readonly (VolumeNamed & { readonly tags: string })[] = [
  { vg: 'dr_a', name: 'ours', uuid: uuid('a'), tags: 'dr-engine,dr.set=x/y' },
  { vg: 'dr-b', name: 'our-snap', uuid: uuid('b'), tags: 'dr.owner=1,dr-engine-snapshot' },
];
const theirs: readonly (VolumeNamed & { readonly tags: string })[] = [
  { vg: 'dr_a', name: 'theirs', uuid: uuid('c'), tags: '' },
  { vg: 'dr_a', name: 'alike', uuid: uuid('d'), tags: 'dr-engine2,xdr-engine,dr-engine-snapshots' },
  { vg: 'foreign', name: 'theirs', uuid: uuid('e'), tags: 'dr-engine' },
];
const where: Surroundings = { groups: ['dr_a', 'dr-b'], pool: 'pool', ours, theirs };

const CHANGING = ['lvcreate', 'lvextend', 'lvreduce', 'lvrename', 'lvremove', 'lvchange'];
const LVM2 = [...CHANGING, 'lvs', 'lvm', 'dmsetup', 'thin_delta'];
const STAND_IN = `#!/bin/sh
set -f
printf '%s\\0' "$#" "\${0##*/}" "$@" >>"$DR_RECORD"
case \${0##*/} in
lvs) case "$*" in
	*pool_lv*) case "$*" in *'"dr-b"'*) printf '  our-snap 1\\n  ours 2\\n' ;; esac ;;
	*) while read -r vg uuid name tags; do case "$*" in *"\\"$vg\\""*"\\"$uuid\\""*) printf '  %s %s %s\\n' "$uuid" "$name" "$tags" ;; esac; done <"\${0%/*}/volumes" ;;
	esac ;;
lvremove | lvchange) # what the selection finds
	while read -r vg uuid name tags; do case ",$tags, $*" in
		*,dr-engine,*"vg_name=\\"$vg\\" && lv_name=\\"$name\\" && lv_uuid=\\"$uuid\\" && "* | *,dr-engine-snapshot,*"vg_name=\\"$vg\\" && lv_name=\\"$name\\" && lv_uuid=\\"$uuid\\" && "*)
			echo "  Logical volume $vg/$name changed."; echo "  Logical volume \\"$name\\" successfully removed." ;;
		esac; done <"\${0%/*}/volumes" ;;
lvm) echo '{"report": []}' ;;
dmsetup) case $* in # a pool whose metadata snapshot is held after it was reserved
	*' reserve_metadata_snap') : >"\${0%/*}/held" ;;
	*' release_metadata_snap') rm -f "\${0%/*}/held" ;;
	message*) ;;
	*) root=-; [ ! -e "\${0%/*}/held" ] || root=17; echo "0 262144 thin-pool 5 114/1024 3/2048 $root rw discard_passdown queue_if_no_space - 256" ;;
	esac ;;
esac
`;

interface Outcome {
  readonly call: Call;
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Every call of an lvm2 program: its name and arguments. */
  readonly ran: readonly (readonly string[])[];
}

describe('the LVM wrappers', function () {
  this.timeout(180_000);
  let place: string;
  const at = (...parts: readonly string[]): string => join(place, ...parts);

  before(async function () {
    if (!isRoot) skipBecause(this, 'it needs root: the list of allowed volume groups must belong to root');
    place = await mkdtemp(join(tmpdir(), 'dr-test-wrappers-'));
    for (const directory of ['lvm', 'bin', 'etc', 'record']) await mkdir(at(directory), { mode: 0o755 });
    await writeFile(at('etc/vgs'), '# the DR target\'s own\n\ndr_a\ndr-b # new disks\n', { mode: 0o644 });
    for (const file of await readdir(join(CHECKOUT, 'lvm'))) {
      let text = await readFile(join(CHECKOUT, 'lvm', file), 'utf8');
      if (file === 'lib.sh') {
        for (const [name, value] of [['PATH', `${at('bin')}:/usr/bin:/bin`], ['ALLOWED', at('etc/vgs')], ['LOG', at('log')], ['STATE', at('state')]] as const) {
          const replaced = text.replace(new RegExp(`^${name}=/.*$`, 'm'), `${name}=${value}`);
          assert.notEqual(replaced, text, `lib.sh sets ${name}`);
          text = replaced;
        }
      }
      await writeFile(at('lvm', file), text, { mode: 0o755 });
    }
    for (const program of LVM2) await writeFile(at('bin', program), STAND_IN, { mode: 0o755 });
    await writeFile(at('bin/volumes'), [...ours, ...theirs].map((each) => `${each.vg} ${each.uuid} ${each.name} ${each.tags}\n`).join(''));
  });
  after(async () => { if (isRoot) await rm(place, { recursive: true }); });

  let count = 0;
  const call = async (verb: string, ...args: readonly string[]): Promise<Outcome> => {
    const record = at('record', String(count++));
    const result = await new Promise<Omit<Outcome, 'call' | 'ran'>>((resolve) => {
      execFile(at('lvm', verb), [...args], { env: { DR_RECORD: record, PATH: '/nowhere', SUDO_USER: 'dr' } }, (error, stdout, stderr) => {
        resolve({ status: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, stdout, stderr });
      });
    });
    const words = (await readFile(record, 'utf8').catch(() => '')).split('\0'); // nothing was run
    const ran: string[][] = [];
    for (let index = 0; index < words.length - 1;) {
      const length = Number(words[index]) + 1;
      ran.push(words.slice(index + 1, index + 1 + length));
      index += 1 + length;
    }
    return { call: { verb, args }, ...result, ran };
  };
  const all = async (calls: readonly Call[]): Promise<readonly Outcome[]> => {
    const outcomes: Outcome[] = [];
    const waiting = [...calls];
    await Promise.all([1, 2, 3].map(async () => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const outcome = await call(next.verb, ...next.args);
        try {
          harmless(outcome);
        } catch (error) {
          throw new Error(`${JSON.stringify(next)} ran ${JSON.stringify(outcome.ran)}`, { cause: error });
        }
        outcomes.push(outcome);
      }
    }));
    return outcomes;
  };

  it('run nothing harmful for a thousand hostile argument lists', async () => {
    const outcomes = await all(hostileCalls(where, 1200));
    // The lists must not be so wild that all are turned away at the door.
    for (const status of [0, 2, 3, 6, 7]) assert(outcomes.some((each) => each.status === status), `status ${String(status)}`);
    for (const program of LVM2) assert(outcomes.some(({ ran }) => ran.some(([name]) => name === program)), program);
  });

  it('run nothing harmful for any nasty word in any place', async () => {
    const [volume] = ours;
    assert(volume);
    const outcomes = await all([
      ...nastyEverywhere('create', ['dr_a', 'new', '4194304', 'dr.x', '--pool', 'pool']), ...nastyEverywhere('tag', [volume.vg, volume.name, volume.uuid, '+dr.x'], 3),
    ]);
    assert(outcomes.length > 900, String(outcomes.length));
  });

  it('do what they are for', async () => {
    const [volume, snapshot] = ours;
    assert(volume && snapshot);
    const ran = async (verb: string, ...args: readonly string[]): Promise<string> => {
      const outcome = await call(verb, ...args);
      harmless(outcome);
      assert.deepEqual([outcome.status, outcome.stderr], [0, '']);
      const dry = await call(verb, '--dry-run', ...args);
      const line = outcome.ran.filter(([program]) => program !== 'lvs').map((words) => words.join(' ')).join('\n');
      if (verb !== 'delta') assert.equal(dry.stdout.trim(), line, 'what --dry-run says is what is run');
      assert.equal(dry.ran.some(([program]) => program !== 'lvs' && program !== 'dmsetup'), false);
      return line;
    };
    const select = (each: VolumeNamed): string => `vg_name="${each.vg}" && lv_name="${each.name}" && lv_uuid="${each.uuid}" && (tags="dr-engine" || tags="dr-engine-snapshot")`;
    assert.equal(await ran('create', 'dr_a', 'Web01_root_1', '1000', 'dr.set=x/y'), 'lvcreate --yes --quiet --name Web01_root_1 --addtag dr-engine --addtag dr.set=x/y --type linear --zero y --wipesignatures y --size 1024b dr_a');
    assert.equal(await ran('create', 'dr_a', 'Web01_root_1', '4194304', '--pool', 'pool'), 'lvcreate --yes --quiet --name Web01_root_1 --addtag dr-engine --type thin --virtualsize 4194304b --thinpool pool dr_a');
    assert.equal(await ran('snapshot', 'dr_a', 'theirs', 'dr_1', '8388608', 'dr.of=Web01'), 'lvcreate --yes --quiet --snapshot --permission r --name dr_1 --addtag dr-engine-snapshot --addtag dr.of=Web01 --size 8388608b dr_a/theirs');
    assert.equal(await ran('snapshot', 'dr_a', 'theirs', 'dr_1', 'thin'), 'lvcreate --yes --quiet --snapshot --permission r --name dr_1 --addtag dr-engine-snapshot dr_a/theirs');
    assert.equal(await ran('extend', volume.vg, volume.name, volume.uuid, '8388608'), 'lvextend --yes --quiet --size 8388608b dr_a/ours');
    assert.equal(await ran('rename', volume.vg, volume.name, 'Web01_root_2', volume.uuid), 'lvrename --yes --quiet dr_a ours Web01_root_2');
    assert.equal(await ran('remove', snapshot.vg, snapshot.name, snapshot.uuid), `lvremove --config log/silent=0 --yes --select ${select(snapshot)} && lv_role!="thickorigin" && lv_role!="extthinorigin" dr-b`);
    assert.equal(await ran('tag', volume.vg, volume.name, volume.uuid, '+dr.a=1', '-dr.b'), `lvchange --config log/silent=0 --yes --addtag dr.a=1 --deltag dr.b --select ${select(volume)} dr_a`);
    assert.equal(await ran('activate', volume.vg, volume.name, volume.uuid), `lvchange --yes --quiet --activate y --ignoreactivationskip --select ${select(volume)} dr_a`);
    assert.equal(await ran('delta', 'dr-b', 'pool', 'our-snap', 'ours'),
      'dmsetup status dr--b-pool-tpool\ndmsetup message dr--b-pool-tpool 0 reserve_metadata_snap\ndmsetup status dr--b-pool-tpool\nthin_delta --metadata-snap --snap1 1 --snap2 2 /dev/mapper/dr--b-pool_tmeta\ndmsetup message dr--b-pool-tpool 0 release_metadata_snap');
    assert.equal((await call('list')).stdout, '{"allowed": ["dr_a", "dr-b"], "lvm": {"report": []}}\n');
    assert.equal((await call('remove', 'dr_a', 'gone', uuid('f'))).status, 0);
  });

  it('let go of a metadata snapshot that a call before left, and of nobody else\'s', async () => {
    const delta = ['dr-b', 'pool', 'our-snap', 'ours'] as const;
    const released = async (): Promise<readonly [number, boolean]> => {
      await writeFile(at('bin/held'), '');
      const { status, ran } = await call('delta', ...delta);
      return [status, ran.some((words) => words.at(-1) === 'release_metadata_snap')];
    };
    assert.deepEqual(await released(), [1, false], 'somebody else\'s');
    await writeFile(at('state/dr--b-pool.held'), '');
    assert.deepEqual(await released(), [0, true], 'one that died just now');
    await writeFile(at('state/dr--b-pool.held'), '');
    await utimes(at('state/dr--b-pool.held'), 0, 0);
    assert.deepEqual(await released(), [1, false], 'that was long ago');
    await writeFile(at('state/dr--b-pool.held'), '16\n');
    assert.deepEqual(await released(), [1, false], 'we had another one once');
    await writeFile(at('state/dr--b-pool.held'), '17\n');
    assert.deepEqual(await released(), [0, true]);
    await rm(at('bin/held'), { force: true });
  });

  it('refuse a list of volume groups that others can write, or that is odd', async () => {
    const good = await readFile(at('etc/vgs'));
    const refused = async (why: RegExp): Promise<void> => {
      for (const verb of ['list', 'create']) {
        const { status, stderr, ran } = await call(verb, ...verb === 'list' ? [] : ['dr_a', 'new', '4096']);
        assert.deepEqual([status, ran], [3, []]);
        assert.match(stderr, why);
      }
    };
    for (const [path, mode, back] of [['etc/vgs', 0o664, 0o644], ['etc/vgs', 0o646, 0o644], ['etc', 0o777, 0o755]] as const) {
      await chmod(at(path), mode);
      await refused(/writable by nobody else/);
      await chmod(at(path), back);
    }
    await rm(at('etc/vgs'));
    await refused(/there is no /);
    for (const text of ['dr_a dr-b\n', '../x\n', '--all\n', 'dr_a"\n']) {
      await writeFile(at('etc/vgs'), text);
      await refused(/has a line/);
    }
    await writeFile(at('etc/vgs'), good);
    assert.equal((await call('list')).status, 0);
  });

  it('write one line to a log that is for root only, whatever the arguments', async () => {
    const before = (await readFile(at('log'), 'utf8')).split('\n').length;
    await call('remove', 'a\nb', '\u001b[2J', '$(id)');
    await call('create', 'dr_a', 'x'.repeat(10_000), '1');
    const lines = (await readFile(at('log'), 'utf8')).split('\n');
    assert.equal(lines.length, before + 2);
    assert.match(lines.at(-3) ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ dr remove a\?b \??\?2J \?\(id\): status 2, not a name/);
    assert((lines.at(-2) ?? '').length < 1000);
    assert.equal((await stat(at('log'))).mode & 0o777, 0o600);
  });

  it('take programs from the system only, whatever PATH says', async () => {
    const library = await readFile(join(CHECKOUT, 'lvm/lib.sh'), 'utf8');
    assert.match(library, /^PATH=\/usr\/sbin:\/usr\/bin:\/sbin:\/bin$/m);
    assert.doesNotMatch(library, /\beval\b|\$\{?DR_/);
    for (const verb of VERBS) assert.doesNotMatch(await readFile(join(CHECKOUT, 'lvm', verb), 'utf8'), /\beval\b|\bPATH=|\$\{?DR_/);
  });
});

const NAME = /^[A-Za-z0-9+_.][A-Za-z0-9+_.-]*$/;
const TAG = /^dr\.[A-Za-z0-9_+.=/:-]+$/;
const SIZE = /^[1-9]\d{0,16}b$/; // 16 digits, rounded up
/** What lvm2 may be told to change: one volume, by group, name and UUID, and only if it carries our tag. */
const SELECTION = /^vg_name="[A-Za-z0-9+_.-]+" && lv_name="[A-Za-z0-9+_.-]+" && lv_uuid="[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}" && \(tags="dr-engine" \|\| tags="dr-engine-snapshot"\)( && lv_role!="thickorigin" && lv_role!="extthinorigin")?$/;

/** Success is read from what lvm2 says, whatever lvm.conf wants it to say. */
const SPEAKS = /^log\/silent=0$/;

/** Options that each program may be given, with what their values must look like; null: it has none. */
const OPTIONS: Readonly<Record<string, Readonly<Record<string, RegExp | null>>>> = {
  lvcreate: { '--yes': null, '--quiet': null, '--snapshot': null, '--permission': /^r$/, '--name': NAME, '--addtag': /^dr(\.[A-Za-z0-9_+.=/:-]+|-engine|-engine-snapshot)$/, '--type': /^(thin|linear)$/, '--zero': /^y$/, '--wipesignatures': /^y$/, '--size': SIZE, '--virtualsize': SIZE, '--thinpool': NAME },
  lvextend: { '--yes': null, '--quiet': null, '--size': SIZE },
  lvreduce: { '--yes': null, '--quiet': null, '--size': SIZE },
  lvrename: { '--yes': null, '--quiet': null },
  lvremove: { '--config': SPEAKS, '--yes': null, '--select': /^/ },
  lvchange: { '--config': SPEAKS, '--yes': null, '--quiet': null, '--activate': /^y$/, '--ignoreactivationskip': null, '--select': /^/, '--addtag': TAG, '--deltag': TAG },
};

/** Throws unless everything that was run is what a wrapper may run: in allowed groups, without foreign options, and on what is ours only. */
function harmless({ call, ran, status, stderr }: Outcome): void {
  const changing = ran.filter(([program]) => CHANGING.includes(program ?? '') && !(program === 'lvreduce' && ran.some((words) => words[1] === '--help')));
  if (status !== 0) assert.match(stderr, /^dr-lvm: \w+: [^\n]+\n$/, 'one line says why not');
  if (status === 2 || status === 3) assert.deepEqual(changing, []);
  assert(ran.filter(([program, first]) => CHANGING.includes(program ?? '') && first !== '--help').length <= 1, 'one change at most');
  for (const words of ran) {
    const [program = '', ...args] = words;
    if (!CHANGING.includes(program) || args[0] === '--help') continue;
    assert.notEqual(call.args[0], '--dry-run');
    const known = OPTIONS[program] ?? {};
    const named: string[] = [];
    let selection: string | undefined;
    for (let index = 0; index < args.length; index++) {
      const word = args[index] ?? '';
      if (!word.startsWith('-')) {
        named.push(word);
        continue;
      }
      const value = known[word];
      assert(value !== undefined, `${program} ${word}`);
      if (value === null) continue;
      const given = args[++index] ?? '';
      assert.match(given, value);
      if (word === '--select') selection = given;
    }
    const [group = '', first = ''] = (named[0] ?? '').split('/');
    assert(where.groups.includes(group), `the group ${group}`);
    switch (program) {
      case 'lvcreate':
        assert.equal(args.filter((word) => word === 'dr-engine' || word === 'dr-engine-snapshot').length - Number(args[args.indexOf('--name') + 1]?.startsWith('dr-engine') === true) >= 1, true);
        if (args.includes('--snapshot')) assert.match(first, NAME);
        else assert.equal(named[0], group);
        assert.equal(named.length, 1);
        break;
      case 'lvremove': case 'lvchange': {
        assert.deepEqual(named, [group]);
        // lvm2 itself proves that it is ours: the whole selection is known, and nothing in it can be more than a name or a UUID.
        assert.match(selection ?? '', SELECTION);
        assert(selection?.startsWith(`vg_name="${group}" && `), `selected ${String(selection)} in ${group}`);
        break;
      }
      default: {
        const volume = ours.find((each) => each.vg === group && each.name === (program === 'lvrename' ? named[1] : first));
        assert(volume !== undefined && call.args.includes(volume.uuid), 'it is ours, and its UUID was given');
        assert.equal(named.length, program === 'lvrename' ? 3 : 1);
        if (program === 'lvrename') assert.match(named[2] ?? '', NAME);
        assert(ran.findIndex(([name]) => name === 'lvs') < ran.indexOf(words) && ran[0]?.[0] === 'lvs', 'after a look');
      }
    }
  }
}
