import assert from 'node:assert/strict';
import fc from 'fast-check';
import { DrError } from '../../src/model/errors.js';
import { rewriteDefinition, type WantedDisk } from '../../src/definitions/rewrite.js';
import { all, parseXml, type XmlElement } from '../../src/definitions/xml.js';
import { definitionCase, definitionCases } from '../support/definition-cases.js';

const domain = (devices: string, more = ''): string =>
  `<domain type='qemu'>\n  <name>S</name>\n  <os><type>hvm</type></os>\n${more}  <devices>\n${devices}\n  </devices>\n</domain>\n`;
const disk = (target: string, source = `<source file='/old/${target}'/>`): string =>
  `    <disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2'/>\n      ${source}\n      <target dev='${target}'/>\n    </disk>`;
const wanted = (...disks: readonly (string | WantedDisk)[]): { server: string; disks: WantedDisk[] } =>
  ({ server: 'S', disks: disks.map((one) => typeof one === 'string' ? { target: one, link: `/new/${one}` } : one) });

describe('rewriting a definition', function () {
  this.timeout(60_000);

  const refusals: readonly (readonly [string, string, Parameters<typeof rewriteDefinition>[1], RegExp])[] = [
    ['no XML', 'hello', wanted(), /not well-formed XML: text before the first element \(line 1, column 1\)/],
    ['nothing', '', wanted(), /no element at all/],
    ['an unclosed element', '<domain>\n  <name>S</name>\n', wanted(), /<domain> is not closed \(line 3, column 1\)/],
    ['a wrong end tag', '<domain>\n <name>S</nam></domain>', wanted(), /<\/nam> where <\/name> was expected \(line 2, column 9\)/],
    ['two roots', '<domain/><domain/>', wanted(), /more after the end of the first element/],
    ['a document type', '<!DOCTYPE domain>\n<domain><name>S</name></domain>', wanted(), /a document type declaration/],
    ['an entity bomb', '<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><domain><name>&b;</name></domain>', wanted(), /a document type declaration/],
    ['an outside entity', '<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/shadow">]><domain><name>&a;</name></domain>', wanted(), /a document type declaration/],
    ['an unknown entity', '<domain><name>&nbsp;</name></domain>', wanted(), /the unknown entity &nbsp;/],
    ['a forbidden character', '<domain><name>S\u0001</name></domain>', wanted(), /a character that XML does not allow/],
    ['a forbidden character reference', '<domain><name>S&#0;</name></domain>', wanted(), /the unknown entity &#0;/],
    ['another encoding', '<?xml version="1.0" encoding="ISO-8859-1"?><domain><name>S</name></domain>', wanted(), /the encoding ISO-8859-1; only UTF-8/],
    ['a network', '<network><name>S</name></network>', wanted(), /its first element is <network>, not <domain>/],
    ['a domain without a name', '<domain/>', wanted(), /it has no <name>/],
    ['a domain of another name', domain('').replace('>S<', '>T<'), wanted(), /it names "T", not "S"/],
    ['two names', '<domain><name>S</name><name>S</name></domain>', wanted(), /it names "S" and "S"/],
    ['a disk that is not there', domain(disk('vda')), wanted('vda', 'vdb'), /it has no disk vdb; it has vda/],
    ['a disk without an image', domain(`${disk('vda')}\n${disk('vdb')}`), wanted('vda'), /disks of which there is no image: vdb \(file, \/old\/vdb\)/],
    ['a network disk', domain("<disk type='network'><source protocol='rbd' name='pool/x'/><target dev='vda'/></disk>"), wanted(), /vda \(network, rbd pool\/x\)/],
    ['a vhost-user disk', domain("<disk type='vhostuser'><source type='unix' path='/run/blk.sock'/><target dev='vda'/></disk>"), wanted(), /vda \(vhostuser, \/run\/blk.sock\)/],
    ['two disks with one target', domain(`${disk('vda')}\n${disk('vda')}`), wanted('vda'), /two of its disks are called vda/],
    ['two images for one disk', domain(disk('vda')), wanted('vda', 'vda'), /two images are meant for its disk vda/],
    ['an image for an optical drive', domain("<disk device='cdrom'><target dev='sda'/></disk>"), wanted('sda'), /sda is an optical or floppy drive/],
    ['a relative path', domain(disk('vda')), wanted({ target: 'vda', link: 'images/vda' }), /the path "images\/vda" for its disk vda is not absolute/],
    ['UEFI variables for a BIOS', domain(disk('vda')), { ...wanted('vda'), nvram: '/new/nvram' }, /it has no UEFI firmware/],
    ['a loader that is not there', domain(disk('vda')), { ...wanted('vda'), loader: '/new/OVMF' }, /it has no <loader>/],
    ['an encrypted qcow2 disk of which nothing is said', domain(disk('vda', "<source file='/x'><encryption format='luks'/></source>")), wanted('vda'), /its disk vda is encrypted inside a qcow2 file/],
  ];
  for (const [what, xml, want, message] of refusals) {
    it(`refuses ${what}`, () => {
      assert.throws(() => rewriteDefinition(xml, want), (error) => {
        assert.ok(error instanceof DrError, String(error));
        assert.equal(error.code, 'definition-unusable');
        assert.match(error.message, message);
        assert.match(error.message, /^the definition of S can't be used: .*\. Nothing was written\.$/s);
        assert.notEqual(error.hint, '');
        return true;
      });
    });
  }

  it('names every disk without an image', () => {
    assert.throws(() => rewriteDefinition(domain(`${disk('vda')}\n${disk('vdb')}\n${disk('vdc')}`), wanted('vdb')), /vda \(.*\); vdc \(/);
  });

  it('says what it changed', () => {
    const { input, wanted: want } = definitionCase('lun');
    assert.deepEqual(rewriteDefinition(input, want).changes.slice(0, 4), [
      { path: 'devices/disk[sda]/@type', from: 'block', to: 'file' },
      { path: 'devices/disk[sda]/@device', from: 'lun', to: 'disk' },
      { path: 'devices/disk[sda]/@rawio', from: 'yes', to: null },
      { path: 'devices/disk[sda]/@sgio', from: 'unfiltered', to: null },
    ]);
  });

  it('takes out what only qcow2 has', () => {
    const xml = domain(disk('vda').replace("type='qcow2'/>", "type='qcow2' discard_no_unref='on' discard='unmap'/>"));
    assert.match(rewriteDefinition(xml, wanted('vda')).xml, /<driver name='qemu' type='raw' discard='unmap'\/>/);
  });

  it('keeps what it does not know, inside a source too', () => {
    const xml = domain(disk('vda', "<source file='/old' x:rack='7' xmlns:x='urn:x'><x:note>keep</x:note></source><future setting='1'/>"));
    const out = rewriteDefinition(xml, wanted('vda')).xml;
    assert.match(out, /<source file='\/new\/vda' x:rack='7' xmlns:x='urn:x'><x:note>keep<\/x:note><\/source><future setting='1'\/>/);
  });

  it('fills an NVRAM element that has only a template', () => {
    const xml = domain(disk('vda')).replace('<type>hvm</type>', "<type>hvm</type><loader type='pflash'>/l</loader><nvram template='/t' />");
    assert.match(rewriteDefinition(xml, { ...wanted('vda'), nvram: '/new/n&v' }).xml, /<nvram template='\/t'>\/new\/n&amp;v<\/nvram>/);
  });

  it('leaves the security label that an admin asked for', () => {
    const label = "  <seclabel type='dynamic' model='selinux'><baselabel>x</baselabel><label>y</label></seclabel>\n  <seclabel type='static' model='dac'><label>0:0</label></seclabel>\n";
    const xml = domain(disk('vda'), label).replace('<domain ', "<domain id='1' ");
    assert.ok(rewriteDefinition(xml, wanted('vda')).xml.includes(label));
  });

  it('leaves check=full alone in a definition that is not of a running domain', () => {
    const cpu = "  <cpu check='full'/>\n";
    assert.ok(rewriteDefinition(domain(disk('vda'), cpu), wanted('vda')).xml.includes(cpu));
  });
});

/** Lines on which no disk, firmware, security label or CPU element stands. */
function untouchableLines(xml: string): readonly string[] {
  const { root } = parseXml(xml, 'x');
  const spans = [...all(root, 'devices', 'disk'), ...all(root, 'os'), ...all(root, 'seclabel'), ...all(root, 'cpu')];
  const lines: string[] = [];
  let at = 0;
  for (const line of xml.split(/(?<=\n)/)) {
    const [from, to] = [at, at + line.length];
    if (!spans.some(({ start, end }) => start < to && end > from)) lines.push(line);
    at = to;
  }
  return lines;
}

describe('the fidelity of rewriting', function () {
  this.timeout(60_000);

  for (const { name, input, wanted: want } of definitionCases()) {
    it(`touches only the lines of rewritten elements in ${name}`, () => {
      assert.deepEqual(untouchableLines(rewriteDefinition(input, want).xml), untouchableLines(input));
    });
  }

  // Whatever an admin writes around and between, in legal XML, comes out as it went in.
  const space = fc.stringMatching(/^[ \t\n]{1,4}$/);
  const comment = fc.stringMatching(/^[ a-z<>&'"=/]{0,20}$/).map((text) => `<!--${text}-->`);
  const noise = fc.array(fc.oneof(space, comment, fc.constant('<?pi x="<a>" ?>')), { maxLength: 4 }).map((parts) => parts.join(''));
  const quote = fc.constantFrom('"', "'");
  const attribute = (name: string, value: string) => fc.tuple(space, quote).map(([gap, mark]) => `${gap}${name}=${mark}${value}${mark}`);
  const shuffled = (parts: readonly fc.Arbitrary<string>[]) => fc.tuple(...parts).chain((values) => fc.shuffledSubarray(values, { minLength: values.length })).map((values) => values.join(''));
  const element = (name: string, attributes: readonly fc.Arbitrary<string>[]) => fc.tuple(shuffled(attributes), fc.boolean(), noise)
    .map(([written, short, inside]) => short ? `<${name}${written}/>` : `<${name}${written}>${inside}</${name}>`);
  const anyDisk = (target: string, device = 'disk') => fc.tuple(
    shuffled([attribute('type', 'file'), attribute('device', device), attribute('snapshot', 'no')]),
    fc.tuple(...[
      element('driver', [attribute('name', 'qemu'), attribute('type', 'qcow2'), attribute('cache', 'none')]),
      element('source', [attribute('file', `/a/${target}&amp;&lt;`), attribute('index', '3'), attribute('startupPolicy', 'optional')]),
      element('target', [attribute('dev', target), attribute('bus', 'virtio')]),
      fc.tuple(noise, noise).map(([a, b]) => `<backingStore type='file'>${a}<format type='raw'/>${b}</backingStore>`),
    ]).chain((parts) => fc.shuffledSubarray(parts, { minLength: parts.length })),
    fc.array(noise, { minLength: 5, maxLength: 5 }),
  ).map(([attributes, parts, gaps]) => `<disk${attributes}>${gaps.map((gap, index) => gap + (parts[index] ?? '')).join('')}</disk>`);
  const anyDomain = fc.tuple(noise, anyDisk('vda'), noise, anyDisk('vdb'), noise, noise, anyDisk('sda', 'cdrom'))
    .map(([a, one, b, two, c, d, drive]) => `${d.trimStart()}<domain>${a}<name>S</name><devices>${b}${one}${c}${two}${a}${drive}</devices>${b}</domain>${c}`);

  it('keeps every comment, instruction and element, and everything outside of disks to the byte', () => {
    fc.assert(fc.property(anyDomain, (xml) => {
      const want = wanted({ target: 'vda', link: "/new/a&<'\">" }, { target: 'vdb', link: '/new/b', type: 'block', slice: { offset: 0, size: 512 } });
      const out = rewriteDefinition(xml, want).xml;
      assert.deepEqual(rewriteDefinition(out, want), { xml: out, changes: [] });
      const asides = (text: string): readonly string[] => text.match(/<!--.*?-->|<\?.*?\?>/gs) ?? [];
      assert.deepEqual(asides(out), asides(xml));
      const outside = (text: string): string => {
        const disks = all(parseXml(text, 'x').root, 'devices', 'disk');
        return [...disks.map(({ start }) => start), text.length].map((to, index) => text.slice(index === 0 ? 0 : disks[index - 1]?.end, to)).join('|');
      };
      assert.equal(outside(out), outside(xml));
      const names = (parent: XmlElement): readonly string[] => parent.children.map(({ name }) => name);
      const gone = (drive: boolean, name: string): boolean => name === 'backingStore' || (drive && name === 'source');
      const [before, after] = [xml, out].map((text) => all(parseXml(text, 'x').root, 'devices', 'disk').map(names));
      assert.deepEqual(after, before?.map((parts, index) => parts.filter((name) => !gone(index === 2, name))));
      const sources = all(parseXml(out, 'x').root, 'devices', 'disk', 'source').map(({ attributes }) => attributes.map(({ name, value }) => [name, value]));
      assert.deepEqual(sources, [[['file', "/new/a&<'\">"]], [['dev', '/new/b']]]);
    }), { numRuns: 400, seed: 7 });
  });
});
