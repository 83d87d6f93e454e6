import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import type { Guest } from '../lab/guest.js';
import type { LabHost } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { until } from '../lab/namespaces.js';
import { skipBecause } from '../support/skip.js';
import { Admin, ended, FILE, job, parse, type Configuration } from './admin.js';
import { files, fill, names, sumOf } from './outside.js';
import { DefinitionsShape, ErrorShape, FindingsShape, ImagesShape, PlanShape, StatusShape, VerifyShape, type ImageJson } from './shapes.js';

/** What each command prints and exits with, on real hosts, and that those that only look touch nothing. */

const LAB = 'commands';

describe('commands', function () {
  this.timeout(240_000);
  let lab: Lab;
  let admin: Admin;
  let node: LabHost;
  let target: LabHost;
  let db: Guest;
  let off: Guest;

  const good: Configuration = { jobs: { db: job(['Db01', 'Off01'], { schedule: '0 2 * * *' }) } };

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'node02', 'dr01', 'head01'], store: { sizeMiB: 512 } });
    node = lab.host('node01');
    target = lab.host('dr01');
    admin = new Admin(lab.host('head01'));
    db = await lab.addGuest('node01', { name: 'Db01', disks: [{}, { sizeMiB: 8 }] });
    off = await lab.addGuest('node01', { name: 'Off01', disks: [{}, { sizeMiB: 8 }], start: false });
    await db.beats(1);
  });
  beforeEach(async () => { await admin.configure(good); });
  after(async () => { await Lab.down(LAB); });

  /** Everything on the hosts that a command could touch. What a session writes and takes away again changes only directories' times. */
  async function everything(): Promise<string> {
    const here = async (host: LabHost, ...paths: readonly string[]): Promise<string> => (await sumOf(host, ...paths)).replaceAll(/^\S+ d .*\n/gm, '');
    return [await here(target, '/srv/dr', '/shared', '/var/lib/dr-engine', '/etc/libvirt/qemu'), await here(node, '/shared', '/var/lib/dr-engine', '/etc/libvirt/qemu', '/var/lib/libvirt/dr-engine')].join('---\n');
  }

  it('dr plan shows every step of the first run and touches nothing', async () => {
    const before = await everything();
    const { status, value, all } = await admin.json(PlanShape, 'plan', 'db');
    assert.equal(status, 0, all);
    assert.deepEqual(value.servers.map(({ name, node: where, capture, disks }) => [name, where, capture, disks.map(({ bytes }) => bytes / 2 ** 20)]),
      [['Db01', 'node01', 'live', [8, 8]], ['Off01', 'node01', 'cold', [8, 8]]]);
    for (const name of ['Db01_Db01_0_incomplete', 'Db01_Db01_1_incomplete', 'Off01_Off01_0_1']) assert.ok(value.steps.some(({ text }) => text.includes(name)), `${name} is in no step: ${all}`);
    assert.equal(await everything(), before);
    const text = await admin.dr('plan', 'db');
    assert.match(text.stdout, /Nothing was touched\. Next: dr run db/);
  });

  it('dr check is green where a run will do, and red with a remedy where it will not', async () => {
    const before = await everything();
    const green = await admin.json(FindingsShape, 'check', 'db');
    assert.equal(green.status, 0, green.all);
    assert.deepEqual(green.value.filter(({ ok, level }) => !ok || level === 'error'), []);
    for (const host of ['node01', 'node02', 'dr01']) assert.ok(green.value.some((finding) => finding.host === host), `nothing is said of ${host}`);

    await admin.configure({ jobs: { db: job(['Db01']) }, targets: { dr01: { host: 'dr01', store: 'fs:/srv/nowhere' } }, anvils: { 'an-a01': { nodes: ['node01', 'node09'] } } });
    const red = await admin.json(FindingsShape, 'check');
    assert.equal(red.status, 1, red.all);
    const wrong = red.value.filter(({ level }) => level === 'error');
    assert.ok(wrong.some(({ host, what }) => host === 'node09' && /can't be reached/.test(what)), red.all);
    assert.ok(wrong.some(({ host, what }) => host === 'dr01' && what.includes('/srv/nowhere')), red.all);
    for (const finding of wrong) assert.ok(!finding.ok && finding.remedy !== '', `no remedy: ${JSON.stringify(finding)}`);
    assert.equal(await everything(), before);
  });

  it('dr run and dr images say what is in the store, digests included', async () => {
    const { report } = await admin.runsWell('db');
    await admin.runsWell('db', '--server', 'Db01');
    const { status, value } = await admin.json(ImagesShape, 'images', '--target', 'dr01');
    assert.equal(status, 0);
    assert.deepEqual(value.map(({ name }) => name).sort(), ['Db01_Db01_0_1', 'Db01_Db01_0_2', 'Db01_Db01_1_1', 'Db01_Db01_1_2', 'Off01_Off01_0_1', 'Off01_Off01_1_1']);
    const seen = new Map([...await files(target, 'Db01'), ...await files(target, 'Off01')]);
    for (const row of value) {
      const file = seen.get(row.name);
      assert.deepEqual([row.state, row.bytes, row.set, row.disk, row.in_use], ['complete', file?.bytes, file?.set, file?.disk, null]);
      assert.equal(row.digest, await digestOf(row));
    }
    for (const { name, images } of report.servers) {
      for (const { disk, digest } of images) assert.equal(digest, value.find((row) => row.server === name && row.disk === disk && row.sequence === (name === 'Db01' ? 2 : 1))?.digest);
    }
  });

  /** The digest as docs/architecture.md defines it: SHA-256 of the SHA-256 of every MiB. */
  async function digestOf({ name }: Pick<ImageJson, 'name'>): Promise<string> {
    const { stdout } = await target.run('split', ['--bytes=1M', '--filter=sha256sum', `/srv/dr/${name}.raw`]);
    const blocks = [...stdout.matchAll(/^([0-9a-f]{64})/gm)].map(([, hex]) => Buffer.from(hex ?? '', 'hex'));
    return `sha256-1MiB:${createHash('sha256').update(Buffer.concat(blocks)).digest('hex')}`;
  }

  it('dr status shows the last run, the next, and the age of every newest copy', async () => {
    const { status, value, all } = await admin.json(StatusShape, 'status');
    assert.equal(status, 0, all);
    assert.deepEqual(value.jobs.map(({ job: name, last, running }) => [name, last?.outcome, running]), [['db', 'ok', null]]);
    const next = Date.parse(value.jobs[0]?.next ?? '');
    assert.ok(next > Date.now() && next <= Date.now() + 86_400_000, `the next run is at ${String(value.jobs[0]?.next)}`);
    assert.deepEqual(value.servers.map(({ server, target: where, complete_sets: sets, activated }) => [server, where, sets, activated]), [['Db01', 'dr01', 2, null], ['Off01', 'dr01', 1, null]]);
    for (const { age_ms: age } of value.servers) assert.ok(age !== null && age < 600_000);
    assert.deepEqual([value.owed, value.problems], [[], []]);
  });

  it('dr definitions shows drift and applies nothing, and no run changes a hand-tuned definition', async () => {
    const fits = await admin.json(DefinitionsShape, 'definitions');
    assert.deepEqual(fits.value.map(({ server, state, difference }) => [server, state, difference]), [['Db01', 'fits', []], ['Off01', 'fits', []]], fits.all);
    const edit = (server: string, script: string): Promise<unknown> => target.run('sed', ['-i', script, `/shared/definitions/${server}.xml`]);
    await edit('Db01', 's|<memory unit=.*</memory>|<memory unit="MiB">20</memory><!-- more here -->|');
    await edit('Off01', "s|machine='[^']*'|machine='q35'|");
    await target.writeFile('/shared/definitions/Stray01.xml', '<domain type="qemu"><name>Stray01</name></domain>\n');
    const before = await sumOf(target, '/shared/definitions');
    const drifted = await admin.json(DefinitionsShape, 'definitions');
    assert.equal(drifted.status, 0, drifted.all);
    // More memory is tuning; another machine is another server.
    assert.deepEqual(drifted.value.map(({ server, state }) => [server, state]), [['Db01', 'fits'], ['Off01', 'drifted'], ['Stray01', 'orphan']], drifted.all);
    assert.match(drifted.value[0]?.difference.join('\n') ?? '', /^- memory: 20 MiB$/m);
    assert.match(drifted.value[1]?.difference.join('\n') ?? '', /q35/);
    await admin.runsWell('db', '--server', 'Db01');
    assert.equal(await sumOf(target, '/shared/definitions'), before, 'P5: a definition was changed');
    await target.run('rm', ['/shared/definitions/Stray01.xml']);
  });

  it('dr definitions preview prints what would be published, and asks no host', async () => {
    await admin.host.writeFile('/root/Db01.xml', db.xml);
    const preview = await admin.dr('definitions', 'preview', '--file', '/root/Db01.xml', '--server', 'Db01', '--target', 'dr01');
    assert.equal(preview.status, 0, preview.all);
    assert.match(preview.stdout, /this comment must survive/);
    assert.match(preview.stdout, /\/shared\/dr\/current\/Db01\/Db01_0/);
    await target.writeFile('/tmp/preview.xml', preview.stdout);
    await target.run('virt-xml-validate', ['/tmp/preview.xml', 'domain']);
  });

  describe('dr verify', () => {
    const stateOf = async (name: string): Promise<string | undefined> => (await admin.json(ImagesShape, 'images')).value.find((row) => row.name === name)?.state;

    it('finds every image as it was proven', async () => {
      const { status, value, all } = await admin.json(VerifyShape, 'verify');
      assert.equal(status, 0, all);
      assert.deepEqual(value.filter(({ outcome }) => outcome !== 'ok'), []);
      assert.equal(value.length, 8);
    });

    it('finds one flipped byte that no time stamp shows, and says which block', async () => {
      const image = '/srv/dr/Db01_Db01_1_3.raw';
      await target.run('sh', ['-ec', 'touch -r "$1" /tmp/times; printf x | dd of="$1" bs=1 seek=5000000 conv=notrunc status=none; touch -r /tmp/times "$1"; sync', 'sh', image]);
      assert.equal(await stateOf('Db01_Db01_1_3'), 'complete', 'the flipped byte shows without reading');
      const { status, value, all } = await admin.json(VerifyShape, 'verify', 'Db01');
      assert.equal(status, 1, all);
      assert.deepEqual(value.filter(({ outcome }) => outcome === 'damaged').map(({ name }) => name), ['Db01_Db01_1_3'], all);
      assert.match(value.find(({ outcome }) => outcome === 'damaged')?.detail ?? '', /1 blocks? of 1 MiB differ.*\b4\b/);
      assert.equal(await stateOf('Db01_Db01_1_3'), 'damaged');
      assert.equal(await stateOf('Db01_Db01_1_2'), 'complete');
    });

    it('the next run gives up the damaged copy, not a good one', async () => {
      const before = await files(target, 'Db01');
      await admin.runsWell('db', '--server', 'Db01');
      const now = await files(target, 'Db01');
      for (const disk of ['0', '1']) for (const slot of [1, 2]) {
        const [was, is] = [before.get(`Db01_Db01_${disk}_${String(slot)}`), now.get(`Db01_Db01_${disk}_${String(slot + 1)}`)];
        assert.deepEqual([is?.inode, is?.sum], [was?.inode, was?.sum]);
      }
      const { status, all } = await admin.json(VerifyShape, 'verify', 'Db01');
      assert.equal(status, 0, all);
    });

    it('--adopt takes back an image that was moved by hand and lost its binding, and nothing that only has its name', async () => {
      const image = '/srv/dr/Db01_Db01_0_2.raw';
      await target.run('sh', ['-ec', 'cp --sparse=always "$1" /srv/dr/away; rm "$1"; mv /srv/dr/away "$1"', 'sh', image]);
      assert.equal(await stateOf('Db01_Db01_0_2'), undefined);
      assert.equal(await stateOf('Db01_Db01_1_2'), 'unproven', 'a set with a lost disk counts as complete');
      await target.writeFile('/srv/dr/Off01_Off01_0_2.raw', 'not an image\n');
      const stranger = await sumOf(target, '/srv/dr/Off01_Off01_0_2.raw');
      const { status, value, all } = await admin.json(VerifyShape, 'verify', '--adopt');
      assert.equal(status, 0, all);
      assert.match(value.find(({ name }) => name === 'Db01_Db01_0_2')?.detail ?? '', /adopted/, all);
      assert.equal(await stateOf('Db01_Db01_0_2'), 'complete');
      assert.equal(await sumOf(target, '/srv/dr/Off01_Off01_0_2.raw'), stranger);

      const foreign = await admin.run('db', '--server', 'Off01');
      assert.deepEqual([foreign.status, foreign.server().error?.code], [4, 'foreign-image'], foreign.all);
      assert.equal(await sumOf(target, '/srv/dr/Off01_Off01_0_2.raw'), stranger);
      await target.run('rm', ['/srv/dr/Off01_Off01_0_2.raw']);
      await admin.runsWell('db', '--server', 'Db01');
    });
  });

  describe('exit statuses', () => {
    const error = async (wanted: number, code: string, ...args: readonly string[]): Promise<string> => {
      const answer = await admin.dr(...args, '--json');
      assert.equal(answer.status, wanted, answer.all);
      const { code: given, message } = parse(ErrorShape, answer);
      assert.equal(given, code, answer.all);
      return message;
    };

    it('2 for a job that is not there and for a wrong file, with the place', async () => {
      await error(2, 'usage', 'run', 'wbe');
      await error(2, 'usage', 'run', 'db', '--server', 'Nobody');
      await admin.host.writeFile('/root/wrong.yaml', (await admin.host.readFile(FILE)).replace('"copies"', '"copys"'));
      assert.match(await error(2, 'config-invalid', 'run', 'db', '--config', '/root/wrong.yaml'), /^\/root\/wrong\.yaml:\d+:\d+: jobs\.db\.copys: unknown key; did you mean "copies"\?$/m);
    });

    it('4 for a server that is nowhere, alone; 3 beside one that can be imaged', async () => {
      await admin.configure({ jobs: { ghost: job(['Ghost01']), both: job(['Off01'], { servers: ['Off01', 'Ghost02'] }) } });
      const before = await everything();
      const alone = await admin.run('ghost');
      assert.deepEqual([alone.status, alone.report.outcome, alone.server().error?.code], [4, 'refused', 'server-unknown'], alone.all);
      assert.equal(await everything(), before);
      const beside = await admin.run('both');
      assert.deepEqual([beside.status, beside.report.outcome, beside.server('Off01').outcome, beside.server('Ghost02').outcome], [3, 'partial', 'ok', 'refused'], beside.all);
    });

    it('5 while the job runs, which dr status shows; 130 after dr cancel, which leaves the copies as they were', async () => {
      await fill(off, 1, 'write -P 7 0 8M');
      const copies = async (): Promise<string[]> => [...(await files(target, 'Off01')).values()].filter(({ name }) => !name.endsWith('_incomplete')).map(({ set, disk, sum }) => `${set} ${disk} ${sum}`).sort();
      const before = await copies();
      await admin.configure({ ...good, targets: { dr01: { host: 'dr01', store: 'fs:/srv/dr', bandwidth_limit: '128KiB/s' } } });
      const run = await admin.start('db', '--server', 'Off01');
      await until('the run to send', async () => (await names(target, '/srv/dr')).includes('Off01_Off01_1_incomplete.raw') ? true : undefined, 60_000);
      await error(5, 'already-running', 'run', 'db');
      const { value } = await admin.json(StatusShape, 'status');
      assert.equal(value.jobs[0]?.running?.host, 'head01');
      const cancel = await admin.dr('cancel', 'db');
      assert.equal(cancel.status, 0, cancel.all);
      const { status, report, all } = await ended(run);
      assert.deepEqual([status, report.outcome], [130, 'cancelled'], all);
      assert.equal((await admin.dr('cancel', 'db')).status, 0);
      assert.deepEqual(await copies(), before);
      const left = await admin.json(VerifyShape, 'verify', 'Off01');
      assert.equal(left.status, 1, left.all);
      assert.deepEqual([...new Set(left.value.filter(({ outcome }) => outcome !== 'ok').map(({ name }) => name))].sort(), ['Off01_Off01_0_incomplete', 'Off01_Off01_1_incomplete']);
    });

    it('4 for an agent of another version, said before anything is touched', async () => {
      const before = await everything();
      const other = `#!${process.execPath}
let text = '';
process.stdin.on('data', (data) => {
  text += data;
  const id = /"id":(\\d+)/.exec(text)?.[1];
  if (id === undefined) return;
  const answer = JSON.stringify({ jsonrpc: '2.0', id: Number(id), result: { protocol: 9999, version: '99.0.0', hostname: 'x', bootId: 'x' } });
  process.stdout.write('Content-Length: ' + answer.length + '\\r\\n\\r\\n' + answer);
});
process.stdin.on('end', () => process.exit(0));
`;
      for (const host of ['node01', 'node02']) await lab.host(host).writeFile('/root/agent', '#!/bin/sh\nexec dr "$@"\n', 0o755);
      await target.writeFile('/root/agent', other, 0o755);
      await admin.configure({ ...good, more: { agent_command: ['/root/agent'] } });
      const { status, report, server, all } = await admin.run('db');
      assert.deepEqual([status, report.outcome, server('Db01').error?.code], [4, 'refused', 'protocol-version'], all);
      assert.match(server('Db01').error?.message ?? '', /dr01 speaks protocol 9999 \(version 99\.0\.0\)/);
      await target.writeFile('/root/agent', '#!/bin/sh\nexec dr "$@"\n', 0o755);
      await node.writeFile('/root/agent', other, 0o755);
      const onNode = await admin.run('db');
      assert.deepEqual([onNode.status, onNode.report.outcome], [4, 'refused'], onNode.all);
      assert.match(onNode.server('Off01').error?.message ?? '', /node01 speaks protocol 9999/);
      assert.equal(await everything(), before);
    });
  });
});
