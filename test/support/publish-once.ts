import { existsSync, readFileSync } from 'node:fs';
import { publishDefinition } from '../../src/definitions/publish.js';

/** One of several racing processes: `publish-once.js <directory> <server> <file with the XML> <file that says go>`. Prints what came of it. */
const [directory = '', server = '', file = '', go = ''] = process.argv.slice(2);
const xml = readFileSync(file, 'utf8');
process.stdout.write('ready\n');
while (!existsSync(go)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
process.stdout.write(`${JSON.stringify(await publishDefinition(directory, server, xml))}\n`);
