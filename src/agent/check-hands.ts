import { access, constants, readFile, stat, statfs } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { DrError } from '../model/errors.js';
import type { Finding } from '../model/host.js';
import { openStore } from '../stores/open.js';
import { run } from '../system/run.js';
import { remoteCommand } from '../system/ssh.js';
import { listDomains } from '../system/virsh.js';
import { checkLvm, checkWrappers } from './check-lvm.js';
import type { Handlers, Params, Route } from './protocol.js';
import type { Session } from './session.js';

/** What a host can say of itself before a run or an activation needs it. */

const NODE_PROGRAMS = ['virsh', 'qemu-img', 'qemu-storage-daemon', 'lsblk', 'blkid', 'unshare', 'rm', 'flock', 'mount', 'umount', 'ssh'];
const TARGET_PROGRAMS = ['virsh', 'getfattr', 'setfattr', 'fallocate', 'flock', 'qemu-system-x86_64'];
const HOOK = '/etc/libvirt/hooks/qemu.d/dr-engine';

export function checkHands(session: Session): Pick<Handlers, 'check'> {
  return { 'check': async (params) => ({ findings: await check(params, session) }) };
}

async function check(params: Params<'check'>, session: Session): Promise<Finding[]> {
  const host = hostname();
  const report = new Report(host);
  for (const program of params.role === 'node' ? NODE_PROGRAMS : TARGET_PROGRAMS) await report.program(program);
  await report.test('libvirt answers', () => listDomains(params.uri).then((domains) => `${String(domains.length)} domains`), `Look at: virsh -c ${params.uri} list --all`);
  if (params.role === 'node') await checkNode(params, report, session);
  else await checkTarget(params, report);
  await checkLvm(report);
  if (await confined()) {
    report.warn('AppArmor or SELinux confines QEMU here: untested with dr-engine', 'Try dr run on one server and look at the audit log.');
  }
  return report.findings;
}

async function checkNode(params: Params<'check'>, report: Report, session: Session): Promise<void> {
  await report.test('FUSE is there for live captures and qcow2', () => access('/dev/fuse', constants.R_OK | constants.W_OK).then(() => '/dev/fuse'), 'modprobe fuse');
  if (params.scratch !== undefined) {
    const scratch = params.scratch;
    await report.test('there is scratch space for live captures', async () => {
      const free = await freeBytes(scratch);
      if (free < 1024 ** 3) throw new DrError('space', `${scratch} has ${String(Math.round(free / 2 ** 20))} MiB free`);
      return `${scratch}: ${String(Math.round(free / 2 ** 30))} GiB free`;
    }, 'Free space there, or name another directory with scratch: in the job.');
  }
  for (const peer of params.peers ?? []) {
    await report.test(`it can ask ${peer.host} whether a server runs there`, () => ask(peer), `Let this host log in there without a question: ssh ${peer.host} ${peer.agentCommand.join(' ')} --version`);
  }
  const owed = await session.ledger.listAll();
  for (const { debt, stuck } of owed) {
    report.fail(`it owes: ${debt.kind}${'server' in debt ? ` ${debt.server}` : ''}${stuck === undefined ? '' : ` (${stuck})`}`, 'It is paid as soon as that is safe; see dr status.');
  }
}

async function checkTarget(params: Params<'check'>, report: Report): Promise<void> {
  const ref = params.store;
  if (ref === undefined) return;
  await report.test(`the store ${ref.store} can keep images`, async () => {
    const { store } = openStore(ref);
    await store.check();
    const space = await store.space();
    for (const warning of space.warnings ?? []) report.warn(warning, 'An overfull pool stops every server whose copy is booted from it.');
    return `${String(Math.round(space.freeBytes / 2 ** 30))} GiB free of ${String(Math.round(space.sizeBytes / 2 ** 30))}`;
  }, 'See the message; docs/targets.md says what a store needs.');
  if (ref.store.startsWith('vg:')) await checkWrappers(report);
  for (const [what, path] of [['definitions', ref.definitions], ['current links', ref.current]] as const) {
    await report.test(`${what} can be written`, async () => {
      await access(await nearest(path), constants.W_OK);
      return path;
    }, `mkdir -p ${path}`);
  }
  const hook = await stat(HOOK).catch(() => undefined);
  if (hook === undefined) report.warn('the libvirt hook is not installed: what is booted by hand is noticed only by its changed files', `install -D -m 0755 hooks/libvirt-qemu ${HOOK}, then restart libvirtd: it looks for hooks only when it starts`);
  else report.pass('the libvirt hook is installed');
}

/** Findings of one host, in the order in which they were made. */
class Report {
  readonly findings: Finding[] = [];
  constructor(readonly host: string) {}

  pass(what: string): void { this.findings.push({ ok: true, level: 'ok', host: this.host, what, remedy: '' }); }
  warn(what: string, remedy: string): void { this.findings.push({ ok: true, level: 'warning', host: this.host, what, remedy }); }
  fail(what: string, remedy: string): void { this.findings.push({ ok: false, level: 'error', host: this.host, what, remedy }); }

  async test(what: string, act: () => Promise<string>, remedy: string): Promise<void> {
    try {
      this.pass(`${what} (${await act()})`);
    } catch (error) {
      const failure = DrError.from(error);
      this.fail(`not so: ${what}: ${failure.message}`, failure.hint === '' || failure.code === 'internal' ? remedy : failure.hint);
    }
  }

  async program(name: string): Promise<void> {
    try {
      await run('sh', ['-c', 'command -v "$1"', 'sh', name]);
    } catch {
      this.fail(`the program ${name} is missing`, `Install it; docs/installation.md names the packages.`);
    }
  }
}

async function ask(peer: Route): Promise<string> {
  const { program, args } = remoteCommand(peer.host, peer.agentCommand, ['--version']);
  return (await run(program, args, { timeoutMs: 15_000 })).stdout.trim();
}

/** The path itself, or the closest directory above it that exists: a check creates nothing. */
async function nearest(path: string): Promise<string> {
  for (let at = path; at !== '/'; at = dirname(at)) {
    if (await stat(at).then(() => true, () => false)) return at;
  }
  return '/';
}

async function freeBytes(path: string): Promise<number> {
  const space = await statfs(await nearest(path));
  return space.bavail * space.bsize;
}

async function confined(): Promise<boolean> {
  const apparmor = await readFile('/sys/module/apparmor/parameters/enabled', 'utf8').catch(() => 'N'); // not in this kernel
  const selinux = await readFile('/sys/fs/selinux/enforce', 'utf8').catch(() => '0'); // not in this kernel
  return apparmor.startsWith('Y') || selinux.startsWith('1');
}
