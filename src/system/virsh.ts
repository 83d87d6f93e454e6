import { readFile, readdir } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import type { DomainState } from '../model/server.js';
import { run } from './run.js';

/**
 * Everything that is asked of libvirt, through virsh(1). What virsh prints when it fails is turned into codes and verdicts here and
 * nowhere else. A domain may be given by name or by UUID. All functions throw `unreachable` when libvirt does not answer,
 * `timeout` when a call hangs, `server-unknown` when there is no such domain (unless they say otherwise), else `program-failed`.
 */

/** Reasons virsh gives for a failure, as far as anybody here decides by them. */
type Failure = 'no-domain' | 'unreachable' | 'not-running' | 'already-running' | 'no-job' | 'agent-silent' | 'locked' | 'other';

const FAILURES: readonly (readonly [Failure, RegExp])[] = [
  ['unreachable', /failed to connect to the hypervisor|Failed to connect socket|Cannot recv data|End of file while reading data|client socket is closed/i],
  ['no-domain', /failed to get domain|Domain not found|no domain with matching/i],
  ['agent-silent', /guest agent is not (connected|configured|responding|available)|agent (is )?not (connected|configured|responding)/i],
  ['no-job', /no job is active|no domain backup job present|Domain backup job id not found/i],
  ['already-running', /already active|already exists with uuid|is already running/i],
  ['not-running', /domain is not running|is not running/i],
  ['locked', /cannot acquire state change lock/i],
];

interface Answer {
  readonly stdout: string;
  /** Undefined: it succeeded. */
  readonly failure?: Failure;
  readonly said: string;
}

/** Runs one virsh command and says how it went; throws only if libvirt does not answer at all. */
async function virsh(uri: string, args: readonly string[], timeoutMs = 30_000): Promise<Answer> {
  const result = await run('virsh', ['--quiet', '--connect', uri, ...args], { timeoutMs, okExit: [0, 1] });
  if (result.exitCode === 0) return { stdout: result.stdout, said: '' };
  const said = result.stderr.split('\n').map((line) => line.replace(/^error: /, '').trim()).filter((line) => line !== '').join(': ');
  const failure = FAILURES.find(([, pattern]) => pattern.test(said))?.[0] ?? 'other';
  if (failure === 'unreachable') {
    throw new DrError('unreachable', `libvirt (${uri}) does not answer on this host: ${said}`, 'Start libvirtd, or correct `libvirt:` in the configuration.');
  }
  return { stdout: result.stdout, failure, said };
}

function failed(what: string, name: string, answer: Answer): DrError {
  if (answer.failure === 'no-domain') return new DrError('server-unknown', `${what}: there is no domain ${name} on this host`, 'virsh list --all shows what is there.');
  if (answer.failure === 'locked') return new DrError('timeout', `${what} of ${name} waits for another job of the domain: ${answer.said}`, `virsh domjobinfo ${name} shows it.`);
  return new DrError('program-failed', `${what} of ${name} failed: ${answer.said}`);
}

/** A domain as a virsh argument. virsh takes a number for an ID first, so a name that is one is replaced by its UUID. */
async function domain(uri: string, name: string): Promise<string> {
  if (!/^\d+$/.test(name)) return `--domain=${name}`;
  const found = (await listDomains(uri)).find((each) => each.name === name);
  return `--domain=${found?.uuid ?? `no-such-name-${name}`}`;
}

async function done(what: string, uri: string, name: string, command: string, rest: readonly string[] = [], timeoutMs?: number): Promise<string> {
  const answer = await virsh(uri, [command, await domain(uri, name), ...rest], timeoutMs);
  if (answer.failure !== undefined) throw failed(what, name, answer);
  return answer.stdout;
}

export interface DomainListed {
  readonly name: string;
  readonly uuid: string;
}

/** All domains that libvirt knows here, running or not. */
export async function listDomains(uri: string): Promise<DomainListed[]> {
  const answer = await virsh(uri, ['list', '--all', '--uuid', '--name']);
  if (answer.failure !== undefined) throw new DrError('program-failed', `virsh list failed: ${answer.said}`);
  return answer.stdout.split('\n').flatMap((line) => {
    const match = /^\s*([0-9a-f-]{36})\s+(.*?)\s*$/.exec(line);
    return match?.[1] === undefined || match[2] === undefined || match[2] === '' ? [] : [{ uuid: match[1], name: match[2] }];
  });
}

