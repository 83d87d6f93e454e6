import { appendFile, readdir } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { Lab } from '../lab/lab.js';
import { CHECKOUT } from '../lab/layout.js';
import type { VmHost } from '../lab/vm-host.js';
import type { TestEvent } from './suite-reporter.js';

/**
 * Runs files of tests, one after the other, inside one virtual machine of the lab, where there is real device-mapper: `run-in-vm [word…]` runs those of test/lvm
 * whose names have one of the words in them. With `--events FILE` the results are appended there as run-suites wants them.
 */

const HOST = 'dr01';
const EVENTS = '/run/events.jsonl';
const DISK_MIB = 2048;

const build = join(CHECKOUT, 'build/test');

async function filesNamed(words: readonly string[]): Promise<readonly string[]> {
  if (words.some((word) => word.endsWith('.js'))) return words;
  const files = (await readdir(join(build, 'lvm'))).filter((name) => name.endsWith('.test.js')).sort();
  return files.filter((name) => words.length === 0 || words.some((word) => name.includes(word))).map((name) => join(build, 'lvm', name));
}

/** Runs one file and gives what its tests came to; one that died has a failure that says so. */
async function runFile(vm: VmHost, file: string): Promise<readonly TestEvent[]> {
  await vm.run('rm', ['-f', EVENTS]);
  const program = await vm.spawn(process.execPath, [join(build, 'support/run-part.js'), file],
    { env: { DR_SUITE_EVENTS: EVENTS, DR_TEST_VM: '1', FORCE_COLOR: '0', TMPDIR: '/var/tmp', DR_SOAK: process.env['DR_SOAK'] ?? '' } });
  let shown = 0;
  const show = (): void => {
    process.stdout.write(program.stdout().slice(shown));
    shown = program.stdout().length;
  };
  const timer = setInterval(show, 500);
  const status = await program.exit;
  clearInterval(timer);
  show();
  const said = await vm.run('cat', [EVENTS], { okExit: [0, 1] });
  const events = said.stdout.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as TestEvent);
  const results = events.filter(({ kind }) => kind !== 'end');
  if (events.length > results.length) return results;
  return [...results, { kind: 'fail', title: basename(file), error: `it ended with status ${String(status)} before all its tests were done: ${program.stderr().trim().split('\n').slice(-5).join('; ')}` }];
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { events: { type: 'string' }, name: { type: 'string', default: 'lvm' } } });
  const tell = async (events: readonly TestEvent[]): Promise<void> => {
    if (values.events !== undefined) await appendFile(values.events, events.map((event) => `${JSON.stringify(event)}\n`).join(''));
  };
  const files = await filesNamed(positionals);
  const reason = await Lab.impossible() ?? await Lab.impossibleVirtual();
  if (reason !== undefined) {
    process.stdout.write(`skipped: ${reason}\n`);
    await tell([...files.map((file): TestEvent => ({ kind: 'skip', title: basename(file), reason })), { kind: 'end' }]);
    return 0;
  }
  let failed = false;
  try {
    const lab = await Lab.up({ name: values.name, hosts: [HOST], virtual: [HOST], disks: { [HOST]: [DISK_MIB, DISK_MIB, DISK_MIB, DISK_MIB] }, store: { sizeMiB: 512 } });
    for (const file of files) {
      const begun = Date.now();
      process.stdout.write(`\n${relative(build, file)}\n`);
      const events = await runFile(lab.vm(HOST), file);
      process.stdout.write(`  ${((Date.now() - begun) / 1000).toFixed(1)} s\n`);
      failed ||= events.some(({ kind }) => kind === 'fail');
      for (const event of events) if (event.kind === 'fail') process.stdout.write(`  FAILED: ${event.title}: ${event.error}\n`);
      await tell(events);
    }
    await tell([{ kind: 'end' }]);
  } finally {
    await Lab.down(values.name);
  }
  return failed ? 1 : 0;
}

process.exitCode = await main();
