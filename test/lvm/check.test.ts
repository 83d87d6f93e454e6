import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { checkLvm, checkWrappers } from '../../src/agent/check-lvm.js';
import { run } from '../../src/system/run.js';
import { freshGroups, onlyInVm } from './ground.js';

const CONFIGURATION = '/etc/lvm/lvm.conf';

describe('dr check on LVM', function () {
  this.timeout(240_000);
  let original: string;

  const findings = async (): Promise<readonly { readonly level: string; readonly what: string; readonly remedy: string }[]> => {
    const found: { level: string; what: string; remedy: string }[] = [];
    const add = (level: string) => (what: string, remedy = ''): void => { found.push({ level, what, remedy }); };
    await checkLvm({ pass: add('ok'), warn: add('warning'), fail: add('error') });
    return found;
  };
  const scanning = (...args: readonly string[]): Promise<unknown> => run(args[0] ?? '', ['--quiet', '--config', 'devices { scan_lvs = 1 }', ...args.slice(1)]);

  before(async function () {
    onlyInVm(this);
    original = await readFile(CONFIGURATION, 'utf8');
    await freshGroups({ 'dr-a': [0] });
    await run('lvcreate', ['--quiet', '--yes', '--size', '64M', '--name', 'Web01_root_1', 'dr-a']);
    await run('lvcreate', ['--quiet', '--yes', '--type', 'thin-pool', '--size', '64M', '--name', 'pool', 'dr-a']);
    await run('lvcreate', ['--quiet', '--yes', '--thin', '--virtualsize', '64M', '--name', 'thin', 'dr-a/pool']);
  });
  after(async () => {
    if (process.env['DR_TEST_VM'] !== '1') return;
    await writeFile(CONFIGURATION, original);
    await scanning('vgchange', '--activate', 'n', 'guest').catch(() => undefined); // never made
  });

  it('is content with volumes of the host that lie on each other', async () => {
    assert.deepEqual((await findings()).map(({ level, what }) => ({ level, what })), [{ level: 'ok', what: 'LVM here does not look into guests\' disks' }]);
  });

  it('finds a volume group of a guest that is active here', async () => {
    await scanning('pvcreate', '/dev/dr-a/Web01_root_1');
    await scanning('vgcreate', 'guest', '/dev/dr-a/Web01_root_1');
    await scanning('lvcreate', '--yes', '--size', '8M', '--name', 'root', 'guest');
    const [found, ...more] = await findings();
    assert.deepEqual([found?.level, found?.what, more], ['error', 'the volume group guest inside dr-a/Web01_root_1 is active on this host: with its guest running, both may write to it', []]);
    assert.match(found?.remedy ?? '', /^vgchange --activate n guest, /);
    await scanning('vgchange', '--activate', 'n', 'guest');
    assert.deepEqual((await findings()).map(({ level }) => level), ['ok']);
  });

  it('finds that LVM scans the volumes of the host, with a remedy that helps', async () => {
    await writeFile(CONFIGURATION, `${original}\ndevices { scan_lvs = 1 }\n`);
    const [found, ...more] = await findings();
    assert.deepEqual([found?.level, found?.what, more], ['error', 'LVM looks into guests\' disks: it sees the volume group guest inside dr-a/Web01_root_1', []]);
    const [, filter = ''] = /devices \{ (global_filter = \[.*?\]) \}/.exec(found?.remedy ?? '') ?? [];
    await writeFile(CONFIGURATION, `${original}\ndevices { scan_lvs = 1\n${filter} }\n`);
    assert.deepEqual((await findings()).map(({ level }) => level), ['ok']);
    assert.equal((await run('vgs', ['--noheadings', '--options', 'vg_name'])).stdout.trim(), 'dr-a', 'the host still has its own');
    await writeFile(CONFIGURATION, original);
  });

  it('says who can change the wrappers', async () => {
    const found: string[] = [];
    await checkWrappers({ pass: (what) => { found.push(what); }, warn: (what) => { found.push(what); }, fail: (what) => { found.push(what); } });
    assert.equal(found.length, 1);
    assert.match(found[0] ?? '', /changed by root only|does not belong to root/);
  });
});
