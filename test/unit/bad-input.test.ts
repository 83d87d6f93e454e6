import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { drActivate } from '../../src/commands/activate.js';
import { dr } from '../../src/commands/dr.js';
import { capturedTerminal } from '../fixtures/captured-terminal.js';

/**
 * Wrong configurations, names and arguments, each with exactly what is said and the exit status. All go through the program from its
 * arguments on; those marked are run as a process too. No host is ever asked: the head would say so.
 */

const GOOD = `version: 1
anvils:
  an-a01:
    nodes: [an-a01n01, an-a01n02]
targets:
  dr01:
    host: an-dr01
    store: fs:/srv/dr
jobs:
  web:
    anvil: an-a01
    targets: [dr01]
    servers: [Db01, Web01]
    copies: 3
    capture: live
`;
const END = 'dr: Correct the file; docs/configuration.md describes every key.';

/** A line of the good file, what it becomes, and what is said of it. */
interface BadFile {
  readonly change: readonly [from: string, to: string];
  readonly says: readonly string[];
}

const change = (from: string, to: string, ...says: readonly string[]): BadFile => ({ change: [from, to], says });
const whole = (text: string, ...says: readonly string[]): BadFile => change(GOOD, text, ...says);
const inJob = (line: string, says: string): BadFile => change('    capture: live\n', `    capture: live\n    ${line}\n`, says);
const inTarget = (line: string, says: string): BadFile => change('    store: fs:/srv/dr\n', `    store: fs:/srv/dr\n    ${line}\n`, says);

