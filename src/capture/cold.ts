import { DrError } from '../model/errors.js';
import type { DataSource } from '../model/host.js';
import { readDomainXml } from '../system/domain-xml.js';
import { backingChain, type BlockSource, type ChainLink } from '../system/qemu.js';
import { domainInfo, dumpXml } from '../system/virsh.js';
import { readAttachments } from './attachments.js';
import { checkDisks, checkSize, type PlannedDisk } from './disks.js';
import { openExports, privateDirectory, type Exports } from './exports.js';
import { Holdings } from './holdings.js';
import { throwIfCancelled, type OpenCapture, type Verdict } from './open-captures.js';
import type { DomainRef, Owing } from './owing.js';
import { disturbance, traceOf, writerOf, type Traces } from './stillness.js';

export interface ColdRequest extends DomainRef {
  readonly disks: readonly PlannedDisk[];
  readonly nvram?: string;
  readonly tpm: boolean;
}

export interface CaptureFacts {
  readonly capturedAt: string;
  readonly consistency: 'clean' | 'frozen' | 'crash';
  readonly frozenMs: number;
  readonly sources: Readonly<Record<string, DataSource>>;
  readonly nvram?: string;
  readonly tpm?: string;
}

/**
 * Makes the disks of a server that is off readable. Sources are opened without locks: a server that somebody starts meanwhile
 * starts, and the capture is void. Throws `state-changed`, `disk-unsupported`, `capture-failed`, `io`, `cancelled`.
 */
export async function openCold(owing: Owing, id: string, request: ColdRequest, signal: AbortSignal): Promise<{ readonly facts: CaptureFacts; readonly capture: OpenCapture }> {
  const saved = await checkOff(request);
  const capturedAt = new Date().toISOString();
  const chains = new Map<string, readonly ChainLink[]>();
  for (const disk of request.disks) {
    const chain = await backingChain(disk.path, disk.format);
    checkSize(request, disk, chain[0]?.bytes ?? 0);
    chains.set(disk.target, chain);
  }
  const paths = [...chains.values()].flat().flatMap((link) => [link.path, ...(link.dataFile === undefined ? [] : [link.dataFile])]);
  const writer = await writerOf(paths);
  if (writer !== undefined) throw new DrError('state-changed', `${request.server} is off, but ${writer}. Nothing was read.`, 'End that process, or unmount it, then run the job again.');
  const traces = await traceOf(paths);
  throwIfCancelled(signal);

  const holdings = new Holdings(owing);
  try {
    const directory = await privateDirectory(holdings, id);
    const attachments = await readAttachments(request.server, request.uuid, request, directory);
    const wrapped = new Map([...chains].filter(([, chain]) => !isPlain(chain))
      .map(([target, chain]): [string, BlockSource] => [target, { kind: 'chain', chain }]));
    const exports = await openExports(holdings, directory, wrapped, () => { throwIfCancelled(signal); });
    const sources = Object.fromEntries(request.disks.map((disk) => [disk.target, sourceOf(disk, chains.get(disk.target) ?? [], exports.paths.get(disk.target))]));
    return {
      // A managed save keeps the guest's memory beside disks in the middle of work.
      facts: { capturedAt, consistency: saved ? 'crash' : 'clean', frozenMs: 0, sources, ...attachments },
      capture: coldCapture(request, holdings, exports, traces),
    };
  } catch (error) {
    await holdings.release();
    throw error;
  }
}

/** Throws unless the domain is off, or gone as a transient one is; whether it has a managed save. */
async function checkOff(request: ColdRequest): Promise<boolean> {
  const info = await domainInfo(request.uri, request.uuid);
  if (info === undefined) return false;
  if (info.state !== 'shut off') throw new DrError('state-changed', `${request.server} is ${info.state}; only a server that is off can be read cold. Nothing was read.`, 'Run the job again.');
  checkDisks(request, request.disks, (await readDomainXml(await dumpXml(request.uri, request.uuid, { inactive: true }))).disks);
  return info.managedSave;
}

/** Whether a disk's data is just the content of its path; QEMU rounds an odd file up to whole sectors, so that needs QEMU, too. */
function isPlain(chain: readonly ChainLink[]): boolean {
  const [top] = chain;
  return top !== undefined && chain.length === 1 && top.format === 'raw' && !top.odd;
}

function sourceOf(disk: PlannedDisk, chain: readonly ChainLink[], exported: string | undefined): DataSource {
  const zeroMap = chain[0]?.device === true && disk.format === 'raw' ? {} : { zeroMap: { image: disk.path, format: disk.format } };
  return { path: exported ?? disk.path, bytes: disk.bytes, direct: true, ...zeroMap };
}

function coldCapture(domain: DomainRef, holdings: Holdings, exports: Exports, traces: Traces): OpenCapture {
  let verdict: Verdict | undefined;
  return {
    close: async () => {
      verdict ??= await judge(domain, exports, traces);
      await holdings.release(); // what can't be let go of stays owed; the data was read all the same
      return verdict;
    },
  };
}

async function judge(domain: DomainRef, exports: Exports, traces: Traces): Promise<Verdict> {
  const broken = exports.broken();
  if (broken !== undefined) return { verdict: 'void', reason: broken };
  const state = (await domainInfo(domain.uri, domain.uuid))?.state;
  if (state !== undefined && state !== 'shut off') return { verdict: 'void', reason: `${domain.server} was started while its disks were read (it is ${state})` };
  const changed = await disturbance(traces);
  if (changed !== undefined) return { verdict: 'void', reason: `${domain.server} may have run while its disks were read: ${changed}` };
  return { verdict: 'valid' };
}
