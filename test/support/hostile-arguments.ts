import fc from 'fast-check';

/** Argument lists for the LVM wrappers as somebody would choose them who is up to no good, or whose program has gone mad. */

export interface VolumeNamed {
  readonly vg: string;
  readonly name: string;
  readonly uuid: string;
}

/** What is on the host: names that a list may hit. */
export interface Surroundings {
  /** Allowed volume groups. */
  readonly groups: readonly string[];
  readonly pool: string;
  readonly ours: readonly VolumeNamed[];
  /** Volumes that nothing may happen to, in allowed groups and in others. */
  readonly theirs: readonly VolumeNamed[];
}

export interface Call {
  readonly verb: string;
  readonly args: readonly string[];
}

export const VERBS = ['list', 'create', 'extend', 'reduce', 'rename', 'remove', 'snapshot', 'tag', 'activate', 'delta', 'devices'] as const;

/** Words that mean something to a shell, to lvm2, to a path or to a log. */
export const NASTY: readonly string[] = [
  '', ' ', '-', '--', '-f', '-ff', '-y', '-n', '-S', '--force', '--yes', '--config', '--config=global/locking_type=0', 'devices{scan_lvs=1}', '--select', '--all', '-a',
  '--addtag', '--deltag', '--poolmetadata', '--thinpool', '--pool', '--dry-run', '--help', '--version', '--removemissing', '--devices', '/dev/sda', '--resizefs', '-r',
  '.', '..', '/', '../x', '../../etc/passwd', '/etc/passwd', '/dev/null', '/dev/mapper/control', 'dr_a/', '/dr_a', 'dr_a/ours', 'foreign/theirs', 'dr_a/../foreign', '@dr-engine', '@tag', '*', '?', '[a-z]*', 'our?', '{a,b}', '~', '~root',
  ';', '; reboot', '&', '&& lvremove -f foreign', '|', '`id`', '$(id)', '$(lvremove -f foreign)', '${PATH}', '$IFS', '>x', '<x', '"', '\'', '\\', '\\n', '" || lv_name=~"."', 'x" || vg_name="foreign', '\n', 'ours\n', '\nours', 'ours\nforeign', 'a\tb', '\r', '\u0007', '\u001b[2J', '\u00fc', '\u202eseru', '\ud83d\ude00', '\u0130', 'ｏｕｒｓ',
  '0', '00', '-1', '+1', '1', '01', '1.5', '1e9', '1b', '1G', '100%FREE', '100%PVS', '0x10', '18446744073709551616', '9223372036854775807', '99999999999999999999', '9999999999999999', ' 1', '1 ', 'NaN', '٣',
  'snapshot', 'snapshot1', 'pvmove0', 'x_tdata', 'x_tmeta', 'x_mlog', 'x_rimage_0', 'x_cdata', 'lvol0_pmspare', 'pool_tdata', 'dr-engine', '+dr-engine', '-dr-engine', '+dr-engine-snapshot', '-dr-engine-snapshot', '+', '+dr.', 'dr.', '+dr.x,dr-engine', 'dr.x,y', '+dr.x=1 --deltag dr-engine', 'dr.x\n', '+@dr.x', 'dr.$(id)', 'dr.x/../y', 'DR.x', `dr.${'t'.repeat(1020)}`, `dr.${'t'.repeat(1022)}`,
  'x'.repeat(127), 'x'.repeat(128), 'x'.repeat(10_000), '-'.repeat(60), `a${'-'.repeat(60)}`, '000000-0000-0000-0000-0000-0000-000000', '------------------------------------', '??????-????-????-????-????-????-??????', 'PATH=/tmp', 'LVM_SYSTEM_DIR=/tmp',
];

