import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { readDefinition } from '../../src/definitions/read.js';
import { rewriteDefinition } from '../../src/definitions/rewrite.js';
import { run } from '../../src/system/run.js';
import { definitionCases } from '../support/definition-cases.js';
import { skipBecause } from '../support/skip.js';

/** UPDATE_GOLDEN=1 writes what comes out instead of comparing it; look at the difference before committing it. */
const update = process.env['UPDATE_GOLDEN'] === '1';
const schemas = existsSync('/usr/bin/virt-xml-validate');

describe('golden definitions', function () {
  this.timeout(60_000);

  const cases = definitionCases();

  it('there are at least 25 of them', () => { assert.ok(cases.length >= 25, String(cases.length)); });

  for (const { name, input, wanted, outputPath } of cases) {
    it(`rewrites ${name} to the committed bytes`, () => {
      const { xml, changes } = rewriteDefinition(input, wanted);
      if (update) writeFileSync(outputPath, xml);
      assert.equal(xml, readFileSync(outputPath, 'utf8'));
      assert.ok(changes.length > 0);
    });

    it(`changes nothing when ${name} is rewritten again`, () => {
      const once = rewriteDefinition(input, wanted).xml;
      assert.deepEqual(rewriteDefinition(once, wanted), { xml: once, changes: [] });
    });

    it(`reads back from ${name} what was wanted`, () => {
      const facts = readDefinition(rewriteDefinition(input, wanted).xml);
      assert.equal(facts.name, wanted.server);
      assert.equal(facts.nvram, wanted.nvram);
      const disks = facts.disks.filter(({ device }) => device === 'disk');
      assert.deepEqual(disks.map(({ target, type, path, format, slice }) => ({ target, type, path, format, slice })),
        disks.map(({ target }) => {
          const disk = wanted.disks.find((candidate) => candidate.target === target);
          return { target, type: disk?.type ?? 'file', path: disk?.link, format: 'raw', slice: disk?.slice };
        }));
      assert.deepEqual(facts.disks.filter(({ device, path }) => device !== 'disk' && path !== undefined), []);
      assert.equal(disks.length, wanted.disks.length);
    });
  }

  it('are valid for libvirt, before and after', async function () {
    if (!schemas) skipBecause(this, 'virt-xml-validate is not installed (libvirt-clients)');
    for (const { inputPath, outputPath } of cases) {
      for (const path of [inputPath, outputPath]) await run('virt-xml-validate', [path, 'domain']);
    }
  });
});
