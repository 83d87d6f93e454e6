import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { publishDefinition, type Published } from '../../src/definitions/publish.js';
import { DrError } from '../../src/model/errors.js';
import { run, start } from '../../src/system/run.js';

const xml = (name: string, filler = ''): string => `<domain>\n  <name>${name}</name>\n  <description>${filler}</description>\n</domain>\n`;
const publisher = fileURLToPath(new URL('../support/publish-once.js', import.meta.url));

describe('publishing a definition', function () {
  this.timeout(60_000);
  let directory: string;
  beforeEach(async () => { directory = await mkdtemp(join(tmpdir(), 'dr-publish-')); });
  afterEach(async () => { await rm(directory, { recursive: true, force: true }); });

  it('creates the file whole, for its owner only, and nothing beside it', async () => {
    assert.deepEqual(await publishDefinition(directory, 'Web01', xml('Web01')), { created: true, path: join(directory, 'Web01.xml') });
    assert.equal(await readFile(join(directory, 'Web01.xml'), 'utf8'), xml('Web01'));
    assert.equal((await stat(join(directory, 'Web01.xml'))).mode & 0o7777, 0o600);
    assert.deepEqual(await readdir(directory), ['Web01.xml']);
  });

  it('makes a missing directory', async () => {
    const deep = join(directory, 'shared', 'definitions');
    assert.equal((await publishDefinition(deep, 'Web01', xml('Web01'))).created, true);
    assert.deepEqual(await readdir(deep), ['Web01.xml']);
  });

  it("leaves an admin's file alone, down to its times", async () => {
    const path = join(directory, 'Web01.xml');
    await writeFile(path, 'what an admin wrote, not even XML', { mode: 0o640 });
    const before = await stat(path, { bigint: true });
    assert.deepEqual(await publishDefinition(directory, 'Web01', xml('Web01')), { created: false, path });
    const after = await stat(path, { bigint: true });
    assert.deepEqual([after.ino, after.mtimeNs, after.ctimeNs, after.mode], [before.ino, before.mtimeNs, before.ctimeNs, before.mode]);
    assert.equal(await readFile(path, 'utf8'), 'what an admin wrote, not even XML');
  });

  it('takes a dangling link, a link to a directory, a directory and a pipe of that name for existing', async () => {
    await symlink('/nowhere/at/all', join(directory, 'A.xml'));
    await symlink('/', join(directory, 'B.xml'));
    await mkdir(join(directory, 'C.xml'));
    await run('mkfifo', [join(directory, 'D.xml')]);
    for (const name of ['A', 'B', 'C', 'D']) assert.equal((await publishDefinition(directory, name, xml(name))).created, false, name);
    assert.deepEqual(await readdir(directory), ['A.xml', 'B.xml', 'C.xml', 'D.xml']);
    assert.equal(await readlink(join(directory, 'A.xml')), '/nowhere/at/all');
    assert.equal((await stat(join(directory, 'D.xml'))).isFIFO(), true);
  });

  for (const name of ['../x', 'a/b', '', '.', '..', '-rf', 'a b', '.hidden', 'x'.repeat(101)]) {
    it(`refuses the name ${JSON.stringify(name.slice(0, 12))}`, async () => {
      await assert.rejects(publishDefinition(join(directory, 'd'), name, xml(name)), (error) => error instanceof DrError && error.code === 'name-invalid');
      assert.deepEqual(await readdir(directory), []);
    });
  }

  it("refuses what is not that server's definition", async () => {
    for (const wrong of ['', '<domain/>', xml('Web02'), '<network><name>Web01</name></network>', '<domain><name>Web01</name>']) {
      await assert.rejects(publishDefinition(directory, 'Web01', wrong), (error) => error instanceof DrError && error.code === 'definition-unusable');
    }
    assert.deepEqual(await readdir(directory), []);
  });

  it('says what failed when the directory can not be one', async () => {
    await writeFile(join(directory, 'file'), '');
    await assert.rejects(publishDefinition(join(directory, 'file'), 'Web01', xml('Web01')), (error) =>
      error instanceof DrError && error.code === 'io' && /the definition of Web01 could not be written to .*Its images are not affected/.test(error.message));
  });

  it('creates one whole file each when six processes race for twenty definitions', async () => {
    const go = join(directory, 'go');
    const target = join(directory, 'd');
    await mkdir(target);
    const servers = Array.from({ length: 20 }, (_, index) => `Web${String(index)}`);
    const texts = Array.from({ length: 6 }, (_, index) => xml('@', String(index).repeat(50_000)));
    const racers = await Promise.all(texts.map(async (text, index) => {
      const file = join(directory, `in${String(index)}.xml`);
      await writeFile(file, text);
      const child = start(process.execPath, [publisher, target, file, go, ...servers], { stdio: ['ignore', 'pipe', 'inherit'] });
      let said = '';
      child.stdout?.on('data', (chunk: Buffer) => { said += chunk.toString(); });
      const ended = once(child, 'close');
      while (!said.includes('ready')) await once(child.stdout ?? child, 'data');
      return { ended, said: () => said };
    }));
    await writeFile(go, '');
    await Promise.all(racers.map(({ ended }) => ended));
    const results = racers.map(({ said }) => JSON.parse(said().split('\n')[1] ?? '') as Published[]);
    for (const [round, server] of servers.entries()) {
      const winners = results.flatMap((racer, index) => racer[round]?.created === true ? [index] : []);
      assert.equal(winners.length, 1, `${server} was created by ${winners.join(', ')}`);
      assert.equal(await readFile(join(target, `${server}.xml`), 'utf8'), texts[winners[0] ?? -1]?.replaceAll('@', server));
    }
    assert.deepEqual((await readdir(target)).sort(), servers.map((server) => `${server}.xml`).sort());
  });

  for (const [at, left] of [['definition-before-publish', []], ['definition-after-publish', ['Web01.xml']]] as const) {
    it(`can be run again after a death at ${at}`, async () => {
      const steps = join(directory, 'steps');
      const target = join(directory, 'd');
      await mkdir(steps);
      await mkdir(target);
      await writeFile(join(steps, 'stop-at'), `${at} 1`);
      await writeFile(join(directory, 'in.xml'), xml('Web01'));
      const child = start(process.execPath, [publisher, target, join(directory, 'in.xml'), directory, 'Web01'], { stdio: ['ignore', 'ignore', 'inherit'], env: { DR_STEPS: steps } });
      const reached = async (): Promise<boolean> => (await readdir(steps)).includes('reached');
      while (!(await reached())) await new Promise((resolve) => { setTimeout(resolve, 10); });
      const ended = once(child, 'close');
      child.kill('SIGKILL');
      await ended;
      assert.deepEqual(await readdir(target), left);
      assert.equal((await publishDefinition(target, 'Web01', xml('Web01'))).created, left.length === 0);
      assert.equal(await readFile(join(target, 'Web01.xml'), 'utf8'), xml('Web01'));
    });
  }
});
