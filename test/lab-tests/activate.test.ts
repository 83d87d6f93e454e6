import assert from 'node:assert/strict';
import { heartbeatIn, type Guest } from '../lab/guest.js';
import type { Host } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import { until } from '../lab/namespaces.js';
import { skipBecause } from '../support/skip.js';
import { Admin, job } from './admin.js';
import { files, Lifecycle, names, sumOf } from './outside.js';

/** Disaster day: from definitions that runs have published to servers that run on the target. The tests are one story, told in order. */

const LAB = 'activate';
const DEFINITIONS = '/shared/definitions';
const OVMF = ['/usr/share/OVMF/OVMF_CODE_4M.fd', '/usr/share/OVMF/OVMF_VARS_4M.fd'] as const;
/** A place in the UEFI variables' file that firmware does not use as long as nothing is reclaimed, and where the guest sees it. */
const MARK = { offset: 0x83f00, address: '0xffc83f00', bytes: 'dr-mark!' } as const;

describe('dr-activate', function () {
  this.timeout(240_000);
  let lab: Lab;
  let admin: Admin;
  let node: Host;
  let target: Host;
  /** They run on node01. */
  let db: Guest;
  let web: Guest;
  /** Off: one with a boot sector only, one with UEFI variables and a TPM. */
  let spare: Guest;
  let uefi: Guest | undefined;
  const all = (): string[] => ['Db01', 'Spare01', 'Web01', ...uefi === undefined ? [] : ['Uefi01']];

  before(async function () {
    const reason = await Lab.impossible();
    if (reason !== undefined) skipBecause(this, reason);
    lab = await Lab.up({ name: LAB, hosts: ['node01', 'dr01'], store: { sizeMiB: 512 } });
    node = lab.host('node01');
    target = lab.host('dr01');
    admin = new Admin(target);
    const disks = [{}, { sizeMiB: 8 }];
    db = await lab.addGuest('node01', { name: 'Db01', disks });
    web = await lab.addGuest('node01', { name: 'Web01', disks });
    spare = await lab.addGuest('node01', { name: 'Spare01', disks: [{}], start: false });
    uefi = await addUefi();
    await node.writeFile(`${DEFINITIONS}/Db01.xml`, db.xml);
    await admin.configure({
      anvils: { 'an-a01': { nodes: ['node01'], definitions: DEFINITIONS } },
      targets: { dr01: { host: 'local', reach: 'dr01', store: 'fs:/srv/dr' } },
      jobs: { all: job(all(), { copies: 2 }) },
    });
    for (let run = 0; run < 2; run++) {
      await Promise.all([db.beats(2), web.beats(2)]);
      await admin.runsWell('all');
    }
  });
  after(async () => { await Lab.down(LAB); });

  /** A server with UEFI variables of its own and, where swtpm is installed, a TPM that has been set up. */
  async function addUefi(): Promise<Guest | undefined> {
    for (const path of OVMF) if (!await node.exists(path)) return undefined;
    const swtpm = (await node.run('sh', ['-c', 'command -v swtpm swtpm_setup'], { okExit: [0, 1, 127] })).exitCode === 0;
    const guest = await lab.addGuest('node01', { name: 'Uefi01', disks: [{}], edit: (xml) => xml
      .replace('<type arch=\'x86_64\' machine=\'pc\'>hvm</type>', (type) => `${type}\n    <loader readonly='yes' type='pflash'>${OVMF[0]}</loader>\n    <nvram template='${OVMF[1]}'>/var/lib/libvirt/qemu/nvram/Uefi01_VARS.fd</nvram>`)
      .replace(/<memory unit='MiB'>\d+</, '<memory unit=\'MiB\'>128<')
      .replace('<memballoon', swtpm ? '<tpm model=\'tpm-tis\'><backend type=\'emulator\' version=\'2.0\'/></tpm>\n    <memballoon' : '<memballoon') });
    if (swtpm) await until('the TPM to be set up', async () => await node.exists(tpmState(guest)) ? true : undefined);
    await guest.destroy();
    await node.run('sh', ['-c', 'printf %s "$1" | dd of=/var/lib/libvirt/qemu/nvram/Uefi01_VARS.fd bs=1 seek="$2" conv=notrunc status=none', 'sh', MARK.bytes, String(MARK.offset)]);
    return guest;
  }

  const tpmState = ({ uuid }: Guest): string => `/var/lib/libvirt/swtpm/${uuid}/tpm2/tpm2-00.permall`;
  const beatIn = (server: string, slot: number): Promise<number> => heartbeatIn(target, `/srv/dr/${server}_${server}_1_${String(slot)}.raw`);
  const everything = (): Promise<string> => sumOf(target, '/srv/dr', '/shared', '/var/lib/dr-engine/activated', '/etc/libvirt/qemu');
  const running = async (): Promise<string[]> => (await target.run('virsh', ['list', '--name'])).stdout.split('\n').filter((name) => name !== '').sort();
  const edit = (server: string, ...script: readonly string[]): Promise<unknown> => target.run('sed', ['-i', ...script.flatMap((each) => ['-e', each]), `${DEFINITIONS}/${server}.xml`]);

  it('finds definitions that runs have published: comments are kept, disks lead to the newest copy, media are out', async () => {
    assert.deepEqual(await names(target, DEFINITIONS), all().sort().map((server) => `${server}.xml`));
    const xml = await target.readFile(`${DEFINITIONS}/Db01.xml`);
    assert.match(xml, /<!-- Db01 belongs to the lab; this comment must survive -->/);
    assert.match(xml, /<!-- a drive with a medium: the drive stays on the copy, the medium does not -->/);
    assert.match(xml, /<source file=(['"])\/shared\/dr\/current\/Db01\/Db01_0\1\/>/);
    assert.match(xml, /<target dev='hda' bus='ide'\/>/);
    assert.doesNotMatch(xml, /tools\.iso|\/var\/lib\/libvirt\/images/);
    assert.equal((await target.run('virsh', ['list', '--all', '--name'])).stdout.trim(), '', 'a server is defined on the target');
  });

  it('shows with --dry-run what it would do, and touches nothing', async () => {
    const before = await everything();
    const { status, report } = await admin.activate('--dry-run', '--sequence', '1');
    assert.deepEqual([status, report.outcome], [0, 'dry-run']);
    assert.deepEqual(Object.fromEntries(report.servers.map(({ server, outcome }) => [server, outcome])),
      Object.fromEntries(all().map((server) => [server, server === 'Db01' || server === 'Web01' ? 'refused' : 'planned'])));
    assert.equal(await everything(), before);
    assert.deepEqual(await running(), []);
  });

  it('refuses while the original runs, whatever --yes says', async () => {
    const before = await everything();
    const { status, report } = await admin.activate('--yes', 'Db01');
    assert.deepEqual([status, report.outcome, report.error?.code], [4, 'refused', 'original-alive']);
    assert.match(report.servers[0]?.error?.message ?? '', /Db01 runs on node01/);
    assert.equal(await everything(), before);
    assert.deepEqual(await running(), []);
  });

  it('says before it boots anything that a bridge is missing or that there is not enough memory', async () => {
    const kept = await target.readFile(`${DEFINITIONS}/Spare01.xml`);
    await edit('Spare01', 's|<memballoon|<interface type="bridge"><source bridge="ifn-nowhere"/></interface><memballoon|');
    const bridge = await admin.activate('--yes', 'Spare01');
    assert.deepEqual([bridge.status, bridge.report.outcome], [4, 'refused']);
    assert.match(bridge.report.servers[0]?.error?.message ?? '', /bridge ifn-nowhere/);
    await target.writeFile(`${DEFINITIONS}/Spare01.xml`, kept.replace(/<memory unit='\w+'>\d+</, '<memory unit=\'TiB\'>3<').replace(/<currentMemory[^/]*\/currentMemory>/, ''));
    const memory = await admin.activate('--yes', 'Spare01');
    assert.deepEqual([memory.status, memory.report.outcome], [4, 'refused']);
    assert.match(memory.report.servers[0]?.error?.message ?? '', /3072\.0 GiB of memory/);
    await target.writeFile(`${DEFINITIONS}/Spare01.xml`, kept);
    assert.deepEqual(await running(), []);
    assert.deepEqual(await names(target, '/var/lib/dr-engine/activated'), []);
  });

  it('refuses when the original can\'t be asked, until it is told in so many words', async () => {
    await node.powerCut();
    const { status, report } = await admin.activate('--yes');
    assert.deepEqual([status, report.outcome], [4, 'refused']);
    for (const { error } of report.servers) assert.match(error?.message ?? '', /node01 can't be asked/);
    assert.deepEqual(await running(), []);
  });

  it('boots all it can from their newest copies; one that fails does not stop the others, and a hand-edited definition is used as it is', async () => {
    const [dbBeat, webBeat] = [await beatIn('Db01', 1), await beatIn('Web01', 1)];
    await edit('Db01', 's|<memory unit=.*</memory>|<memory unit="MiB">24</memory><!-- tuned by hand -->|');
    await edit('Spare01', 's|<domain type=\'qemu\'>|<domain type="qemu" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">|', 's|</domain>|<qemu:commandline><qemu:arg value="-no-such-option"/></qemu:commandline></domain>|');
    const edited = await sumOf(target, DEFINITIONS);
    const { status, report, all: output } = await admin.activate('--yes', '--originals-are-off');
    assert.deepEqual([status, report.outcome], [3, 'partial'], output);
    assert.deepEqual(Object.fromEntries(report.servers.map(({ server, outcome }) => [server, outcome])), Object.fromEntries(all().map((server) => [server, server === 'Spare01' ? 'failed' : 'booted'])), output);
    assert.match(report.servers.find(({ server }) => server === 'Spare01')?.error?.message ?? '', /no-such-option/);
    assert.deepEqual(await running(), all().filter((server) => server !== 'Spare01').sort());
    assert.equal(await db.on(target).last(), dbBeat);
    assert.equal(await web.on(target).last(), webBeat);
    await db.on(target).beats(1);
    assert.match((await target.run('virsh', ['dominfo', 'Db01'])).stdout, /Max memory:\s+24576 KiB/);
    assert.equal(await sumOf(target, DEFINITIONS), edited, 'P5: a definition was changed');
  });

  it('boots a UEFI server with the variables of its set, and gives it its TPM', async function () {
    const guest = uefi;
    if (guest === undefined) skipBecause(this, `${OVMF[0]} is missing (scripts/setup.sh installs it)`);
    const seen = (await target.run('virsh', ['qemu-monitor-command', '--hmp', 'Uefi01', `xp /8xb ${MARK.address}`])).stdout;
    const bytes = [...seen.matchAll(/0x([0-9a-f]{2})\b/g)].map(([, hex]) => Number.parseInt(hex ?? '', 16));
    assert.equal(Buffer.from(bytes).toString('latin1'), MARK.bytes, seen);
    const tpm = guest.xml.includes('<tpm ');
    if (tpm) {
      assert.ok(await target.exists(tpmState(guest)), 'the TPM\'s state was not restored');
      const log = await target.readFile('/var/log/swtpm/libvirt/qemu/Uefi01-swtpm.log').catch(() => ''); // nothing was logged
      assert.doesNotMatch(log, /authored TPM state/, 'a new TPM was made');
    }
    await target.run('virsh', ['destroy', 'Uefi01']);
    if (!tpm) skipBecause(this, 'swtpm is missing (scripts/setup.sh installs it): only the variables were tested');
  });

  it('goes on where it stopped when it is run again', async () => {
    await edit('Spare01', 's|-no-such-option|-no-shutdown|');
    const id = (await target.run('virsh', ['domid', 'Db01'])).stdout;
    const { status, report, all: output } = await admin.activate('--yes', '--originals-are-off', 'Db01', 'Spare01', 'Web01');
    assert.deepEqual([status, report.outcome], [0, 'ok'], output);
    assert.deepEqual(report.servers.map(({ server, outcome }) => `${server} ${outcome}`).sort(), ['Db01 running', 'Spare01 booted', 'Web01 running']);
    assert.equal((await target.run('virsh', ['domid', 'Db01'])).stdout, id, 'it was started anew');
    await target.run('virsh', ['destroy', 'Spare01']);
  });

  it('keeps jobs off what it booted, until dr release', async () => {
    await target.run('virsh', ['destroy', 'Web01']);
    await lab.host('node01').boot();
    const dbFiles = [...(await files(target, 'Db01')).values()].map(({ name, inode, set }) => `${name} ${inode} ${set}`);
    const { status, report, server, all: output } = await admin.run('all', '--server', 'Db01', '--server', 'Web01');
    assert.deepEqual([status, report.outcome], [4, 'refused'], output);
    for (const name of ['Db01', 'Web01']) assert.match(`${server(name).error?.message ?? ''} ${server(name).error?.hint ?? ''}`, new RegExp(`booted.*dr release ${name}`), output);
    assert.deepEqual([...(await files(target, 'Db01')).values()].map(({ name, inode, set }) => `${name} ${inode} ${set}`), dbFiles);

    const release = await admin.dr('release', 'Web01');
    assert.equal(release.status, 0, release.all);
    const mixed = await admin.run('all', '--server', 'Db01', '--server', 'Web01');
    assert.deepEqual([mixed.status, mixed.report.outcome, mixed.server('Db01').outcome, mixed.server('Web01').outcome], [3, 'partial', 'refused', 'ok'], mixed.all);
  });

  it('boots an older copy with --sequence 2, after every node has said that the original is off', async () => {
    const expected = await beatIn('Web01', 2);
    const lifecycle = await Lifecycle.watch(target);
    const { status, report, all: output } = await admin.activate('--yes', '--sequence', '2', 'Web01');
    assert.deepEqual([status, report.outcome], [0, 'ok'], output);
    assert.equal(await web.on(target).last(), expected);
    assert.equal((await target.run('readlink', ['-f', '/shared/dr/current/Web01/Web01_1'])).stdout.trim(), '/srv/dr/Web01_Web01_1_2.raw');
    await lifecycle.end();
    assert.equal(lifecycle.flips, '+Web01');
    assert.equal(await spare.state(), 'shut off');
  });
});
