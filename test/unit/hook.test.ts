import assert from 'node:assert/strict';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run, type RunResult } from '../../src/system/run.js';
import { readAttributes } from '../../src/system/xattr.js';
import { temporaryDirectory, type TestPlace } from '../support/file-systems.js';
import { setId } from '../support/target.js';

const HOOK = fileURLToPath(new URL('../../../hooks/libvirt-qemu', import.meta.url));

describe('the libvirt hook', () => {
  let place: TestPlace;
  beforeEach(async () => { place = await temporaryDirectory('hook'); });
  afterEach(() => place.remove());

  const path = (name: string): string => join(place.path, name);
  const image = async (name: string, set?: number): Promise<string> => {
    await writeFile(path(name), 'image');
    if (set !== undefined) await run('setfattr', ['-n', 'user.dr.set', '-v', `${setId(set)}/root`, path(name)]);
    return path(name);
  };
  const complete = async (set: number): Promise<void> => {
    await mkdir(path(`.dr/sets/${setId(set)}`), { recursive: true });
    await writeFile(path(`.dr/sets/${setId(set)}/manifest.json`), '{}');
  };
  const mark = async (name: string): Promise<string | undefined> => (await readAttributes(place.path, [name], 'user.dr.')).get(name)?.get('user.dr.modified');
  const disk = (source: string, more = ''): string => `    <disk type='file' device='disk'>\n      <driver name='qemu' type='raw'/>\n      <source file='${source}'/>\n      ${more}<target dev='vda' bus='virtio'/>\n    </disk>\n`;
  const domain = (...disks: readonly string[]): string => `<domain type='kvm'>\n  <name>Web01</name>\n  <devices>\n${disks.join('')}    <interface type='bridge'><source bridge='br0'/></interface>\n    <serial type='file'><source path='/tmp/x'/></serial>\n  </devices>\n</domain>\n`;
  const hook = async (xml: string, ...args: readonly string[]): Promise<RunResult> =>
    await run('sh', [HOOK, ...args.length === 0 ? ['Web01', 'prepare', 'begin', '-'] : args], { input: xml, okExit: [0, 1] });

  it('marks an image that is booted, and lets it boot', async () => {
    await image('Web01_root_1.raw', 1);
    const { exitCode, stderr } = await hook(domain(disk(path('Web01_root_1.raw'))));
    assert.deepEqual([exitCode, stderr], [0, '']);
    assert.match(await mark('Web01_root_1.raw') ?? '', /^booted \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ as Web01$/);
  });

  it('marks through links, several disks, and keeps the first mark', async () => {
    await image('Web01_root_1.raw', 1);
    await image('Web01_data_1.raw', 1);
    await run('setfattr', ['-n', 'user.dr.modified', '-v', 'before', path('Web01_data_1.raw')]);
    await symlink(path('Web01_root_1.raw'), path('root'));
    assert.equal((await hook(domain(disk(path('root')), disk(path('Web01_data_1.raw'))))).exitCode, 0);
    assert.match(await mark('Web01_root_1.raw') ?? '', /^booted/);
    assert.equal(await mark('Web01_data_1.raw'), 'before');
  });

  it('refuses an image that is being written, says why, and marks nothing', async () => {
    await image('Web01_data_1.raw', 1);
    await image('Web01_root_incomplete.raw', 2);
    const { exitCode, stderr } = await hook(domain(disk(path('Web01_data_1.raw')), disk(path('Web01_root_incomplete.raw'))));
    assert.equal(exitCode, 1);
    assert.match(stderr, /^dr-engine: Web01 is not started: .*Web01_root_incomplete\.raw is being written/);
    assert.equal(await mark('Web01_data_1.raw'), undefined);
    assert.equal(await mark('Web01_root_incomplete.raw'), undefined);
  });

  it('lets an image boot that is proven complete, though its name is not given yet', async () => {
    await complete(2);
    await image('Web01_root_incomplete.raw', 2);
    assert.equal((await hook(domain(disk(path('Web01_root_incomplete.raw'))))).exitCode, 0);
    assert.match(await mark('Web01_root_incomplete.raw') ?? '', /^booted/);
  });

  it('has no opinion on what is not ours', async () => {
    await image('Web01_root_incomplete.raw');
    await image('other.raw');
    const { exitCode, stderr } = await hook(domain(disk(path('Web01_root_incomplete.raw')), disk(path('other.raw')), disk('/nowhere'), disk('/dev/null')));
    assert.deepEqual([exitCode, stderr], [0, '']);
    assert.equal(await mark('other.raw'), undefined);
  });

  it('passes over backing files, comments and empty drives', async () => {
    await image('Web01_root_1.raw', 1);
    await image('Web01_root_incomplete.raw', 2);
    await image('overlay.qcow2');
    const chain = `<backingStore type='file'><format type='raw'/><source file='${path('Web01_root_1.raw')}'/><backingStore type='file'><source file='${path('Web01_root_incomplete.raw')}'/><backingStore/></backingStore></backingStore>\n      `;
    const comment = `<!-- ${disk(path('Web01_root_incomplete.raw'))} -->`;
    const { exitCode } = await hook(domain(disk(path('overlay.qcow2'), chain), comment, '<disk type=\'file\' device=\'cdrom\'><target dev=\'sda\'/></disk>'));
    assert.equal(exitCode, 0);
    assert.equal(await mark('Web01_root_1.raw'), undefined);
  });

  it('still sees the disk behind a backing chain', async () => {
    await image('Web01_root_1.raw', 1);
    await image('overlay.qcow2');
    const chain = `<backingStore type='file'><source file='/x'/><backingStore/></backingStore>`;
    await hook(domain(disk(path('overlay.qcow2'), chain), disk(path('Web01_root_1.raw'), '<backingStore/>')));
    assert.match(await mark('Web01_root_1.raw') ?? '', /^booted/);
  });

  it('understands odd paths and attribute orders', async () => {
    await mkdir(path(`it's & "odd" <dir>`));
    const odd = `it's & "odd" <dir>/Web01_root_1.raw`;
    await image(odd, 1);
    const escaped = path(odd).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('\'', '&apos;').replaceAll('"', '&quot;');
    await hook(`<domain><devices><disk><source startupPolicy='optional' file='${escaped}' index='1'/></disk></devices></domain>`);
    assert.match((await run('getfattr', ['--only-values', '-n', 'user.dr.modified', '--absolute-names', path(odd)])).stdout, /^booted/);
  });

  it('cannot be talked into running what a name or path says', async () => {
    await image('$(touch gone)_1.raw', 1);
    await run('sh', [HOOK, '$(touch gone); `touch gone`', 'prepare', 'begin'], { input: domain(disk(path('$(touch gone)_1.raw')), disk('`touch gone`'), disk('-rf')), cwd: place.path });
    await assert.rejects(readFile(path('gone')));
    assert.match(await mark('$(touch gone)_1.raw') ?? '', /touch gone/);
  });

  it('keeps out of every other event', async () => {
    await image('Web01_root_incomplete.raw', 2);
    for (const args of [['Web01', 'start', 'begin', '-'], ['Web01', 'prepare', 'end', '-'], ['Web01', 'release', 'end', '-'], ['Web01', 'migrate', 'begin', '-'], ['Web01'], ['Web01', 'reconnect', 'begin', '-']]) {
      const { exitCode, stdout, stderr } = await hook(domain(disk(path('Web01_root_incomplete.raw'))), ...args);
      assert.deepEqual([exitCode, stdout, stderr], [0, '', ''], args.join(' '));
    }
  });

  it('never stands in the way of a boot when something else is wrong', async () => {
    await image('Web01_root_1.raw', 1);
    for (const xml of ['', 'not xml', '<domain>', '<source file=', '\u0000\u0001', domain(disk(''))]) assert.equal((await hook(xml)).exitCode, 0, JSON.stringify(xml));
    const empty = path('empty');
    await mkdir(empty);
    for (const program of ['cat', 'date', 'printf']) await symlink(`/usr/bin/${program}`, join(empty, program));
    const { exitCode, stderr } = await run('/bin/sh', [HOOK, 'Web01', 'prepare', 'begin', '-'], { input: domain(disk(path('Web01_root_1.raw'))), env: { DR_HOOK_PATH: empty }, okExit: [0, 1, 127] });
    assert.equal(exitCode, 0);
    assert.match(stderr, /package attr/);
  });
});
