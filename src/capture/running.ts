import { DrError } from '../model/errors.js';
import { domainPausedReason, domainPid, domainState } from '../system/virsh.js';
import type { DomainRef } from './owing.js';

/** Whether the server runs (or is paused, by somebody), and its QEMU process. Throws `state-changed`, `refused`, `capture-failed`. */
export async function checkRuns(request: DomainRef): Promise<{ readonly running: boolean; readonly pid: number }> {
  const state = (await domainState(request.uri, request.uuid))?.state ?? 'not on this node';
  if (state !== 'running' && state !== 'paused') {
    throw new DrError('state-changed', `${request.server} is ${state}; a live capture needs it running. Nothing was touched.`, 'Run the job again: a server that is off is read cold.');
  }
  const reason = await domainPausedReason(request.uri, request.uuid);
  if (reason === 'I/O error') {
    throw new DrError('refused', `${request.server} is paused by an I/O error that was there before; an image of it now would be in doubt. Nothing was touched.`, `Put its storage right and resume it (virsh resume ${request.server}), then run the job again.`);
  }
  const pid = await domainPid(request.uri, request.uuid);
  if (pid === undefined) throw new DrError('capture-failed', `the QEMU process of ${request.server} can't be seen from here; is ${request.uri} this host's libvirt? Nothing was touched.`);
  return { running: state === 'running', pid };
}
