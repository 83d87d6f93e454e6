import { existsSync, readFileSync } from 'node:fs';
import { publishDefinition } from '../../src/definitions/publish.js';

/**
 * One of several racing processes: `publish-once.js <directory> <file with the XML> <file that says go> <server>…`. In the XML `@` stands for
 * the server's name. Prints `ready`, waits, publishes one definition per server and prints what came of it.
 */
const [directory = '', file = '', go = '', ...servers] = process.argv.slice(2);
const xml = readFileSync(file, 'utf8');
process.stdout.write('ready\n');
while (!existsSync(go)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
const results = [];
for (const server of servers) results.push(await publishDefinition(directory, server, xml.replaceAll('@', server)));
process.stdout.write(`${JSON.stringify(results)}\n`);
