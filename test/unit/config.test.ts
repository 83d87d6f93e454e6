import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { loadConfig, parseConfig } from '../../src/config/load.js';
import { checkServersOfJob, resolveJob } from '../../src/config/lookup.js';
import { editDistance, nearest } from '../../src/config/nearest.js';
import { nextRun } from '../../src/config/schedule.js';
import { readDuration, readRate, readSize } from '../../src/config/units.js';
import { diskNameFor } from '../../src/model/config.js';
import { DrError } from '../../src/model/errors.js';

const MINIMAL = `version: 1
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

function mistakes(text: string): string[] {
  try {
    parseConfig('dr.yaml', text);
  } catch (error) {
    assert(error instanceof DrError && error.code === 'config-invalid');
    return error.message.split('\n');
  }
  return [];
}

describe('configuration', () => {
  it('fills in every default', () => {
    assert.deepEqual(parseConfig('dr.yaml', MINIMAL), {
      file: 'dr.yaml',
      anvils: new Map([['an-a01', { name: 'an-a01', nodes: ['an-a01n01', 'an-a01n02'], libvirt: 'qemu:///system', commands: {} }]]),
      targets: new Map([['dr01', {
        name: 'dr01', host: 'an-dr01', reach: 'an-dr01', libvirt: 'qemu:///system', store: 'fs:/srv/dr', definitions: '/shared/definitions',
        current: '/shared/dr/current', useCache: true, bandwidth: [], allocation: 'sparse',
      }]]),
      jobs: new Map([['web', {
        name: 'web', anvil: 'an-a01', targets: ['dr01'], servers: ['Db01', 'Web01'], copies: 3, capture: 'live', live: 'backup', snapshotSize: { percent: 20 }, keepBase: false,
        shutdownTimeoutSeconds: 120, onShutdownTimeout: 'fail', lateShutdownWatchSeconds: 21_600, maxJobTimeSeconds: 7200,
        scratch: '/var/lib/libvirt/dr-engine', scratchReserveBytes: 2 ** 30, diskNames: [], overwriteOnlyCopy: false, allowEncrypted: false,
      }]]),
      cacheSignature: '.dr_cache', reproveAfterSeconds: 30 * 86_400, agentCommand: ['dr'],
    });
  });

  it('reads every key', () => {
    const config = parseConfig('dr.yaml', `version: 1
anvils:
  a:
    nodes: [local, root@10.0.0.2]
    libvirt: qemu+unix:///session
    definitions: /shared//definitions/
    commands:
      shutdown: [pcs, resource, disable, "{server}"]
      start: [pcs, resource, enable, "{server}"]
targets:
  t: {host: local, reach: dr.example.org, store: "fs:/srv//dr/", libvirt: "qemu:///session", definitions: /d, current: /c/, use_cache: false, bandwidth_limit: 40MiB/s, streams: 3, allocation: full}
jobs:
  j:
    anvil: a
    targets: [t]
    servers: [Web01]
    copies: 1
    capture: shutdown
    live: lvm
    snapshot_size: 12.5%
    keep_base: true
    schedule: "@daily"
    shutdown_timeout: 5min
    on_shutdown_timeout: force-off
    late_shutdown_watch: 1h30min
    max_job_time: 90s
    scratch: /scratch
    scratch_reserve: 1.5GiB
    disk_names: {vda: root, Web01/vdb: data}
    overwrite_only_copy: true
    allow_encrypted: true