const FILES: readonly BadFile[] = [
  // the file
  whole('', '1:1: the file is empty; expected version, anvils, targets and jobs'),
  whole('# nothing yet\n', '1:1: the file is empty; expected version, anvils, targets and jobs'),
  whole('hello', '1:1: expected version, anvils, targets and jobs, found "hello"'),
  whole('[1, 2]', '1:1: expected version, anvils, targets and jobs, found a list'),
  whole('version: 1\n', '1:1: anvils: is missing; expected keys with values below it',
    '1:1: targets: is missing; expected keys with values below it', '1:1: jobs: is missing; expected keys with values below it'),
  change('    host', '\thost', '7:1: a tab is used for indentation; YAML wants spaces'),
  change('    capture: live\n', '    capture: live\n    copies: 2\n', '16:5: the key "copies" is here for the second time'),
  change('jobs:\n', '---\njobs:\n', '9:1: a second document begins here; the configuration is one document'),
  change('version: 1', 'version: !one 1', '1:10: YAML syntax: Unresolved tag: !one'),
  change('[an-a01n01, an-a01n02]', '[an-a01n01, an-a01n02', '5:1: the indentation is wrong: Flow sequence in block collection must be sufficiently indented and end with a ]'),
  change('[an-a01n01, an-a01n02]', '*nodes', '4:12: there is no anchor &nodes before this'),
  change('version: 1\n', '', '1:1: version: is missing; expected 1, the version of this file\'s format'),
  change('version: 1', 'version: "1"', '1:10: version: expected 1, the version of this file\'s format, found "1"'),
  change('version: 1\n', 'version: 1\nanvil: {}\n', '2:1: anvil: unknown key; did you mean "anvils"?'),
  change('version: 1\n', 'version: 1\nelephant: 1\n', '2:1: elephant: unknown key; the keys here are version, anvils, targets, jobs, cache, reprove_after, agent_command'),
  change('version: 1\n', 'version: 1\ncache: {signature: a/b}\n', '2:20: cache.signature: expected a file name such as .dr_cache, found "a/b"'),
  change('version: 1\n', 'version: 1\ncache: {signatur: .x}\n', '2:9: cache.signatur: unknown key; did you mean "signature"?'),
  change('version: 1\n', 'version: 1\nreprove_after: 30\n', '2:16: reprove_after: expected a duration such as 90s, 5min, 6h or 30d, found 30; did you mean "30s"?'),
  change('version: 1\n', 'version: 1\nagent_command: dr\n', '2:16: agent_command: expected a list of words such as [sudo, dr], found "dr"'),
  // Anvils
  change('[an-a01n01, an-a01n02]', 'an-a01n01', '4:12: anvils.an-a01.nodes: expected a list such as [a, b], found "an-a01n01"'),
  change('[an-a01n01, an-a01n02]', '[]', '4:5: anvils.an-a01.nodes: expected a list such as [a, b], found an empty list'),
  change('an-a01n02]', '-oProxyCommand=sh]', '4:24: anvils.an-a01.nodes[1]: expected an ssh destination such as an-a01n01 or root@10.20.10.1, or local, found "-oProxyCommand=sh"'),
  change('an-a01n02]', 'an-a01n01]', '4:24: anvils.an-a01.nodes[1]: "an-a01n01" is listed twice'),
  change('    nodes', '    node', '3:3: anvils.an-a01.nodes: is missing; expected a list such as [a, b]', '4:5: anvils.an-a01.node: unknown key; did you mean "nodes"?'),
  change('    nodes', '    libvirt: system\n    nodes', '4:14: anvils.an-a01.libvirt: expected a libvirt URI such as qemu:///system, found "system"'),
  change('    nodes', '    definitions: shared\n    nodes', '4:18: anvils.an-a01.definitions: expected an absolute directory such as /shared/definitions, found "shared"'),
  change('    nodes', '    commands: {start: [pcs, enable]}\n    nodes', '4:16: anvils.an-a01.commands.start: expected a list of words with {server} in it, such as [pcs, resource, enable, "{server}"], found no {server}'),
  // targets
  change('    host: an-dr01\n', '', '6:3: targets.dr01.host: is missing; expected an ssh destination such as an-a01n01 or root@10.20.10.1, or local'),
  change('fs:/srv/dr', '/srv/dr', '8:12: targets.dr01.store: expected fs:/directory or vg:VG[,VG…], found "/srv/dr"; did you mean "fs:/srv/dr"?'),
  change('fs:/srv/dr', 'fs:srv/dr', '8:12: targets.dr01.store: expected fs:/directory or vg:VG[,VG…], found "fs:srv/dr"; did you mean "fs:/srv/dr"?'),
  change('fs:/srv/dr', 'fs:/srv/../etc', '8:12: targets.dr01.store: "fs:/srv/../etc" can\'t be used: it has a "." or ".." in it'),
  change('fs:/srv/dr', 'fs:/', '8:12: targets.dr01.store: "fs:/" can\'t be used: it is the root directory'),
  change('fs:/srv/dr', '"vg:"', '8:12: targets.dr01.store: expected fs:/directory or vg:VG[,VG…], found "vg:"'),
  change('fs:/srv/dr', 'vg:dr01_vg0,', '8:12: targets.dr01.store: "vg:dr01_vg0," can\'t be used: there is nothing between two commas'),
  change('fs:/srv/dr', 'vg:dr01_vg0, dr01_vg1', '8:12: targets.dr01.store: expected fs:/directory or vg:VG[,VG…], found "vg:dr01_vg0, dr01_vg1"; did you mean "vg:dr01_vg0,dr01_vg1"?'),
  change('fs:/srv/dr', 'vg:/dev/dr01_vg0', '8:12: targets.dr01.store: expected fs:/directory or vg:VG[,VG…], found "vg:/dev/dr01_vg0"; did you mean "vg:dr01_vg0"?'),
  change('fs:/srv/dr', 'lvm:dr01_vg0', '8:12: targets.dr01.store: expected fs:/directory or vg:VG[,VG…], found "lvm:dr01_vg0"; did you mean "vg:dr01_vg0"?'),
  change('fs:/srv/dr', 'vg:dr01_vg0,-x', '8:12: targets.dr01.store: "vg:dr01_vg0,-x" can\'t be used: "-x": names in LVM have letters, digits and the characters _ . + -, and do not begin with -'),
  change('fs:/srv/dr', 'vg:dr01_vg0/pool/x', '8:12: targets.dr01.store: "vg:dr01_vg0/pool/x" can\'t be used: "dr01_vg0/pool/x" is neither VG nor VG/POOL'),
  change('fs:/srv/dr', 'vg:dr01_vg0/my_tmeta', '8:12: targets.dr01.store: "vg:dr01_vg0/my_tmeta" can\'t be used: "dr01_vg0/my_tmeta": LVM keeps names with _tmeta in them for itself'),
  change('fs:/srv/dr', 'vg:dr01_vg0,dr01_vg0/pool', '8:12: targets.dr01.store: "vg:dr01_vg0,dr01_vg0/pool" can\'t be used: the volume group dr01_vg0 is in it twice'),
  change('store: fs:/srv/dr\n', 'store: vg:dr01_vg0/pool\n    allocation: full\n', '9:17: targets.dr01.allocation: images in the thin pool dr01_vg0/pool take space as they are written; leave allocation out, or name the volume group alone for whole volumes'),
  change('store: fs:/srv/dr\n', 'store: vg:a,b\n  dr02: {host: an-dr01, store: "vg:b/pool,c", current: /c}\n', '9:32: targets.dr02.store: the volume group b is in the store of target dr01 on the same host too; each target needs its own'),
  change('store: fs:/srv/dr\n', 'store: vg:a,b\n  dr02: {host: an-dr01, store: "vg:b,a", current: /c}\n', '9:32: targets.dr02.store: the volume group b is in the store of target dr01 on the same host too; each target needs its own'),
  change('jobs:', '  dr02: {host: an-dr01, store: "fs:/srv/dr/", current: /c}\njobs:', '9:32: targets.dr02.store: target dr01 has the same store on the same host; each target needs its own'),
  change('jobs:', '  dr02: {host: an-dr01, store: "fs:/srv/2"}\njobs:', '9:3: targets.dr02.current: target dr01 on the same host has the same directory of links, /shared/dr/current; give one of them another with current:'),
  inTarget('use_cache: yes', '9:16: targets.dr01.use_cache: expected true or false, found "yes"; did you mean true?'),
  inTarget('bandwidth_limit: 40', '9:22: targets.dr01.bandwidth_limit: expected a rate such as 40MiB/s, found 40; did you mean "40MiB/s"?'),
  inTarget('bandwidth_limit: 1B/s', '9:22: targets.dr01.bandwidth_limit: expected at least 64KiB/s, found "1B/s"'),
  inTarget('bandwidth_limit: {from: "08:00"}', '9:5: targets.dr01.bandwidth_limit: expected a rate such as 40MiB/s or a list such as [{from: "08:00", to: "18:00", limit: 10MiB/s}], found keys and values'),
  inTarget('streams: 9', '9:14: targets.dr01.streams: expected a whole number from 1 to 8, found 9'),
  inTarget('bandwidth_limit: []', '9:5: targets.dr01.bandwidth_limit: expected a list such as [{from: "08:00", to: "18:00", limit: 10MiB/s}], found an empty list'),
  inTarget('bandwidth_limit: [10MiB/s]', '9:23: targets.dr01.bandwidth_limit[0]: expected a list such as [{from: "08:00", to: "18:00", limit: 10MiB/s}], found "10MiB/s"'),
  inTarget('bandwidth_limit: [{from: 8am, to: "18:00", limit: 1MiB/s}]', '9:30: targets.dr01.bandwidth_limit[0].from: expected a time of day such as "08:00", found "8am"; did you mean "08:00"?'),
  inTarget('bandwidth_limit: [{from: "08:00", to: "24:30", limit: 1MiB/s}]', '9:43: targets.dr01.bandwidth_limit[0].to: expected a time of day such as "08:00", found "24:30"'),
  inTarget('bandwidth_limit: [{from: "24:00", to: "08:00", limit: 1MiB/s}]', '9:30: targets.dr01.bandwidth_limit[0].from: expected a time of day from 00:00 to 23:59, found "24:00"'),
  inTarget('bandwidth_limit: [{from: "08:00", limit: 1MiB/s}]', '9:23: targets.dr01.bandwidth_limit[0].to: is missing; expected a time of day such as "08:00"'),
  inTarget('bandwidth_limit: [{from: "08:00", to: "18:00", limits: 1MiB/s, limit: 1MiB/s}]', '9:52: targets.dr01.bandwidth_limit[0].limits: unknown key; did you mean "limit"?'),
  inTarget('bandwidth_limit: [{from: "08:00", to: "18:00", limit: 10}]', '9:59: targets.dr01.bandwidth_limit[0].limit: expected a rate such as 40MiB/s, found 10; did you mean "10MiB/s"?'),
  inTarget('bandwidth_limit: [{from: "08:00", to: "08:00", limit: 1MiB/s}]', '9:23: targets.dr01.bandwidth_limit[0]: begins and ends at 08:00; for the whole day write from: "00:00", to: "24:00"'),
  inTarget('bandwidth_limit: [{from: "22:00", to: "06:00", limit: 1MiB/s}, {from: "05:59", to: "07:00", limit: 1MiB/s}]',
    '9:68: targets.dr01.bandwidth_limit[1]: 05:59 to 07:00 overlaps with 22:00 to 06:00 above; at any time of day only one limit can hold'),
  inTarget('allocation: sprase', '9:17: targets.dr01.allocation: expected "sparse" or "full", found "sprase"; did you mean "sparse"?'),
  inTarget('current:', '9:13: targets.dr01.current: expected an absolute directory such as /shared/definitions, found nothing'),
  // jobs
  change('  web:', '  "we b":', '10:3: jobs.we b: expected a name of letters, digits and the characters _ . + - that begins with a letter or digit'),
  change('anvil: an-a01', 'anvil: an-a02', '11:12: jobs.web.anvil: there is no Anvil "an-a02" in this file; did you mean "an-a01"?'),
  change('[dr01]', '[backup]', '12:15: jobs.web.targets[0]: there is no target "backup" in this file'),
  change('[Db01, Web01]', '[Db01, Db01]', '13:21: jobs.web.servers[1]: "Db01" is listed twice'),
  change('[Db01, Web01]', '[../../etc/passwd]', '13:15: jobs.web.servers[0]: the server name "../../etc/passwd" can\'t be used in an image name: it is a path'),
  change('[Db01, Web01]', '[-rf]', '13:15: jobs.web.servers[0]: the server name "-rf" can\'t be used in an image name: it begins with "-"'),
  change('[Db01, Web01]', '["Web 01"]', '13:15: jobs.web.servers[0]: the server name "Web 01" can\'t be used in an image name: only letters, digits and the characters _ . + - can be used in image names'),
  change('[Db01, Web01]', '[7]', '13:15: jobs.web.servers[0]: expected a server\'s name, found the number 7; did you mean "7" in quotes?'),
  change('copies: 3', 'copys: 3', '10:3: jobs.web.copies: is missing; expected a whole number from 1 to 99', '14:5: jobs.web.copys: unknown key; did you mean "copies"?'),
  change('copies: 3', 'copies: 100', '14:13: jobs.web.copies: expected a whole number from 1 to 99, found 100'),
  change('copies: 3', 'copies: 2.5', '14:13: jobs.web.copies: expected a whole number from 1 to 99, found 2.5'),
  change('copies: 3', 'copies: "3"', '14:13: jobs.web.copies: expected a whole number from 1 to 99, found "3"; did you mean 3 without quotes?'),
  change('capture: live', 'capture: shutdwon', '15:14: jobs.web.capture: expected "shutdown" or "live", found "shutdwon"; did you mean "shutdown"?'),
  inJob('live: lwm', '16:11: jobs.web.live: expected "backup" or "lvm", found "lwm"; did you mean "lvm"?'),
  inJob('snapshot_size: 20', '16:20: jobs.web.snapshot_size: expected a part of the disk such as 20%, or a size such as 10GiB, found 20; did you mean "20MiB"?'),
  inJob('snapshot_size: 0%', '16:20: jobs.web.snapshot_size: expected 1% to 100% of the disk, found "0%"'),
  inJob('schedule: "0 2 * *"', '16:15: jobs.web.schedule: expected five cron fields (minute hour day month weekday), found 4 in "0 2 * *"'),
  inJob('schedule: "0 25 * * *"', '16:15: jobs.web.schedule: "0 25 * * *" is no valid cron schedule: Invalid value for hour: 25'),
  inJob('schedule: "0 0 30 2 *"', '16:15: jobs.web.schedule: "0 0 30 2 *" never happens'),
  inJob('schedule: nightly', '16:15: jobs.web.schedule: expected five cron fields (minute hour day month weekday) or one of @hourly @daily @weekly @monthly @yearly, found "nightly"'),
  inJob('shutdown_timeout: 5m', '16:23: jobs.web.shutdown_timeout: expected a duration such as 90s, 5min, 6h or 30d, found "5m"; did you mean "5min"?'),
  inJob('max_job_time: 0s', '16:19: jobs.web.max_job_time: expected at least 1s, found "0s"'),
  inJob('on_shutdown_timeout: force', '16:26: jobs.web.on_shutdown_timeout: expected "fail" or "force-off", found "force"; did you mean "force-off"?'),
  inJob('scratch_reserve: 1G', '16:22: jobs.web.scratch_reserve: expected a size such as 10GiB, found "1G"; did you mean "1GiB"?'),
  inJob('disk_names: {0: root}', '16:18: jobs.web.disk_names.0: expected a disk\'s device such as vda, or SERVER/vda, found "0"'),
  inJob('disk_names: {Web1/vda: root}', '16:18: jobs.web.disk_names.Web1/vda: server "Web1" is not in this job; did you mean "Web01/vda"?'),
  inJob('disk_names: {vda: a, vdb: a}', '16:31: jobs.web.disk_names.vdb: vda has the name "a" already; each disk of a server needs its own'),
  inJob('disk_names: {vda: a/b}', '16:23: jobs.web.disk_names.vda: the disk name "a/b" can\'t be used in an image name: it is a path'),
  inJob('overwrite_only_copy: 1', '16:26: jobs.web.overwrite_only_copy: expected true or false, found 1'),
  change('    capture: live\n', '    capture: live\n  db: {anvil: an-a01, targets: [dr01], servers: [Db01], copies: 1, capture: live}\n',
    '16:50: jobs.db.servers[0]: Db01 is in job web too, with the same target dr01; a server has one job per target'),
];

