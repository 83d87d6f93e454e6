import type { DefinitionFacts } from '../definitions/read.js';
import { DrError, type ErrorData } from '../model/errors.js';
import type { ActivationPlanView, PlannedActivation } from '../model/views.js';
import type { HostSeen, ServerToActivate } from './look.js';

/** Which servers are booted from which sets, and what the host lacks. Pure. */

export interface PlanInput {
  readonly servers: readonly ServerToActivate[];
  readonly host: HostSeen;
  /** Absent: the newest complete set. */
  readonly sequence?: number;
  /** Servers whose original may be alive, with what is known of it. */
  readonly alive: ReadonlyMap<string, ErrorData>;
}

export function planActivation({ servers, host, sequence, alive }: PlanInput): ActivationPlanView {
  const planned = servers.map((one) => planServer(one, host, sequence, alive));
  const booting = planned.filter(({ action }) => action === 'boot');
  const needed = booting.reduce((sum, { memory_bytes: bytes }) => sum + (bytes ?? 0), 0);
  const notes: string[] = [];
  if (needed > host.freeMemoryBytes) {
    notes.push(`the servers want ${gib(needed)} of memory together, this host has ${gib(host.freeMemoryBytes)} to spare: the last ones may fail to boot; reduce <memory> in their definitions`);
  }
  notes.push(...servers.filter(({ server }) => booting.some((one) => one.server === server)).flatMap(misfits));
  const first = planned.find(({ action }) => action === 'refused')?.reason;
  const stuck = booting.length === 0 && planned.every(({ action }) => action === 'refused') && first !== undefined;
  return { servers: planned, notes, ...(stuck ? { refusal: first } : {}) };
}

/** Disks of which the definition shows another part than the copy has: it was written for a disk of another size. */
function misfits({ server, path, facts, chosen, onTarget }: ServerToActivate): string[] {
  if ('code' in facts) return [];
  return facts.disks.flatMap(({ target, path: link, slice }) => {
    const image = onTarget?.images.find(({ disk, identity }) => identity?.set === chosen?.set && disk === link?.split('/').at(-1));
    if (slice === undefined || image === undefined || (slice.offset === 0 && slice.size === image.bytes)) return [];
    return [`${server}: the definition shows ${String(slice.size)} bytes of ${target}, and the copy has ${String(image.bytes)}: put that size into its <slice> in ${path} first`];
  });
}

function planServer(one: ServerToActivate, host: HostSeen, sequence: number | undefined, alive: ReadonlyMap<string, ErrorData>): PlannedActivation {
  const { chosen } = one;
  const row = {
    server: one.server, definition: one.path, set: chosen?.set ?? null, sequence: typeof chosen?.slot === 'number' ? chosen.slot : null, captured_at: chosen?.capturedAt ?? null,
    memory_bytes: 'code' in one.facts ? null : one.facts.memoryBytes,
  };
  if (one.running) return { ...row, action: 'running' };
  const reason = whyNot(one, host, chosen !== undefined, sequence) ?? alive.get(one.server);
  return reason === undefined ? { ...row, action: 'boot' } : { ...row, action: 'refused', reason };
}

function whyNot(one: ServerToActivate, host: HostSeen, hasSet: boolean, sequence: number | undefined): ErrorData | undefined {
  if ('code' in one.facts) return one.facts;
  const facts: DefinitionFacts = one.facts;
  if (!hasSet) {
    return refusal(`${one.server} has no complete set${sequence === undefined ? '' : ` with sequence ${String(sequence)}`} here`, sequence === undefined ? 'Name the store with --store, or look at dr images.' : 'See dr images for what there is.');
  }
  if (one.missing.length > 0 && sequence === undefined) return refusal(`${one.server} needs what is not on this host: ${one.missing.join(', ')}`, `Make it available, or edit ${one.path}.`);
  if (facts.memoryBytes > host.memoryBytes) return refusal(`${one.server} wants ${gib(facts.memoryBytes)} of memory, this host has ${gib(host.memoryBytes)}`, `Reduce <memory> in ${one.path}.`);
  const bridge = facts.bridges.find((name) => !host.bridges.includes(name));
  if (bridge !== undefined) return refusal(`${one.server} is plugged into the bridge ${bridge}, which this host does not have`, `Make the bridge, or change it in ${one.path}.`);
  if (facts.machine !== undefined && host.machines.length > 0 && !host.machines.includes(facts.machine)) {
    return refusal(`${one.server} wants the machine type ${facts.machine}, which the emulator here does not know`, `Change machine= in ${one.path} to one of: ${host.machines.slice(0, 6).join(', ')}, …`);
  }
  return undefined;
}

function refusal(message: string, hint: string): ErrorData {
  return new DrError('refused', `${message}.`, hint).toJSON();
}

function gib(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${String(Math.round(bytes / 2 ** 20))} MiB`;
}
