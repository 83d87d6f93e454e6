import { readdir, readFile } from 'node:fs/promises';
import { startTime } from '../../src/system/processes.js';
import { loopDevices } from '../lab/drives.js';
import { CHECKOUT, labDirectory, readRecord, sandbox } from '../lab/layout.js';
import { Lab } from '../lab/lab.js';
import { initsBelow, processesWith } from '../lab/namespaces.js';
import { roleOf } from '../lab/roles.js';

/** What tests could leave behind on the machine: labs, loop devices, mounts, processes. Labs that somebody uses are not remains. */
export async function remains(before: ReadonlySet<string>): Promise<readonly string[]> {
  const found = await everything();
  return [...found].filter((each) => !before.has(each)).sort();
}

/** The same, as a set of lines to compare with later. */
export async function everything(): Promise<ReadonlySet<string>> {
  const inUse = new Set<string>();
  const expected = new Set<number>(); // processes of labs that are in use
  const found = new Set<string>();
  for (const name of await Lab.all()) {
    const directory = labDirectory(name);
    const owner = (await readRecord(directory))?.owner;
    const { inits } = await initsBelow(directory);
    const kept = owner === undefined ? inits.length > 0 : await startTime(owner.pid) === owner.startTime;
    if (!kept) found.add(`the lab ${name} in ${directory}`);
    else {
      inUse.add(directory);
      for (const init of inits) for (const { pid } of await processesWith(init.pid)) expected.add(pid);
    }
  }
  for (const { device, image } of await loopDevices()) {
    if (ours(image) && ![...inUse].some((directory) => image.startsWith(`${directory}/`))) found.add(`loop device ${device} of ${image}`);
  }
  for (const line of (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')) {
    const [, , , , mountPoint = ''] = line.split(' ');
    if (ours(mountPoint)) found.add(`mount at ${mountPoint}`);
  }
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry)).map(Number)) {
    if (expected.has(pid)) continue;
    const argv = (await readFile(`/proc/${String(pid)}/cmdline`, 'utf8').catch(() => '')).split('\0').slice(0, -1); // ended meanwhile
    const role = roleOf(argv);
    const works = (role === 'agent' || role === 'data' || role === 'guard' || role === 'agent-task') && argv.some((word) => word.startsWith(CHECKOUT));
    const reads = (role === 'storage-daemon' || role === 'guest') && argv.some((word) => word.includes(sandbox()) || word.includes('/dr-'));
    if (works || reads) found.add(`process ${String(pid)}: ${argv.join(' ').slice(0, 160)}`);
  }
  return found;
}

function ours(path: string): boolean {
  return ['/tmp/dr-', '/var/tmp/dr-', `${sandbox()}/`].some((start) => path.startsWith(start));
}