interface BadCall {
  readonly argv: readonly string[];
  readonly status: number;
  /** All of stderr; with `json`, the code, message and hint on stdout. */
  readonly says: readonly string[];
  /** Also run as a process. */
  readonly spawn?: true;
}

/** `GOOD` is the good file's path, `DIR` its directory. */
const CALLS: readonly BadCall[] = [
  { argv: [], status: 2, spawn: true, says: ['dr: no command was given', '    dr --help lists the commands; dr check is a good first one.'] },
  { argv: ['rnu'], status: 2, says: ['dr: unknown command \'rnu\'', '    Did you mean run? See dr --help.'] },
  { argv: ['run'], status: 2, says: ['dr: missing required argument \'job\'', '    See dr run --help.'] },
  { argv: ['run', 'web', 'db'], status: 2, says: ['dr: too many arguments for \'run\'. Expected 1 argument but got 2.', '    See dr run --help.'] },
  { argv: ['run', '--sever', 'Web01', 'web'], status: 2, says: ['dr: unknown option \'--sever\'', '    Did you mean --server? See dr run --help.'] },
  { argv: ['run', 'web', '--server'], status: 2, says: ['dr: option \'-s, --server <name>\' argument missing', '    See dr run --help.'] },
  { argv: ['plan', 'web', '-c', 'DIR/none.yaml'], status: 2, spawn: true, says: ['dr: there is no configuration file DIR/none.yaml',
    '    Name one with --config FILE or $DR_CONFIG, or write /etc/dr/dr.yaml; docs/configuration.md has an example.'] },
  { argv: ['plan', 'web', '-c', 'DIR'], status: 2, says: ['dr: the configuration file DIR can\'t be read: it is a directory', '    Name a readable file with --config FILE or $DR_CONFIG.'] },
  { argv: ['plan', 'web', '-c', 'DIR/binary.yaml'], status: 2, says: ['DIR/binary.yaml is not a text file in UTF-8', END] },
  { argv: ['run', 'wbe', '-c', 'GOOD'], status: 2, spawn: true, says: ['dr: there is no job "wbe" in GOOD', '    Did you mean web?'] },
  { argv: ['plan', 'database', '-c', 'GOOD'], status: 2, says: ['dr: there is no job "database" in GOOD', '    The jobs are: web.'] },
  { argv: ['check', '../web', '-c', 'GOOD'], status: 2, says: ['dr: there is no job "../web" in GOOD', '    The jobs are: web.'] },
  { argv: ['run', 'web', '-s', 'web01', '-c', 'GOOD'], status: 2, says: ['dr: server "web01" is not in job web', '    Did you mean Web01?'] },
  { argv: ['cancel', 'web', '-s', 'Mail', '-c', 'GOOD'], status: 2, says: ['dr: server "Mail" is not in job web', '    Its servers are: Db01, Web01.'] },
  { argv: ['images', '-t', 'dr1', '-c', 'GOOD'], status: 2, says: ['dr: there is no target "dr1" in GOOD', '    Did you mean dr01?'] },
  { argv: ['verify', 'Web02', '-c', 'GOOD'], status: 2, says: ['dr: server "Web02" is in no job of GOOD', '    Did you mean Web01?'] },
  { argv: ['release', '../Web01', '-c', 'GOOD'], status: 2, says: ['dr: server "../Web01" is in no job of GOOD', '    The servers are: Db01, Web01.'] },
  { argv: ['release', 'Web01', '-t', 'x', '-c', 'GOOD'], status: 2, says: ['dr: there is no target "x" in GOOD', '    The targets are: dr01.'] },
  { argv: ['definitions', 'preview', '-c', 'GOOD'], status: 2, says: ['dr: required option \'-f, --file <file>\' not specified', '    See dr definitions --help.'] },
  { argv: ['definitions', 'preview', '-f', 'DIR/none.xml', '-s', 'Web01', '-t', 'dr01', '-c', 'GOOD'], status: 2, says: [
    'dr: the domain XML can\'t be read: ENOENT: no such file or directory, open \'DIR/none.xml\'', '    Name a readable file with --file, or - for standard input.'] },
  { argv: ['help', 'rnu'], status: 2, says: ['dr: unknown command \'rnu\'', '    dr --help lists the commands.'] },
];

