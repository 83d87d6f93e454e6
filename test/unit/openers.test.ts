import assert from 'node:assert/strict';
import { link, mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openersOf } from '../../src/system/processes.js';

describe('who has a file open', () => {
  let directory: string;
  before(async () => { directory = await mkdtemp(join(tmpdir(), 'openers-')); });
  after(() => rm(directory, { recursive: true }));

  it('finds readers and writers under any name of the file', async () => {
    const [name, other] = [join(directory, 'disk'), join(directory, 'link')];
    await writeFile(name, 'x');
    await link(name, other);
    assert.deepEqual(await openersOf([name]), []);
    await using reader = await open(other, 'r');
    const self = { pid: process.pid, command: 'node' };
    assert.ok(reader.fd > 0);
    const [seen] = await openersOf([name, join(directory, 'nothing')]);
    assert.deepEqual(seen && { pid: seen.pid, path: seen.path, writing: seen.writing }, { pid: self.pid, path: name, writing: false });
    await using writer = await open(name, 'r+');
    assert.ok(writer.fd > 0);
    assert.deepEqual((await openersOf([name])).map(({ writing }) => writing), [true]);
  });
});