/** Lists for the wrappers, always the same for the same seed: good ones with something wrong in them, and wild ones. */
export function hostileCalls(where: Surroundings, count: number, seed = 20261121): readonly Call[] {
  const group = fc.constantFrom(...where.groups, ...where.theirs.map(({ vg }) => vg));
  const volume = fc.constantFrom(...where.ours, ...where.theirs);
  const name = fc.oneof(fc.constantFrom(...[...where.ours, ...where.theirs].map((each) => each.name), where.pool), fc.stringMatching(/^[a-z+._-]{1,12}$/));
  const uuid = volume.map((each) => each.uuid);
  const size = fc.oneof(fc.nat({ max: 2 ** 30 }).map(String), fc.constantFrom('512', '4194304'));
  const tag = fc.stringMatching(/^dr\.[a-z]{1,5}(=[a-z0-9/]{0,8})?$/);
  const tags = fc.array(tag, { maxLength: 4 });
  const changes = fc.array(fc.tuple(fc.constantFrom('+', '-'), tag).map((both) => both.join('')), { minLength: 1, maxLength: 4 });
  const pool = fc.constantFrom([], ['--pool', where.pool], ['--pool', 'theirs']);
  const flat = (...parts: readonly fc.Arbitrary<string | readonly string[]>[]): fc.Arbitrary<string[]> => fc.tuple(...parts).map((all) => all.flat());
  const named = volume.map((each) => [each.vg, each.name, each.uuid]);
  const good: Readonly<Record<(typeof VERBS)[number], fc.Arbitrary<string[]>>> = {
    list: fc.constant([]), devices: fc.constant([]),
    create: flat(group, name, size, tags, pool),
    extend: flat(named, size), reduce: flat(named, size),
    rename: fc.tuple(volume, name).map(([each, to]) => [each.vg, each.name, to, each.uuid]),
    remove: flat(named),
    snapshot: flat(group, name, name, fc.oneof(size, fc.constant('thin')), tags),
    tag: flat(named, changes),
    activate: flat(named),
    delta: flat(fc.constantFrom(...where.groups), fc.constant(where.pool), fc.constantFrom(...where.ours.map((each) => each.name)), volume.map((each) => each.name)),
  };
  const word = fc.oneof(fc.constantFrom(...NASTY), fc.string({ unit: 'binary', maxLength: 20 }).map((text) => text.replaceAll('\0', '?')), group, name, uuid, size, tag);
  const verb = fc.constantFrom(...VERBS);
  const dry = fc.oneof({ weight: 5, arbitrary: fc.constant<string[]>([]) }, { weight: 1, arbitrary: fc.constant(['--dry-run']) });
  const spoilt = verb.chain((each) => fc.tuple(good[each], fc.nat(9), fc.constantFrom('replace', 'insert', 'remove', 'append'), word, dry).map(([args, at, how, bad, first]): Call => {
    const changed = [...args];
    const index = args.length === 0 ? 0 : at % args.length;
    changed.splice(index, how === 'replace' || how === 'remove' ? 1 : 0, ...how === 'remove' ? [] : how === 'append' ? [`${changed[index] ?? ''}${bad}`] : [bad]);
    return { verb: each, args: [...first, ...changed] };
  }));
  const plausible = verb.chain((each) => fc.tuple(good[each], dry).map(([args, first]): Call => ({ verb: each, args: [...first, ...args] })));
  const wild = fc.tuple(verb, fc.array(word, { maxLength: 7 })).map(([each, args]): Call => ({ verb: each, args }));
  return fc.sample(fc.oneof({ weight: 3, arbitrary: spoilt }, { weight: 3, arbitrary: plausible }, { weight: 1, arbitrary: wild }), { numRuns: count, seed });
}

/** Every nasty word in every place, from one on, of an otherwise good list of one verb. */
export function nastyEverywhere(verb: string, good: readonly string[], from = 0): readonly Call[] {
  return NASTY.flatMap((word) => [...good.keys(), good.length].slice(from).map((at): Call => ({ verb, args: [...good.slice(0, at), word, ...good.slice(at + 1)] })));
}
