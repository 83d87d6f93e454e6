import { parseArgs } from 'node:util';
import { start } from '../../src/system/run.js';
import { forgetBuilt, Lab } from './lab.js';
import { labDirectory, readRecord } from './layout.js';

/** The lab's command line: `npm run lab -- …`. See README.md. */

const USAGE = `Usage: npm run lab -- COMMAND [--name LAB]

  up [--host NAME]… [--vm NAME]…  bring up a lab (node01, node02 and dr01 unless told otherwise);
                                  hosts named with --vm are virtual machines
  down [--all]                    take it down; leaves nothing of it
  forget                          remove what was built for labs (guests), once no lab is there
  status                          which labs and hosts are up
  exec HOST -- PROGRAM [ARG]…     run a program on a host
  link HOST --rate 10mbit         slow a host's link down
  link HOST --cut | --restore     pull its cable, put it back
  drive HOST [--size MIB] [--fs ext4|xfs|btrfs|vfat]
                                  give a host a cache drive
  power HOST --cut | --boot       cut a host's power, boot it
  guest HOST NAME [--kind sector|sector-pair|linux]
                                  define and start a guest

Everything of a lab is in .sandbox/lab-<name>/ ($DR_LAB_DIR moves it). All of it needs root.
`;

const options = {
  name: { type: 'string', default: 'main' },
  host: { type: 'string', multiple: true },
  vm: { type: 'string', multiple: true },
  all: { type: 'boolean', default: false },
  owner: { type: 'string' },
  rate: { type: 'string' },
  cut: { type: 'boolean', default: false },
  restore: { type: 'boolean', default: false },
  boot: { type: 'boolean', default: false },
  size: { type: 'string' },
  fs: { type: 'string' },
  kind: { type: 'string', default: 'sector' },
} as const;

async function main(argv: readonly string[]): Promise<number> {
  const dashes = argv.indexOf('--');
  const own = dashes === -1 ? argv : argv.slice(0, dashes);
  const command = dashes === -1 ? [] : argv.slice(dashes + 1);
  const { values, positionals } = parseArgs({ args: [...own], options, allowPositionals: true });
  const [verb, host = '', ...rest] = positionals;
  if (verb === undefined || verb === 'help') {
    process.stdout.write(USAGE);
    return verb === undefined ? 2 : 0;
  }
  const reason = await Lab.impossible();
  if (reason !== undefined) {
    process.stderr.write(`lab: ${reason}\n`);
    return 1;
  }
  switch (verb) {
    case 'up': {
      const lab = await Lab.up({ name: values.name, keep: true, ...(values.host === undefined ? {} : { hosts: values.host }), ...(values.vm === undefined ? {} : { virtual: values.vm }) });
      await status(lab.name);
      return 0;
    }
    case 'down': {
      // The child that a test left behind to clean up must not take down a lab that somebody else has started since.
      const owner = values.owner === undefined ? undefined : (await readRecord(labDirectory(values.name)))?.owner?.pid;
      if (values.owner !== undefined && owner !== Number(values.owner)) return 0;
      for (const name of values.all ? await Lab.all() : [values.name]) await Lab.down(name);
      return 0;
    }
    case 'forget':
      await forgetBuilt();
      return 0;
    case 'status':
      for (const name of await Lab.all()) await status(name);
      return 0;
    case 'exec': {
      const lab = await Lab.attach(values.name);
      const [program, ...args] = command.length > 0 ? command : rest.length > 0 ? rest : ['bash'];
      if (program === undefined) return 2;
      const [outer, ...words] = await lab.any(host).enter(program, args, { TERM: process.env['TERM'] ?? 'dumb' });
      const child = start(outer, words, { stdio: ['inherit', 'inherit', 'inherit'] });
      return new Promise((resolve) => child.once('exit', (code) => { resolve(code ?? 1); }));
    }
    case 'link': {
      const lab = await Lab.attach(values.name);
      if (values.cut) await lab.cut(host);
      else if (values.restore) await lab.restore(host);
      else if (values.rate !== undefined) await lab.slow(host, values.rate);
      else return usage('link wants --rate, --cut or --restore');
      return 0;
    }
    case 'drive': {
      const lab = await Lab.attach(values.name);
      const fs = values.fs ?? 'ext4';
      if (fs !== 'ext4' && fs !== 'xfs' && fs !== 'btrfs' && fs !== 'vfat') return usage(`no such file system: ${fs}`);
      process.stdout.write(`${await lab.addDrive(host, { fs, ...(values.size === undefined ? {} : { sizeMiB: Number(values.size) }) })}\n`);
      return 0;
    }
    case 'power': {
      const lab = await Lab.attach(values.name);
      if (values.cut) await lab.any(host).powerCut();
      else if (values.boot) await lab.any(host).boot();
      else return usage('power wants --cut or --boot');
      return 0;
    }
    case 'guest': {
      const lab = await Lab.attach(values.name);
      const [name] = rest;
      const { kind } = values;
      if (name === undefined || (kind !== 'sector' && kind !== 'sector-pair' && kind !== 'linux')) return usage('guest wants a host, a name and perhaps --kind sector|sector-pair|linux');
      const guest = await lab.addGuest(host, { name, kind });
      process.stdout.write(`${guest.name} runs on ${host}; its console: npm run lab -- exec ${host} -- tail -f /var/log/guests/${name}.log\n`);
      return 0;
    }
    default:
      return usage(`no such command: ${verb}`);
  }
}

function usage(complaint: string): number {
  process.stderr.write(`lab: ${complaint}\n\n${USAGE}`);
  return 2;
}

async function status(name: string): Promise<void> {
  const record = await readRecord(labDirectory(name));
  process.stdout.write(`lab ${name}${record === undefined ? ' (remains only)' : ''}\n`);
  if (record === undefined) return;
  const lab = await Lab.attach(name).catch(() => undefined); // its hosts are all off
  for (const { name: host, address, role } of record.hosts) {
    const up = lab !== undefined && await lab.any(host).isUp();
    process.stdout.write(`  ${host.padEnd(10)} ${role.padEnd(7)} ${address.padEnd(12)} ${up ? 'up' : 'off'}\n`);
  }
}

process.exitCode = await main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`lab: ${error instanceof Error ? error.message : String(error)}\n`);
  return 1;
});
