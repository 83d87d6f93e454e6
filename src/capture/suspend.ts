import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { bootId, startTime } from '../system/processes.js';
import { step } from '../system/steps.js';
import { domainState, resumeDomain, suspendDomain } from '../system/virsh.js';
import type { DomainRef, Owing } from './owing.js';

/** Holding a guest still while something is done to its disks one after the other. */

/** A guest is resumed after this many milliseconds, even if the act is still going on; one with frozen file systems sooner, since it can't be thawed before. */
const LONGEST_MS = 20_000;
const LONGEST_FROZEN_MS = 4_500;
/** The guard resumes so much later, whether we live or not. */
const GUARD_AFTER_MS = 1_500;

/**
 * Does `act` with the guest suspended, resumes it whatever happens, and says how many milliseconds it stood still. `pid` is its QEMU process.
 * Throws `capture-failed` if it did not stand still until the act was done.
 */
export async function whileSuspended(owing: Owing, domain: DomainRef, pid: number, frozen: boolean, act: () => Promise<void>): Promise<number> {
  const longest = frozen ? LONGEST_FROZEN_MS : LONGEST_MS;
  const debt = await owing.owe({
    kind: 'resume', uri: domain.uri, server: domain.server, uuid: domain.uuid, pid, startTime: await startTime(pid) ?? '', bootId: await bootId(),
    dueAt: new Date(Date.now() + longest + GUARD_AFTER_MS).toISOString(),
  });
  const began = performance.now();
  let resuming: Promise<void> | undefined;
  const resumeOnce = (): Promise<void> => resuming ??= resumeNow(owing, domain, debt.id);
  let tooLong = false;
  let stood = false;
  const limit = setTimeout(() => { tooLong = true; void resumeOnce(); }, longest);
  try {
    await suspendDomain(domain.uri, domain.uuid);
    step('suspend-after');
    await act();
    stood = await isPaused(domain); // nobody else resumed it meanwhile
  } finally {
    clearTimeout(limit);
    await resumeOnce();
    // The suspension may have waited in libvirt until after that.
    if (tooLong) await resumeDomain(domain.uri, domain.uuid).catch(() => undefined); // it runs, or its debt stays owed
  }
  if (tooLong || !stood) {
    throw new DrError('capture-failed', `the disks of ${domain.server} could not be taken at one instant: ${tooLong ? `that took longer than ${String(longest / 1000)} s` : 'somebody let it run on meanwhile'}. The server runs on; its images are untouched.`,
      'Look at how long lvcreate takes on that node, or use live: backup.');
  }
  return Math.round(performance.now() - began);
}

export async function isPaused(domain: DomainRef): Promise<boolean> {
  return (await domainState(domain.uri, domain.uuid))?.state === 'paused';
}

async function resumeNow(owing: Owing, domain: DomainRef, debt: string): Promise<void> {
  try {
    await resumeDomain(domain.uri, domain.uuid);
    await owing.settled(debt);
  } catch (error) {
    log.warn(`resuming ${domain.server} is tried again`, { error: DrError.from(error).message });
    await owing.pay(debt).catch((again: unknown) => { log.error(`${domain.server} may be suspended; its guard goes on trying`, { error: DrError.from(again).message }); });
  }
}