export interface DomainInfo {
  readonly state: DomainState;
  readonly uuid: string;
  readonly name: string;
  readonly persistent: boolean;
  /** It has an image of its memory on disk and would resume from it. */
  readonly managedSave: boolean;
}

/** What libvirt says of a domain; undefined if there is none of that name or UUID. */
export async function domainInfo(uri: string, nameOrUuid: string): Promise<DomainInfo | undefined> {
  const answer = await virsh(uri, ['dominfo', await domain(uri, nameOrUuid)]);
  if (answer.failure === 'no-domain') return undefined;
  if (answer.failure !== undefined) throw failed('dominfo', nameOrUuid, answer);
  const field = (key: string): string => new RegExp(`^${key}:\\s+(.*?)\\s*$`, 'm').exec(answer.stdout)?.[1] ?? '';
  return {
    state: stateOf(field('State')), uuid: field('UUID'), name: field('Name'),
    persistent: field('Persistent') === 'yes', managedSave: field('Managed save') === 'yes',
  };
}

function stateOf(word: string): DomainState {
  switch (word) {
    case 'running': case 'idle': return 'running';
    case 'paused': return 'paused';
    case 'shut off': return 'shut off';
    default: return 'other'; // in shutdown, crashed, pmsuspended, no state
  }
}

/** A domain's state and UUID; undefined if there is no such domain. */
export async function domainState(uri: string, nameOrUuid: string): Promise<{ readonly state: DomainState; readonly uuid: string } | undefined> {
  const info = await domainInfo(uri, nameOrUuid);
  return info === undefined ? undefined : { state: info.state, uuid: info.uuid };
}

/** Why a domain is paused, in libvirt's words (`user`, `I/O error`, …); undefined if it is not paused or is gone. */
export async function domainPausedReason(uri: string, name: string): Promise<string | undefined> {
  const answer = await virsh(uri, ['domstate', await domain(uri, name), '--reason']);
  if (answer.failure === 'no-domain') return undefined;
  if (answer.failure !== undefined) throw failed('domstate', name, answer);
  return /^paused \((.*)\)/m.exec(answer.stdout)?.[1];
}

/** The domain's XML with its secrets: of its next boot (`inactive`) or as it runs now. */
export async function dumpXml(uri: string, name: string, { inactive }: { readonly inactive: boolean }): Promise<string> {
  return done('dumpxml', uri, name, 'dumpxml', ['--security-info', ...(inactive ? ['--inactive'] : [])]);
}

/** Asks the guest to shut down (ACPI, or its agent); returns at once. A domain that is off or gone is no error. */
export async function shutdownDomain(uri: string, name: string): Promise<'requested' | 'not-running'> {
  const answer = await virsh(uri, ['shutdown', await domain(uri, name)]);
  if (answer.failure === 'not-running' || answer.failure === 'no-domain') return 'not-running';
  if (answer.failure !== undefined) throw failed('shutdown', name, answer);
  return 'requested';
}

/** Pulls the plug. A domain that is off or gone is no error. */
export async function destroyDomain(uri: string, name: string): Promise<'destroyed' | 'not-running'> {
  const answer = await virsh(uri, ['destroy', await domain(uri, name), '--graceful']);
  if (answer.failure === 'not-running' || answer.failure === 'no-domain') return 'not-running';
  if (answer.failure !== undefined) throw failed('destroy', name, answer);
  return 'destroyed';
}

export async function startDomain(uri: string, name: string): Promise<'started' | 'already-running'> {
  const answer = await virsh(uri, ['start', await domain(uri, name)], 120_000);
  if (answer.failure === 'already-running') return 'already-running';
  if (answer.failure !== undefined) throw failed('start', name, answer);
  return 'started';
}

/** Starts a transient domain from a file. `already-running` if one of that name or UUID is active. */
export async function createDomain(uri: string, xmlFile: string): Promise<'started' | 'already-running'> {
  const answer = await virsh(uri, ['create', xmlFile], 120_000);
  if (answer.failure === 'already-running') return 'already-running';
  if (answer.failure !== undefined) throw failed('create', xmlFile, answer);
  return 'started';
}

