import { chmod, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { wrap } from '../../src/commands/format.js';
import { start } from '../../src/system/run.js';
import type { Guest } from './guest.js';
import { forgetBuilt, Lab } from './lab.js';
import { sandbox } from './layout.js';

/** `make demo`: a whole DR job on real parts, from the first image to the booted copy. Everything is in .sandbox/; `--clean` removes it. */

const NAME = 'demo';
const RUNS = 4;

const CONFIG = `# The demo's configuration: one node, one DR target, one job. docs/configuration.md explains every key.
version: 1
anvils:
  an-a01:
    nodes: [node01]             # ssh destinations
targets:
  dr01:
    host: local                 # dr runs on the DR target itself here
    reach: dr01                 # and the node reaches it by this name
    store: fs:/srv/dr
jobs:
  web:
    anvil: an-a01
    targets: [dr01]
    servers: [Web01]
    copies: 3
    capture: live               # Web01 keeps running
    schedule: "0 2 * * *"
`;

async function demo(): Promise<number> {
  const impossible = await Lab.impossible();
  if (impossible !== undefined) {
    process.stderr.write(`The demo can't run here: ${impossible}.\n`);
    return 1;
  }
  const started = Date.now();
  say('A sandbox: a virtualization host node01 and a DR target dr01, each with its own libvirt, sshd and drives.',
    'Nothing outside .sandbox/ is touched, nor any libvirt or domain that this machine has already.');
  const lab = await Lab.up({ name: NAME, hosts: ['node01', 'dr01'], keep: true });
  const target = lab.host('dr01');
  await chmod(sandbox(), 0o755); // whoever ran sudo may read dr.yaml; what is secret has modes of its own
  await writeFile(join(sandbox(), 'dr.yaml'), CONFIG);
  await target.writeFile('/etc/dr/dr.yaml', CONFIG);
  const drive = await lab.addDrive('node01', { sizeMiB: 512 });
  tell(`node01 has a cache drive, ${drive}: an ext4 file system with the file .dr_cache in its root, not mounted.`);
  tell('Web01, a small Linux with two disks, boots on node01 and writes a heartbeat to its second disk twice a second.');
  const guest = await lab.addGuest('node01', { name: 'Web01', kind: 'linux' });
  await guest.beats(3);
  tell(`Its heartbeat is at ${String(await guest.heartbeat())}. The job is in .sandbox/dr.yaml: three copies, live.`);

  for (let run = 1; run <= RUNS; run++) {
    say(`Run ${String(run)} of ${String(RUNS)}: dr run web   (heartbeat ${String(await guest.heartbeat())}, the guest runs on)`);
    if (await on(lab, 'dr01', 'dr', 'run', 'web') !== 0) return failed('the run failed');
    await on(lab, 'dr01', 'dr', 'images');
  }
  return await disaster(lab, guest, started);
}

async function clean(): Promise<number> {
  await Lab.down(NAME);
  await rm(join(sandbox(), 'dr.yaml'), { force: true });
  await forgetBuilt();
  return 0;
}

async function disaster(lab: Lab, guest: Guest, started: number): Promise<number> {
  const lastSeen = await guest.heartbeat();
  say(`The disaster: node01 loses power, its disks are gone. The last heartbeat seen was ${String(lastSeen)}.`);
  await lab.host('node01').powerCut();
  tell('dr-activate first makes sure that the original is not alive:');
  await on(lab, 'dr01', 'dr-activate', '--yes');
  tell('It can\'t know, so it wants it in so many words:');
  if (await on(lab, 'dr01', 'dr-activate', '--yes', '--originals-are-off') !== 0) return failed('dr-activate failed');
  const copy = guest.on(lab.host('dr01'));
  const found = await copy.last();
  await copy.beats(2);
  if (found === 0 || found > lastSeen) return failed(`the copy came up with heartbeat ${String(found)}, which was never written`);
  say(`Web01 runs on dr01. It found heartbeat ${String(found)} on its disk and goes on: now at ${String(await copy.heartbeat())}.`,
    `Everything took ${String(Math.round((Date.now() - started) / 1000))} s.`);
  const there = `${process.env['SUDO_USER'] === undefined ? '' : 'sudo '}npm run lab -- exec dr01 --name ${NAME} --`;
  process.stdout.write(`
Look around:
  ${there} dr images
  ${there} ls -l /srv/dr
  ${there} ls -l /shared/dr/current/Web01/
  ${there} cat /shared/definitions/Web01.xml
  ${there} tail -f /var/log/guests/Web01.log
Try next:
  ${there} dr status
  ${there} dr verify
  docs/first-job.md           the same with your own servers
Remove it all:
  make demo-clean
`);
  return 0;
}

/** Runs a program on a lab host with our terminal. */
async function on(lab: Lab, host: string, program: string, ...args: readonly string[]): Promise<number> {
  process.stdout.write(`\n${bold(`${host}$ ${[program, ...args].join(' ')}`)}\n`);
  const [outer, ...words] = await lab.host(host).enter(program, args, { TERM: process.env['TERM'] ?? 'dumb' });
  const child = start(outer, words, { stdio: ['ignore', 'inherit', 'inherit'] });
  return new Promise((resolve) => child.once('exit', (code) => { resolve(code ?? 1); }));
}

function bold(text: string): string {
  return process.stdout.isTTY ? `\x1b[1m${text}\x1b[0m` : text;
}

function say(title: string, ...more: readonly string[]): void {
  process.stdout.write(`\n${broken(title).map((line, index) => `${bold(`${index === 0 ? '==' : '  '} ${line}`)}\n`).join('')}`);
  for (const line of more) tell(line);
}

function tell(text: string): void {
  process.stdout.write(broken(text).map((line) => `   ${line}\n`).join(''));
}

/** As wide as the terminal, less the margin. */
function broken(text: string): string[] {
  return wrap(text, (process.stdout.isTTY ? process.stdout.columns : 100) - 3);
}

function failed(why: string): number {
  process.stderr.write(`\nThe demo failed: ${why}. It is left as it is for a look; make demo-clean removes it.\n`);
  return 1;
}

try {
  process.exitCode = await (process.argv.includes('--clean') ? clean() : demo());
} catch (error) {
  process.exitCode = failed(error instanceof Error ? error.message : String(error));
}
