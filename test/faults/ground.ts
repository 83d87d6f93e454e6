import type { LabHost, Started } from '../lab/host.js';
import { Lab } from '../lab/lab.js';
import type { Guest, GuestKind } from '../lab/guest.js';
import { watchSteps } from '../lab/steps.js';
import { HEAD, NODE, SERVER, SPARE, STORE, TARGET } from './cast.js';
import { FILES, VOLUMES, type StoreLook } from './looks.js';

/** The ground of the kill tests: one node with a guest, a spare node, a target, and a head of its own, so that each can die alone. */

export { HEAD, NODE, SERVER, SPARE, STORE, TARGET };

export interface JobForm {
  readonly capture: 'live' | 'shutdown';
  readonly copies: number;
}

/** The job as a configuration file of its own for each form, so that one server can be imaged in several ways. */
export function configuration({ capture, copies }: JobForm, nodes: readonly string[], store: string): string {
  return `version: 1
anvils:
  an-a01: {nodes: [${nodes.join(', ')}]}
targets:
  dr01: {host: ${TARGET}, store: "${store}"}
jobs:
  db:
    anvil: an-a01
    targets: [dr01]
    servers: [${SERVER}]
    copies: ${String(copies)}
    capture: ${capture}
    shutdown_timeout: 40s
`;
}

export class Ground {
  private constructor(readonly lab: Lab, readonly guest: Guest, readonly nodes: readonly string[], readonly look: StoreLook) {}

  /** `small`: without a cache drive and a second node, for campaigns of many kills. */
  static async up(name: string, kind: GuestKind, { small }: { readonly small: boolean }): Promise<Ground> {
    const lab = await Lab.up({ name, hosts: small ? [NODE, TARGET, HEAD] : [NODE, SPARE, TARGET, HEAD], store: { sizeMiB: 1024 } });
    for (const host of lab.hosts) await watchSteps(host);
    if (!small) await lab.addDrive(NODE, { sizeMiB: 256 });
    const guest = await lab.addGuest(NODE, { name: SERVER, kind, disks: [{}, { sizeMiB: 16 }] });
    await guest.beats(1);
    return new Ground(lab, guest, small ? [NODE] : [NODE, SPARE], FILES);
  }

  /** The target is a virtual machine, its store two volume groups. */
  static async upWithVolumes(name: string): Promise<Ground> {
    const lab = await Lab.up({ name, hosts: [NODE, TARGET, HEAD], virtual: [TARGET], disks: { [TARGET]: [512, 512] }, store: { sizeMiB: 64 } });
    const target = lab.vm(TARGET);
    await target.run('sh', ['-ec', 'vgcreate -q -y vg0 "$1"; vgcreate -q -y vg1 "$2"; mkdir -p /etc/dr; printf "vg0\\nvg1\\n" > /etc/dr/vgs', 'sh', target.disk(0), target.disk(1)], { timeoutMs: 60_000 });
    for (const host of [...lab.hosts, target]) await watchSteps(host);
    const guest = await lab.addGuest(NODE, { name: SERVER, kind: 'sector', disks: [{ sizeMiB: 4 }, { sizeMiB: 4 }] }); // whole extents
    await guest.beats(1);
    return new Ground(lab, guest, [NODE], VOLUMES);
  }

  get node(): LabHost { return this.lab.host(NODE); }
  get target(): LabHost { return this.lab.any(TARGET); }
  get head(): LabHost { return this.lab.host(HEAD); }
  /** Hosts where processes of ours run. */
  get hosts(): readonly LabHost[] { return [this.node, this.target, this.head]; }

  /** Starts the job without waiting for its end. */
  async start(form: JobForm): Promise<Started> {
    const file = `/etc/dr/${form.capture}-${String(form.copies)}.yaml`;
    await this.head.writeFile(file, configuration(form, this.nodes, this.look.ref), 0o600);
    return this.head.spawn('dr', ['run', 'db', '--json', '--config', file]);
  }

  /** Runs the job to its end; gives its exit status and what it printed. */
  async run(form: JobForm): Promise<{ readonly status: number; readonly report: { readonly outcome?: string; readonly error?: unknown; readonly servers?: readonly { readonly error?: unknown }[] }; readonly said: string }> {
    const started = await this.start(form);
    const status = await started.exit;
    const text = started.stdout();
    return { status, report: text === '' ? {} : JSON.parse(text) as { outcome: string }, said: text + started.stderr() };
  }
}