const ACTIVATE_CALLS: readonly BadCall[] = [
  { argv: ['--sequence', '0'], status: 2, spawn: true, says: ['dr-activate: option \'--sequence <n>\' argument \'0\' is invalid. Expected a number from 1 to 99.', '             See dr-activate --help.'] },
  { argv: ['--sequence', 'newest'], status: 2, says: ['dr-activate: option \'--sequence <n>\' argument \'newest\' is invalid. Expected a number from 1 to 99.', '             See dr-activate --help.'] },
  { argv: ['--definitions', 'here'], status: 2, says: ['dr-activate: option \'--definitions <dir>\' argument \'here\' is invalid. Expected an absolute directory.', '             See dr-activate --help.'] },
  { argv: ['--store', '/srv/dr'], status: 2, says: ['dr-activate: --store: expected fs:/directory or vg:VG[,VG…], found "/srv/dr"', '             Did you mean fs:/srv/dr?'] },
  { argv: ['--force'], status: 2, says: ['dr-activate: unknown option \'--force\'', '             See dr-activate --help.'] },
  { argv: ['../Web01'], status: 2, says: ['dr-activate: the server name "../Web01" can\'t be used in an image name: it is a path. Nothing was touched.',
    '             Name servers as their definitions are named, without .xml; dr-activate --dry-run lists them.'] },
];