cache: {signature: .cache}
reprove_after: 7d
agent_command: [sudo, dr]
`);
    assert.deepEqual(config.anvils.get('a'), {
      name: 'a', nodes: ['local', 'root@10.0.0.2'], libvirt: 'qemu+unix:///session', definitions: '/shared/definitions',
      commands: { shutdown: ['pcs', 'resource', 'disable', '{server}'], start: ['pcs', 'resource', 'enable', '{server}'] },
    });
    assert.deepEqual(config.targets.get('t'), {
      name: 't', host: 'local', reach: 'dr.example.org', store: 'fs:/srv/dr', libvirt: 'qemu:///session', definitions: '/d', current: '/c',
      useCache: false, bandwidth: [{ from: 0, to: 1440, bytesPerSecond: 40 * 2 ** 20 }], streams: 3, allocation: 'full',
    });
    assert.deepEqual(config.jobs.get('j'), {
      name: 'j', anvil: 'a', targets: ['t'], servers: ['Web01'], copies: 1, capture: 'shutdown', live: 'lvm', snapshotSize: { percent: 12.5 }, keepBase: true, schedule: '@daily',
      shutdownTimeoutSeconds: 300, onShutdownTimeout: 'force-off', lateShutdownWatchSeconds: 5400, maxJobTimeSeconds: 90, scratch: '/scratch',
      scratchReserveBytes: 1.5 * 2 ** 30, diskNames: [{ target: 'vda', name: 'root' }, { server: 'Web01', target: 'vdb', name: 'data' }],
      overwriteOnlyCopy: true, allowEncrypted: true,
    });
    assert.deepEqual([config.cacheSignature, config.reproveAfterSeconds, config.agentCommand], ['.cache', 7 * 86_400, ['sudo', 'dr']]);
  });

  it('takes volume groups for a store, with and without thin pools', () => {
    for (const store of ['vg:dr01_vg0', 'vg:dr01_vg0,dr01_vg1', 'vg:dr01_vg0/pool,dr01_vg1', 'vg:snapshots.1+2']) {
      assert.equal(parseConfig('dr.yaml', MINIMAL.replace('fs:/srv/dr', store)).targets.get('dr01')?.store, store);
    }
    assert.equal(parseConfig('dr.yaml', MINIMAL.replace('fs:/srv/dr', 'vg:a,b\n    allocation: full')).targets.get('dr01')?.allocation, 'full');
    const apart = MINIMAL.replace('    store: fs:/srv/dr', '    store: vg:a\n  dr02: {host: an-dr01, store: "vg:b", current: /c}\n  dr03: {host: an-dr03, store: "vg:a"}');
    assert.equal(parseConfig('dr.yaml', apart).targets.size, 3, 'on another host the name means another group');
  });

  it('follows anchors and aliases, and says where the mistake behind one is', () => {
    const text = MINIMAL.replace('nodes: [an-a01n01, an-a01n02]', 'nodes: &nodes [an-a01n01, an-a01n02]').replace('targets:\n', '  an-a02:\n    nodes: *nodes\ntargets:\n');
    assert.deepEqual(parseConfig('dr.yaml', text).anvils.get('an-a02')?.nodes, ['an-a01n01', 'an-a01n02']);
    assert.deepEqual(mistakes(text.replace('an-a01n02]', '7]')), [
      'dr.yaml:4:31: anvils.an-a01.nodes[1]: expected an ssh destination such as an-a01n01 or root@10.20.10.1, or local, found 7',
      'dr.yaml:4:31: anvils.an-a02.nodes[1]: expected an ssh destination such as an-a01n01 or root@10.20.10.1, or local, found 7',
    ]);
  });

  it('reports all mistakes at once, in the order of the file', () => {
    assert.deepEqual(mistakes(MINIMAL.replace('version: 1', 'version: 2').replace('copies: 3', 'copys: 3').replace('capture: live', 'capture: lvie')), [
      'dr.yaml:1:10: version: expected 1, the version of this file\'s format, found 2',
      'dr.yaml:10:3: jobs.web.copies: is missing; expected a whole number from 1 to 99',
      'dr.yaml:14:5: jobs.web.copys: unknown key; did you mean "copies"?',
      'dr.yaml:15:14: jobs.web.capture: expected "shutdown" or "live", found "lvie"; did you mean "live"?',
    ]);
  });

  it('holds places against each other even where parts of the file are wrong', () => {
    assert.deepEqual(mistakes(MINIMAL.replace('copies: 3', 'copies: 0').replace('targets: [dr01]', 'targets: [dr1]')), [
      'dr.yaml:12:15: jobs.web.targets[0]: there is no target "dr1" in this file; did you mean "dr01"?',
      'dr.yaml:14:13: jobs.web.copies: expected a whole number from 1 to 99, found 0',
    ]);
  });

  it('lets one server have two jobs with different targets', () => {
    const text = MINIMAL.replace('jobs:', '  dr02:\n    host: an-dr02\n    store: fs:/srv/dr\njobs:\n  other: {anvil: an-a01, targets: [dr02], servers: [Web01], copies: 1, capture: shutdown}');
    assert.equal(parseConfig('dr.yaml', text).jobs.size, 2);
  });

  it('never throws anything but config-invalid, whatever the file holds', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json(), fc.nat(MINIMAL.length).chain((at) =>
      fc.string({ maxLength: 8 }).map((noise) => MINIMAL.slice(0, at) + noise + MINIMAL.slice(at + noise.length)))), (text) => { mistakes(text); }), { numRuns: 300 });
  });

  it('reads the file named, else $DR_CONFIG', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'dr-config-'));
    try {
      const file = join(directory, 'dr.yaml');
      await writeFile(file, MINIMAL);
      assert.equal((await loadConfig(file, {})).file, file);
      assert.equal((await loadConfig(undefined, { DR_CONFIG: file })).file, file);
      assert.equal((await loadConfig(file, { DR_CONFIG: '/nowhere' })).file, file);
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it('names a disk as the job says for the server, else for all, else by its source', () => {
    const job = parseConfig('dr.yaml', MINIMAL.replace('capture: live', 'capture: live\n    disk_names: {vda: root, Web01/vda: system}')).jobs.get('web');
    assert(job !== undefined);
    assert.deepEqual([diskNameFor(job, 'Web01', 'vda', 'x'), diskNameFor(job, 'Db01', 'vda', 'x'), diskNameFor(job, 'Db01', 'vdb', 'x')], ['system', 'root', 'x']);
  });

  it('reads limits by time of day, also over midnight and side by side', () => {
    const limit = (text: string) => parseConfig('dr.yaml', MINIMAL.replace('store: fs:/srv/dr', `store: fs:/srv/dr\n    bandwidth_limit: ${text}`)).targets.get('dr01')?.bandwidth;
    assert.deepEqual(limit('[{from: "22:00", to: "06:30", limit: 40MiB/s}, {from: 06:30, to: 22:00, limit: 64KiB/s}]'),
      [{ from: 1320, to: 390, bytesPerSecond: 40 * 2 ** 20 }, { from: 390, to: 1320, bytesPerSecond: 65_536 }]);
    assert.deepEqual(limit('\n      - {from: "00:00", to: "24:00", limit: 1MB/s}'), [{ from: 0, to: 1440, bytesPerSecond: 1e6 }]);
    assert.deepEqual(limit('1MB/s'), [{ from: 0, to: 1440, bytesPerSecond: 1e6 }]);
  });

  it('finds a job with what it refers to, and says which names there are', () => {
    const config = parseConfig('dr.yaml', MINIMAL);
    const { job, anvil, targets } = resolveJob(config, 'web');
    assert.deepEqual([job.name, anvil.name, targets.map((target) => target.name)], ['web', 'an-a01', ['dr01']]);
    assert.throws(() => resolveJob(config, 'database'), { code: 'usage', message: 'there is no job "database" in dr.yaml', hint: 'The jobs are: web.' });
    assert.throws(() => { checkServersOfJob(job, ['Db02']); }, { code: 'usage', hint: 'Did you mean Db01?' });
  });
});

describe('configuration: units', () => {
  it('reads sizes, rates and durations', () => {
    for (const [text, value] of [['0B', 0], ['512B', 512], ['1KiB', 1024], ['1.5GiB', 1.5 * 2 ** 30], ['10 TiB', 10 * 2 ** 40], ['1kB', 1000], ['2GB', 2e9]] as const) {
      assert.deepEqual(readSize(text), { ok: true, value }, text);
    }
    assert.deepEqual(readRate('40MiB/s'), { ok: true, value: 40 * 2 ** 20 });
    for (const [text, value] of [['90s', 90], ['5min', 300], ['6h', 21_600], ['30d', 2_592_000], ['1h30min', 5400], ['1.5h', 5400], ['2 h 5 min', 7500]] as const) {
      assert.deepEqual(readDuration(text), { ok: true, value }, text);
    }
  });

  it('guesses at nothing, but says what was probably meant', () => {
    for (const [reading, suggestion] of [
      [readSize('1G'), '1GiB'], [readSize(5), '5MiB'], [readSize('10gb'), '10GiB'], [readRate('40MiB'), '40MiB/s'], [readRate('40m/s'), '40MiB/s'], [readRate(40), '40MiB/s'],
      [readDuration('5m'), '5min'], [readDuration(90), '90s'], [readDuration('2 hours'), '2h'],
    ] as const) assert.deepEqual(reading, { ok: false, suggestion });
    for (const reading of [readSize('-1GiB'), readSize('GiB'), readSize('1XiB'), readSize(Number.NaN), readSize(null), readDuration('soon'), readDuration(-5), readDuration('5ms'), readRate('40Mbit/s'), readSize('constructor')]) {
      assert.deepEqual(reading, { ok: false });
    }
  });

  it('finds the nearest word only if it is near', () => {
    assert.equal(editDistance('copys', 'copies'), 2);
    assert.equal(editDistance('lvie', 'live'), 1);
    assert.equal(nearest('copy', ['copies', 'capture']), 'copies');
    assert.equal(nearest('Nodes', ['nodes']), 'nodes');
    assert.equal(nearest('bandwidth', ['bandwidth_limit']), 'bandwidth_limit');
    assert.equal(nearest('elephant', ['copies', 'capture']), undefined);
    assert.equal(nearest('x', ['nodes']), undefined);
    fc.assert(fc.property(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 }), (a, b) =>
      editDistance(a, b) === editDistance(b, a) && (editDistance(a, b) === 0) === (a === b)));
  });

  it('knows when a schedule comes next', () => {
    assert.deepEqual(nextRun('30 2 * * *', new Date(2026, 10, 20, 3)), new Date(2026, 10, 21, 2, 30));
  });
});
