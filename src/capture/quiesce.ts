import { DrError } from '../model/errors.js';
import { log } from '../system/log.js';
import { step } from '../system/steps.js';
import { freeze, frozen, thaw } from '../system/virsh.js';
import type { DomainRef, Owing } from './owing.js';

/** The guard thaws after this many milliseconds, whether we live or not. */
const THAW_DUE_MS = 8_000;

/** We thaw ourselves after this, even if the act is still going on. */
const LONGEST_FREEZE_MS = 6_000;

export interface Instant {
  /** RFC 3339; not later than the act. */
  readonly capturedAt: string;
  readonly consistency: 'frozen' | 'crash';
  readonly frozenMs: number;
}

/**
 * Does `act` with the guest's file systems frozen, if a guest agent answers; thaws whatever happens. A guest that can't be frozen, or
 * that thawed before the act was done, makes the instant `crash`-consistent.
 */
export async function atOneInstant(owing: Owing, domain: DomainRef, running: boolean, act: (frozen: boolean) => Promise<void>): Promise<Instant> {
  if (!running || !await canFreeze(domain)) {
    const capturedAt = new Date().toISOString();
    await act(false);
    return { capturedAt, consistency: 'crash', frozenMs: 0 };
  }
  const debt = await owing.owe({ kind: 'thaw', uri: domain.uri, server: domain.server, uuid: domain.uuid, dueAt: new Date(Date.now() + THAW_DUE_MS).toISOString() });
  const began = performance.now();
  let thawing: Promise<boolean> | undefined;
  const thawOnce = (): Promise<boolean> => thawing ??= thawNow(owing, domain, debt.id);
  let tooLong = false;
  const limit = setTimeout(() => { tooLong = true; void thawOnce(); }, LONGEST_FREEZE_MS);
  let froze = false;
  let held = false;
  let capturedAt = '';
  try {
    step('freeze-before');
    froze = await freezeNow(domain);
    step('freeze-after');
    capturedAt = new Date().toISOString();
    await act(froze);
    held = !tooLong;
  } finally {
    clearTimeout(limit);
    held = await thawOnce() && held;
    // The freeze may have waited in libvirt until after that thaw.
    if (tooLong) await thaw(domain.uri, domain.uuid).catch((error: unknown) => { log.warn(`${domain.server} may be frozen`, { error: DrError.from(error).message }); });
  }
  return { capturedAt, consistency: froze && held ? 'frozen' : 'crash', frozenMs: froze ? Math.round(performance.now() - began) : 0 };
}

/** Whether a guest agent answers and nothing is frozen yet: what somebody else has frozen is not ours to thaw. */
async function canFreeze(domain: DomainRef): Promise<boolean> {
  try {
    const already = await frozen(domain.uri, domain.uuid);
    if (already === true) log.warn(`the file systems of ${domain.server} were frozen by somebody else and are left so`);
    return already === false;
  } catch (error) {
    log.warn(`the guest agent of ${domain.server} can't freeze`, { error: DrError.from(error).message });
    return false;
  }
}

/** Whether at least one file system was frozen. A failure is no reason to give up the capture: the thaw follows all the same. */
async function freezeNow(domain: DomainRef): Promise<boolean> {
  try {
    return await freeze(domain.uri, domain.uuid) > 0;
  } catch (error) {
    log.warn(`the file systems of ${domain.server} could not be frozen`, { error: DrError.from(error).message });
    return false;
  }
}

/** Thaws and settles the debt. True if file systems were frozen until now; if they were not, somebody else thawed them earlier. */
async function thawNow(owing: Owing, domain: DomainRef, debt: string): Promise<boolean> {
  try {
    const thawed = await thaw(domain.uri, domain.uuid);
    await owing.settled(debt);
    step('thaw-after');
    return thawed > 0;
  } catch (error) {
    log.warn(`thawing ${domain.server} is tried again`, { error: DrError.from(error).message });
    await owing.pay(debt).catch((again: unknown) => { log.error(`${domain.server} may be frozen; its guard goes on trying`, { error: DrError.from(again).message }); });
    return false;
  }
}
