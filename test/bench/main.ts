import { parseArgs } from 'node:util';
import { writeFile } from 'node:fs/promises';
import { bulkOptions } from '../../src/system/ssh.js';
import { Lab } from '../lab/lab.js';
import { present } from './compete.js';
import { DdSshDd } from './contenders/dd.js';
import { Dr } from './contenders/dr.js';
import { limits } from './contenders/limits.js';
import { overNbd } from './contenders/nbd.js';
import { repositories } from './contenders/repositories.js';
import { Rsync } from './contenders/rsync.js';
import { Virtnbdbackup } from './contenders/virtnbdbackup.js';
import { downtimeRows } from './downtime.js';
import { Ground } from './ground.js';
import { COPY_ROWS, copyRows } from './rows.js';
import { sparseRow } from './sparse.js';
import { table, type Row } from './table.js';

/** `make bench`: us and the peers side by side. See README.md. */

const ROWS = [...COPY_ROWS, 'sparse', 'downtime'] as const;

async function main(): Promise<number> {
  const { values } = parseArgs({ options: {
    runs: { type: 'string', default: '5' }, size: { type: 'string', default: '1024' }, only: { type: 'string', multiple: true }, json: { type: 'boolean', default: false },
    out: { type: 'string' }, peer: { type: 'string', multiple: true },
  } });
  const [runs, mebibytes] = [Number(values.runs), Number(values.size)];
  const strangers = (values.only ?? []).filter((name) => !ROWS.some((row) => row === name));
  if (!(runs >= 1 && mebibytes >= 100) || strangers.length > 0) {
    process.stderr.write(`bench: ${strangers.length > 0 ? `there is no row ${strangers.join(', ')}` : 'at least one run and 100 MiB are needed'}\nusage: bench [--runs N] [--size MiB] [--only ${ROWS.join('|')}]… [--peer NAME]… [--json] [--out FILE]\n`);
    return 2;
  }
  const impossible = await Lab.impossible();
  if (impossible !== undefined) {
    process.stderr.write(`bench: it can't run here: ${impossible}\n`);
    return 1;
  }
  const wanted = (name: typeof ROWS[number]): boolean => values.only === undefined || values.only.includes(name);
  const say = (text: string): void => { process.stderr.write(`${text}\n`); };
  const rows: Row[] = [];
  let status = 0;
  try {
    if (COPY_ROWS.some(wanted) || wanted('sparse')) {
      for await (const row of between(runs, mebibytes, new Set(ROWS.filter(wanted)), values.peer, say)) rows.push(row);
    }
    if (wanted('downtime')) for await (const row of downtimeRows(runs, Math.min(mebibytes, 512), say)) rows.push(row);
  } catch (error) {
    process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`); // what was measured before is shown
    status = 1;
  }
  const json = `${JSON.stringify({ at: new Date().toISOString(), runs, mebibytes, rows }, null, 2)}\n`;
  if (values.out !== undefined) await writeFile(values.out, json);
  process.stdout.write(values.json ? json : table(rows));
  return status;
}

/** The rows that need nothing but two hosts. */
async function* between(runs: number, mebibytes: number, wanted: ReadonlySet<string>, chosen: readonly string[] | undefined, say: (text: string) => void): AsyncGenerator<Row> {
  say('bringing up two hosts');
  const files = chosen === undefined ? 11 : 5 + chosen.length; // as large as the disk: each peer's copy but for repositories, our three, what is written alone, and one to spare
  const grow = chosen === undefined || chosen.includes('restic') || chosen.includes('borg') ? 2 * runs + 2 : 0; // writes all over the disk let repositories grow by all of it each time
  const ground = await Ground.make(mebibytes * (files + grow) + 1536, mebibytes * (files - 1));
  const dr = new Dr('dr-engine', ground);
  const told = new Dr('dr-engine, told', ground, { told: true });
  const wide = new Dr('dr-engine, 2 streams', ground, { streams: 2 });
  const sshOptions = await bulkOptions('dr01');
  try {
    await Promise.all([dr, told, wide].map((each) => each.begin()));
    const all = [new DdSshDd(ground, sshOptions), new DdSshDd(ground, sshOptions, true), new Rsync(ground), ...overNbd(ground), ...repositories(ground), new Virtnbdbackup(ground)];
    const stranger = chosen?.find((name) => !all.some((peer) => peer.name === name));
    if (stranger !== undefined) throw new Error(`there is no ${JSON.stringify(stranger)} to measure against; there are ${all.map(({ name }) => JSON.stringify(name)).join(', ')}`);
    const { here, notes } = await present(all.filter(({ name }) => chosen?.includes(name) !== false));
    for (const note of notes) say(note);
    yield* copyRows({ ground, dr, told, wide, limits: limits(ground, sshOptions), peers: here, runs, mebibytes, say }, new Set(COPY_ROWS.filter((name) => wanted.has(name))));
    if (wanted.has('sparse')) yield await sparseRow(ground, dr, runs, say);
  } finally {
    await Promise.all([dr, told, wide].map((each) => each.end()));
    await ground.remove();
  }
}

process.exitCode = await main();
