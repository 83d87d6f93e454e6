import { DrError } from '../model/errors.js';
import type { DomainDisk } from '../system/domain-xml.js';
import type { DomainRef } from './owing.js';

/** One disk to capture, as it was planned. */
export interface PlannedDisk {
  readonly target: string;
  readonly path: string;
  readonly format: string;
  readonly bytes: number;
}

/** Throws `state-changed` unless each planned disk is still what the domain has. */
export function checkDisks(domain: DomainRef, planned: readonly PlannedDisk[], found: readonly DomainDisk[]): void {
  if (planned.length === 0) throw new DrError('state-changed', `${domain.server} has no disks to capture`);
  for (const disk of planned) {
    const now = found.find((each) => each.target === disk.target);
    const why = now === undefined ? 'is not there any more'
      : now.problem !== undefined ? `can't be imaged: ${now.problem}`
      : now.path !== disk.path || now.format !== disk.format ? `is ${now.path ?? 'nothing'} (${now.format}) now, not ${disk.path} (${disk.format})`
      : undefined;
    if (why !== undefined) throw changed(domain, disk, why);
  }
}

/** Throws `state-changed` if a disk has another size than was planned for. */
export function checkSize(domain: DomainRef, disk: PlannedDisk, bytes: number): void {
  if (bytes !== disk.bytes) throw changed(domain, disk, `has ${String(bytes)} bytes now, not ${String(disk.bytes)}`);
}

function changed(domain: DomainRef, disk: PlannedDisk, why: string): DrError {
  return new DrError('state-changed', `disk ${disk.target} of ${domain.server} ${why}. It was changed since the run was planned; its images are untouched.`, 'Run the job again.');
}
