import assert from 'node:assert/strict';
import fc from 'fast-check';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseXml } from '../../src/definitions/xml.js';
import { run } from '../../src/system/run.js';
import { definitionCases } from '../support/definition-cases.js';
import { skipBecause } from '../support/skip.js';

describe('reading XML', function () {
  this.timeout(60_000);

  it('knows where everything stands', () => {
    const text = `<?xml version='1.0'?>\n<a b="1"  c='&lt;2'><!--x--><d/>t<![CDATA[<e>]]></a >\n`;
    const { root } = parseXml(text, 'it');
    const cut = ({ start, end }: { start: number; end: number }): string => text.slice(start, end);
    assert.equal(cut(root), text.slice(text.indexOf('<a'), -1));
    assert.deepEqual(root.attributes.map(cut), ['b="1"', "c='&lt;2'"]);
    assert.deepEqual(root.attributes.map(({ value }) => value), ['1', '<2']);
    assert.deepEqual(root.asides.map(cut), ['<!--x-->']);
    assert.deepEqual(root.children.map(cut), ['<d/>']);
    assert.deepEqual(root.runs.map(cut), ['t', '<![CDATA[<e>]]>']);
    assert.equal(root.text, 't<e>');
    assert.equal(text.slice(root.openEnd, root.closeStart), '<!--x--><d/>t<![CDATA[<e>]]>');
  });

  it('covers every byte of an element exactly once', () => {
    for (const { input, name } of definitionCases()) {
      const { root } = parseXml(input, name);
      const check = (element: typeof root): void => {
        const inside = [...element.children, ...element.asides, ...element.runs].sort((a, b) => a.start - b.start);
        assert.deepEqual(inside.map(({ start }) => start), [element.openEnd, ...inside.map(({ end }) => end)].slice(0, inside.length), name);
        assert.equal(inside.at(-1)?.end ?? element.openEnd, element.closeStart, name);
        element.children.forEach(check);
      };
      check(root);
    }
  });

  it('accepts nothing that libxml2, which libvirt reads with, refuses', async function () {
    if (!existsSync('/usr/bin/xmllint')) skipBecause(this, 'xmllint is not installed (libxml2-utils)');
    const seeds = definitionCases().map(({ input }) => input.replaceAll('\r', '')).filter((input) => input.length < 2500);
    const scraps = ['<', '>', '/', '&', '"', "'", '-->', '<!--', '--', ']]>', '<![CDATA[', '<?', '?>', '<a>', '</a>', '<a/>', ' x="1"', '&amp;', '&#65;', '&#xD800;', '=', '\u0000', '\ud800', ':', 'xmlns="u"', '<?xml version="1.0"?>', '<!DOCTYPE a>', '\ufeff', '\u2028'];
    const mutant = fc.tuple(fc.constantFrom(...seeds), fc.array(fc.tuple(fc.nat(), fc.nat(3), fc.constantFrom('', ...scraps)), { minLength: 1, maxLength: 3 }))
      .map(([text, edits]) => edits.reduce((now, [at, cut, put]) => now.slice(0, at % (now.length + 1)) + put + now.slice((at % (now.length + 1)) + cut), text));
    const directory = await mkdtemp(join(tmpdir(), 'dr-xml-'));
    try {
      const accepted: string[] = [];
      for (const [index, text] of fc.sample(mutant, { numRuns: 3000, seed: 11 }).entries()) {
        try {
          parseXml(text, 'it');
        } catch { continue; } // refusing is always safe
        const path = join(directory, `${String(index)}.xml`);
        await writeFile(path, text);
        accepted.push(path);
      }
      assert.ok(accepted.length > 200, String(accepted.length));
      assert.ok(accepted.length < 2800, String(accepted.length));
      const { stderr } = await run('xmllint', ['--noout', '--nonet', ...accepted], { okExit: [0, 1] });
      assert.deepEqual(stderr.split('\n').filter((line) => /parser error/.test(line)), []);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});