/**
 * How long a suspension may wait for the guest's disks, in milliseconds. libvirt goes on with it when its virsh is killed, and nobody could tell then whether it is
 * still to come.
 */
const SUSPEND_MS = 15 * 60_000;

/** Stops the guest's processors; what it had handed to its disks is written out first. */
export async function suspendDomain(uri: string, name: string): Promise<void> {
  await done('suspend', uri, name, SUSPEND, [], SUSPEND_MS);
}

/** virsh's command for it, by which one that is under way is known. */
export const SUSPEND = 'suspend';

export async function resumeDomain(uri: string, name: string): Promise<void> {
  await done('resume', uri, name, 'resume');
}

/** What a guest agent answers to a command; undefined if none is there or it does not answer in time. */
async function askAgent(uri: string, name: string, command: string, seconds: number): Promise<unknown> {
  // virsh's own domfsfreeze would wait for ever; this one has a limit.
  const answer = await virsh(uri, ['qemu-agent-command', await domain(uri, name), '--timeout', String(seconds), '--cmd', JSON.stringify({ execute: command })], (seconds + 15) * 1000);
  if (answer.failure === 'agent-silent' || answer.failure === 'not-running') return undefined;
  if (answer.failure !== undefined) throw failed(command, name, answer);
  const parsed = JSON.parse(answer.stdout) as { readonly return?: unknown };
  return parsed.return ?? null;
}

/** Whether a guest agent is installed, running and answers within a few seconds. */
export async function guestAgentAnswers(uri: string, name: string): Promise<boolean> {
  return await askAgent(uri, name, 'guest-ping', 3) !== undefined;
}

/** Freezes the guest's file systems; the number frozen. Throws if the agent does not do it in 5 s: thaw all the same then. */
export async function freeze(uri: string, name: string): Promise<number> {
  const count = await askAgent(uri, name, 'guest-fsfreeze-freeze', 5);
  if (count === undefined) throw new DrError('timeout', `the guest agent of ${name} did not freeze its file systems in 5 s`);
  return Number(count);
}

/** Thaws all file systems that the agent froze; how many were frozen, so 0 if none. Throws `timeout` if the agent does not answer. */
export async function thaw(uri: string, name: string): Promise<number> {
  const count = await askAgent(uri, name, 'guest-fsfreeze-thaw', 5);
  if (count === undefined) throw new DrError('timeout', `the guest agent of ${name} did not answer the request to thaw`);
  return Number(count);
}

/** Whether file systems are frozen now; undefined if no agent answers. */
export async function frozen(uri: string, name: string): Promise<boolean | undefined> {
  const status = await askAgent(uri, name, 'guest-fsfreeze-status', 3);
  return status === undefined ? undefined : status === 'frozen';
}

/** Starts a backup job as described by a file of `<domainbackup>` XML, and in the same instant a checkpoint by a file of `<domaincheckpoint>` XML. */
export async function beginBackup(uri: string, name: string, backupXmlFile: string, checkpointXmlFile?: string): Promise<void> {
  await done('backup-begin', uri, name, 'backup-begin', [`--backupxml=${backupXmlFile}`, ...(checkpointXmlFile === undefined ? [] : [`--checkpointxml=${checkpointXmlFile}`])], 60_000);
}

/** The names of a domain's checkpoints, whoever made them. */
export async function checkpointNames(uri: string, name: string): Promise<readonly string[]> {
  return (await done('checkpoint-list', uri, name, 'checkpoint-list', ['--name'])).split('\n').map((line) => line.trim()).filter((line) => line !== '');
}

/** Removes a checkpoint of a running domain with its bitmaps; where these are broken, libvirt's record of it. Disks are otherwise not touched. */
export async function deleteCheckpoint(uri: string, name: string, checkpoint: string): Promise<void> {
  try {
    await done('checkpoint-delete', uri, name, 'checkpoint-delete', [`--checkpointname=${checkpoint}`]);
  } catch (error) {
    if (DrError.from(error).code !== 'program-failed') throw error; // busy: the bitmaps may well be whole
    await done('checkpoint-delete', uri, name, 'checkpoint-delete', [`--checkpointname=${checkpoint}`, '--metadata']);
  }
}

