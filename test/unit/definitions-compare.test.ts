import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { compareDefinition, diffDefinition } from '../../src/definitions/compare.js';
import { rewriteDefinition } from '../../src/definitions/rewrite.js';
import { definitionCase, definitionCases } from '../support/definition-cases.js';

const sample = (path: string): string => readFileSync(fileURLToPath(new URL(`../../../definitions/${path}/Web01.xml`, import.meta.url)), 'utf8');
const [source, published, tuned] = ['source', 'published', 'tuned'].map(sample) as [string, string, string];

describe('comparing definitions', function () {
  this.timeout(60_000);

  it('finds the sample that is published in what the source gives', () => {
    const link = '/shared/dr/current/Web01';
    const disks = [{ target: 'vda', link: `${link}/Web01_system` }, { target: 'vdb', link: `${link}/Web01_0` }];
    assert.equal(rewriteDefinition(source, { server: 'Web01', disks, nvram: `${link}/nvram` }).xml, published);
  });

  it('takes an admin\'s tuning for what it is', () => {
    assert.deepEqual(compareDefinition(tuned, published), { fits: true, differences: [
      { path: 'memory', source: '16 GiB', published: '6 GiB', kind: 'tuning' },
      { path: 'currentMemory', source: '16 GiB', published: '6 GiB', kind: 'tuning' },
      { path: 'vcpu', source: '8', published: '4', kind: 'tuning' },
      { path: 'cpu/@mode', source: 'host-passthrough', published: 'host-model', kind: 'tuning' },
      { path: 'cpu/@check', source: 'none', published: null, kind: 'tuning' },
      { path: 'cpu/@migratable', source: 'on', published: null, kind: 'tuning' },
      { path: 'devices/interface[52:54:00:c0:ff:01]/source/@bridge', source: 'ifn1_bridge1', published: 'br-dr', kind: 'tuning' },
    ] });
  });

  for (const { name, input, wanted } of definitionCases()) {
    it(`finds ${name} to fit itself`, () => {
      const { xml } = rewriteDefinition(input, wanted);
      assert.deepEqual(compareDefinition(xml, xml), { fits: true, differences: [] });
    });
  }

  const same: readonly (readonly [string, (xml: string) => string])[] = [
    ['comments and white space', (xml) => xml.replace('<devices>', '<!-- new -->\n\n<devices>\t')],
    ['quotes', (xml) => xml.replaceAll("'", '"').replaceAll('"', "'")],
    ['units', (xml) => xml.replaceAll("unit='GiB'>16<", "unit='KiB'>16777216<")],
    ['the order of attributes', (xml) => xml.replace("type='file' device='disk'", "device='disk' type='file'")],
    ['the order of unlike elements', (xml) => xml.replace(/(\s*<clock.*<\/clock>)(.*)(?=\s*<devices>)/s, '$2$1')],
    ['the order of disks', (xml) => xml.replace(/(<disk.*?<\/disk>)(.*?)(<disk.*?<\/disk>)/s, '$3$2$1')],
    ['the case of a UUID', (xml) => xml.replace('6b5a8a10', '6B5A8A10')],
    ['addresses, aliases and IDs that libvirt gives', (xml) => xml.replace('<domain ', "<domain id='4' ").replace("<target dev='vda' bus='virtio'/>", "$&<address type='pci' bus='0x01'/><alias name='virtio-disk0'/><backingStore/>")],
  ];
  for (const [what, change] of same) {
    it(`does not count ${what}`, () => {
      assert.notEqual(change(published), published);
      assert.deepEqual(compareDefinition(change(published), published), { fits: true, differences: [] });
    });
  }

  const changes: readonly (readonly [string, 'stale' | 'tuning', string, (xml: string) => string])[] = [
    ['another UUID', 'stale', 'uuid', (xml) => xml.replace('6b5a8a10', '7b5a8a10')],
    ['another name', 'stale', 'name', (xml) => xml.replace('Web01</name>', 'Web02</name>')],
    ['another machine type', 'stale', 'os/type/@machine', (xml) => xml.replace('pc-q35-7.2', 'pc-q35-8.0')],
    ['an alias of the machine type', 'tuning', 'os/type/@machine', (xml) => xml.replace('pc-q35-7.2', 'q35')],
    ['another kind of machine', 'stale', 'os/type/@machine', (xml) => xml.replace('pc-q35-7.2', 'pc')],
    ['another path to a disk', 'stale', 'devices/disk[vdb]/source/@file', (xml) => xml.replace('Web01/Web01_0', 'Web01/Web01_1')],
    ['a disk that is gone', 'stale', 'devices/disk[vdb]', (xml) => xml.replace(/<disk type='file' device='disk'>(?:(?!<\/disk>).)*vdb.*?<\/disk>/s, '')],
    ['a disk that is new', 'stale', 'devices/disk[vdc]', (xml) => xml.replace('</devices>', "<disk type='file'><source file='/x'/><target dev='vdc'/></disk></devices>")],
    ['another format', 'stale', 'devices/disk[vda]/driver/@type', (xml) => xml.replace("type='raw' cache='none' error", "type='qcow2' cache='none' error")],
    ['another bus', 'stale', 'devices/disk[vda]/target/@bus', (xml) => xml.replace("'vda' bus='virtio'", "'vda' bus='sata'")],
    ['another cache mode', 'tuning', 'devices/disk[vda]/driver/@cache', (xml) => xml.replace("cache='none' error", "cache='writeback' error")],
    ['a medium in the drive', 'tuning', 'devices/disk[sda]/source', (xml) => xml.replace("<target dev='sda'", "<source file='/iso'/><target dev='sda'")],
    ['no drive', 'tuning', 'devices/disk[sda]', (xml) => xml.replace(/<disk type='file' device='cdrom'>.*?<\/disk>/s, '')],
    ['another path of the UEFI variables', 'stale', 'os/nvram', (xml) => xml.replace('Web01/nvram', 'Web01/vars')],
    ['another firmware file', 'tuning', 'os/loader', (xml) => xml.replace('OVMF_CODE_4M.fd', 'OVMF_CODE.fd')],
    ['no firmware', 'stale', 'os/loader', (xml) => xml.replace(/<loader.*<\/loader>/, '')],
    ['a TPM', 'stale', 'devices/tpm', (xml) => xml.replace('</devices>', "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>")],
    ['another bridge', 'tuning', 'devices/interface[52:54:00:c0:ff:01]/source/@bridge', (xml) => xml.replace('ifn1_bridge1', 'br0')],
    ['no description', 'tuning', 'description', (xml) => xml.replace(/<description>.*<\/description>/, '')],
  ];
  for (const [what, kind, path, change] of changes) {
    it(`calls ${what} ${kind}`, () => {
      for (const [left, right] of [[change(published), published], [published, change(published)]] as const) {
        const { fits, differences } = compareDefinition(left, right);
        assert.deepEqual(differences.map((difference) => [difference.path, difference.kind]), [[path, kind]]);
        assert.equal(fits, kind === 'tuning');
      }
    });
  }

  it('refuses what is no definition', () => {
    assert.throws(() => compareDefinition('<network/>', published), { code: 'definition-unusable' });
    assert.throws(() => compareDefinition(published, ''), { code: 'definition-unusable' });
  });

  it('shows no password', () => {
    const { input } = definitionCase('windows');
    const other = input.replace('s3cr&quot;t', 'oth3r');
    const { differences } = compareDefinition(other, input);
    assert.deepEqual(differences, [{ path: 'devices/graphics/@passwd', source: '***', published: '***', kind: 'tuning' }]);
    const without = input.replace(/<graphics.*<\/graphics>/s, '');
    const shown = JSON.stringify(compareDefinition(without, input)) + diffDefinition(without, input, '/x') + diffDefinition(other, input, '/x');
    assert.doesNotMatch(shown, /s3cr|oth3r/);
  });

  it('prints the difference for people', () => {
    const diff = diffDefinition(tuned, published, '/shared/definitions/Web01.xml').split('\n');
    assert.deepEqual(diff.slice(0, 2), ['--- from the source', '+++ /shared/definitions/Web01.xml']);
    assert.ok(diff.includes("-      <source bridge='ifn1_bridge1'/>"));
    assert.ok(diff.includes("+      <source bridge='br-dr'/>"));
    assert.equal(diffDefinition(published, published, 'x'), '');
  });
});