describe('bad input', () => {
  let directory: string;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'dr-bad-'));
    await mkdir(join(directory, 'x'));
    await writeFile(join(directory, 'good.yaml'), GOOD);
    await writeFile(join(directory, 'binary.yaml'), Uint8Array.of(0x76, 0xff, 0xfe, 0x0a));
  });

  after(() => rm(directory, { recursive: true }));

  const filled = (text: string): string => text.replaceAll('DIR', directory).replaceAll('GOOD', join(directory, 'good.yaml'));

  const call = async (program: typeof dr, argv: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> => {
    const terminal = capturedTerminal();
    const status = await program(argv, {
      terminal, env: {}, signal: new AbortController().signal,
      wiring: () => { throw new Error('the head was asked'); },
    });
    return { status, stdout: terminal.stdout(), stderr: terminal.stderr() };
  };

  for (const [index, { change: [from, to], says }] of FILES.entries()) {
    it(`configuration ${String(index + 1)}: ${says[0] ?? ''}`, async () => {
      assert(GOOD.includes(from), 'the change has no place in the good file');
      const file = join(directory, 'bad.yaml');
      await writeFile(file, GOOD.replace(from, to));
      assert.deepEqual(await call(dr, ['plan', 'web', '--config', file]),
        { status: 2, stdout: '', stderr: `${[...says.map((line) => `${file}:${line}`), END].join('\n')}\n` });
    });
  }

  for (const [name, program, calls] of [['dr', dr, CALLS], ['dr-activate', drActivate, ACTIVATE_CALLS]] as const) {
    for (const { argv, status, says, spawn } of calls) {
      const expected = { status, stdout: '', stderr: `${says.join('\n')}\n` };
      it(`${name} ${argv.join(' ')}: exit ${String(status)}`, async () => {
        assert.deepEqual(await call(program, argv.map(filled)), { ...expected, stderr: filled(expected.stderr) });
      });
      if (spawn !== true) continue;
      it(`${name} ${argv.join(' ')}: the same as a process`, () => {
        const { status: exit, stdout, stderr } = spawnSync(join('bin', name), argv.map(filled), { encoding: 'utf8', env: { PATH: process.env['PATH'] }, cwd: new URL('../../../', import.meta.url) });
        assert.deepEqual({ status: exit, stdout, stderr }, { ...expected, stderr: filled(expected.stderr) });
      });
    }
  }

  it('says the same as JSON on stdout, and nothing else, with --json', async () => {
    const usage = await call(dr, ['run', '--json']);
    assert.deepEqual([usage.status, usage.stderr, JSON.parse(usage.stdout)],
      [2, '', { code: 'usage', message: 'missing required argument \'job\'', hint: 'See dr run --help.' }]);
    const missing = await call(dr, ['run', 'web', '--json', '-c', '/nowhere/dr.yaml']);
    assert.deepEqual([missing.status, missing.stderr, (JSON.parse(missing.stdout) as { code: string }).code], [2, '', 'config-missing']);
  });

  it('shows control characters of a bad name instead of sending them to the terminal', async () => {
    const { status, stderr } = await call(dr, ['run', 'x\x1b[31m', '-c', join(directory, 'good.yaml')]);
    assert.equal(status, 2);
    assert(!stderr.includes('\x1b'), stderr);
  });
});