/** The XML of the running backup job, whoever began it; undefined if there is none (or no such running domain). */
export async function backupXml(uri: string, name: string): Promise<string | undefined> {
  const answer = await virsh(uri, ['backup-dumpxml', await domain(uri, name)]);
  if (answer.failure === 'no-job' || answer.failure === 'no-domain' || answer.failure === 'not-running') return undefined;
  if (answer.failure !== undefined) throw failed('backup-dumpxml', name, answer);
  return answer.stdout;
}

/** Aborts the domain's job, whatever it is: callers have made sure that it is theirs. The job may end a little later. */
export async function abortJob(uri: string, name: string): Promise<'aborted' | 'none'> {
  const answer = await virsh(uri, ['domjobabort', await domain(uri, name)]);
  if (answer.failure === 'no-job' || answer.failure === 'no-domain' || answer.failure === 'not-running') return 'none';
  if (answer.failure !== undefined) throw failed('domjobabort', name, answer);
  return 'aborted';
}

/** The operation of the domain's running job (`Backup`, `Outgoing migration`, …); undefined if there is none. */
export async function jobActive(uri: string, name: string): Promise<string | undefined> {
  const answer = await virsh(uri, ['domjobinfo', await domain(uri, name)]);
  if (answer.failure === 'no-domain' || answer.failure === 'not-running') return undefined;
  if (answer.failure !== undefined) throw failed('domjobinfo', name, answer);
  if (/^Job type:\s+None/m.test(answer.stdout) || answer.stdout.trim() === '') return undefined;
  return /^Operation:\s+(.*?)\s*$/m.exec(answer.stdout)?.[1] ?? 'unknown job';
}

/** Whether a block job (copy, commit, pull) runs on a disk of the domain. */
export async function blockJobActive(uri: string, name: string, target: string): Promise<boolean> {
  const answer = await virsh(uri, ['blockjob', await domain(uri, name), `--path=${target}`, '--raw']);
  return answer.failure === undefined && /type=/.test(answer.stdout);
}

/** The PID of the domain's QEMU process as this host sees it; undefined if it does not run here. */
export async function domainPid(uri: string, name: string): Promise<number | undefined> {
  const info = await domainInfo(uri, name);
  if (info === undefined || info.state === 'shut off') return undefined;
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const args = (await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')).split('\0'); // ended meanwhile
    const at = args.indexOf('-uuid');
    if (at > 0 && args[at + 1] === info.uuid && args.some((arg) => arg.startsWith('guest='))) return Number(entry);
  }
  return undefined;
}

/** One element of parsed XML: attributes in `$`, text in `_`, children in lists by name. */
export interface XmlElement {
  readonly $?: Readonly<Record<string, string>>;
  readonly _?: string;
  readonly [child: string]: unknown;
}

/** Parses XML that libvirt printed; the root element's content. */
export async function parseXml(xml: string): Promise<XmlElement> {
  const { parseStringPromise } = (await import('xml2js')).default; // an agent on a host without guests never needs it
  const parsed = await parseStringPromise(xml, { explicitArray: true, explicitRoot: false, explicitCharkey: true, emptyTag: () => ({}) }) as unknown;
  return (typeof parsed === 'object' && parsed !== null ? parsed : {}) as XmlElement;
}

/** The child elements of a name, in order. */
export function children(element: XmlElement | undefined, name: string): readonly XmlElement[] {
  const list = element?.[name];
  return Array.isArray(list) ? list as readonly XmlElement[] : [];
}

export function child(element: XmlElement | undefined, ...path: readonly string[]): XmlElement | undefined {
  return path.reduce<XmlElement | undefined>((at, name) => children(at, name)[0], element);
}

export function attribute(element: XmlElement | undefined, name: string): string | undefined {
  return element?.$?.[name];
}

/** The UNIX socket that a backup job serves; undefined if it has none. This is how a job is known as ours. */
export async function backupSocket(xml: string): Promise<string | undefined> {
  return attribute(child(await parseXml(xml), 'server'), 'socket');
}
