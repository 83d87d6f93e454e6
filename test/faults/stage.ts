import assert from 'node:assert/strict';
import type { StepName } from '../../src/model/steps.js';
import type { RunReport, ServerReport } from '../../src/model/report.js';
import type { Guest, GuestDisk, GuestKind } from '../lab/guest.js';
import type { Host, LabHost, Started } from '../lab/host.js';
import { Lab, type LabOptions } from '../lab/lab.js';
import { pause, until } from '../lab/namespaces.js';
import { killRole } from '../lab/roles.js';
import { go, stepsSeen, watchSteps } from '../lab/steps.js';
import { HEAD, NODE, SERVER, SPARE, STORE, TARGET, type JobForm } from './ground.js';
import { FILES } from './looks.js';
import { assertCurrent, assertImages, assertNoTwin, assertProduction, lookAtStore, remember, type Remembered } from './promises.js';

/** The stage of the nasty cases: the hosts of the kill tests, with jobs of any form and a guest that can be made to write. */

export interface StageJob extends JobForm {
  readonly servers?: readonly string[];
  /** Further keys of the job and of the target, as they stand in the file. */
  readonly job?: Readonly<Record<string, string>>;
  readonly target?: Readonly<Record<string, string>>;
  readonly anvil?: { readonly name: string; readonly nodes: readonly string[] };
}

export interface StageOptions {
  readonly kind?: GuestKind;
  readonly disks?: readonly GuestDisk[];
  readonly store?: LabOptions['store'];
  /** A cache drive of this size on the node; none by default. */
  readonly driveMiB?: number;
  readonly hosts?: readonly string[];
}

export interface Ran {
  readonly status: number;
  readonly report: Partial<RunReport>;
  /** The report of the first server. */
  readonly server: Partial<ServerReport>;
  /** Everything that was printed. */
  readonly said: string;
}

/** The boot-sector guest ignores ACPI, so that a cold job forces it off: the quickest way down. */
export const COLD: StageJob = { capture: 'shutdown', copies: 3, job: { shutdown_timeout: '1s', on_shutdown_timeout: 'force-off' } };
export const LIVE: StageJob = { capture: 'live', copies: 3 };

/** The job over a link that takes some seconds for what `dirty` makes. */
export function slowly(form: StageJob): StageJob {
  return { ...form, target: { ...form.target, bandwidth_limit: '2MiB/s' } };
}

export class Stage {
  /** What each host's processes had come to when the last run was started. */
  #before = new Map<string, ReadonlyMap<StepName, number>>();

  private constructor(readonly lab: Lab, readonly guest: Guest, readonly drive: string) {}

  static async up(name: string, options: StageOptions = {}): Promise<Stage> {
    const lab = await Lab.up({ name, hosts: options.hosts ?? [NODE, SPARE, TARGET, HEAD], store: options.store ?? { sizeMiB: 1024 } });
    for (const host of lab.hosts) await watchSteps(host);
    const drive = options.driveMiB === undefined ? '' : await lab.addDrive(NODE, { sizeMiB: options.driveMiB });
    const guest = await lab.addGuest(NODE, { name: SERVER, kind: options.kind ?? 'sector', disks: options.disks ?? [{}, {}] });
    await guest.beats(1, 90_000);
    return new Stage(lab, guest, drive);
  }

  readonly look = FILES;

  get node(): Host { return this.lab.host(NODE); }
  get spare(): Host { return this.lab.host(SPARE); }
  get target(): Host { return this.lab.host(TARGET); }
  get head(): Host { return this.lab.host(HEAD); }
  get hosts(): readonly LabHost[] { return [this.node, this.target, this.head]; }

  /** Writes the configuration for a job on a host; gives the file's path. */
  async configure(form: StageJob, host: LabHost = this.head): Promise<string> {
    const file = '/etc/dr/stage.yaml';
    await host.writeFile(file, configuration(form), 0o600);
    return file;
  }

  async start(form: StageJob, host: LabHost = this.head): Promise<Started> {
    for (const each of this.lab.hosts) this.#before.set(each.name, await each.isUp() ? await stepsSeen(each) : new Map());
    return host.spawn('dr', ['run', 'db', '--json', '--config', await this.configure(form, host)]);
  }

  async run(form: StageJob, host: LabHost = this.head): Promise<Ran> {
    return ended(await this.start(form, host));
  }

  /**
   * Has the guest's second disk written to, from 33 MiB on: through the guest's own device, so that a backup job keeps what was there. Noise, which takes its time
   * over a slow link.
   */
  async dirty(mebibytes: number, from = 33): Promise<void> {
    await this.node.run('sh', ['-c', 'head -c "$1" /dev/urandom > /var/tmp/noise', 'sh', String(mebibytes * 2 ** 20)]);
    const { stdout } = await this.node.run('virsh', ['qemu-monitor-command', '--hmp', SERVER,
      `qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend "write -s /var/tmp/noise ${String(from)}M ${String(mebibytes)}M"`], { timeoutMs: 60_000 });
    assert.doesNotMatch(stdout, /Error|failed/i, `the guest could not write: ${stdout}`);
  }

  /** Waits until so many blocks of the run have gone out from a host. */
  async sending(blocks = 2, host: LabHost = this.node): Promise<void> {
    await this.comesTo('send-after-block', host, blocks);
  }

  /** Waits until a host's processes have come to a step so many times since the last run was started. */
  async comesTo(step: StepName, host: LabHost = this.node, times = 1): Promise<void> {
    const before = this.#before.get(host.name)?.get(step) ?? 0;
    await until(`${host.name} to come to ${step}`, async () => ((await stepsSeen(host)).get(step) ?? 0) >= before + times ? true : undefined, 90_000);
  }

  /** Puts the stage back after a test that failed in the middle, so that the next one can be judged by itself. */
  async settle(): Promise<void> {
    for (const host of this.lab.hosts) {
      if (!await host.isUp()) await host.boot();
      await this.lab.restore(host.name);
      await go(host);
      await killRole(host, 'head');
    }
    await pause(3_000);
    await until('the guest to be up', async () => {
      const state = await this.guest.state();
      if (state === 'shut off') await this.guest.start();
      return state === 'running' ? true : undefined;
    });
  }

  /** Begins to count steps afresh, and takes back every order to stop. */
  async forget(): Promise<void> {
    for (const host of this.lab.hosts) if (await host.isUp()) await watchSteps(host);
  }

  /** So many runs that succeed, and what the sets look like then. */
  async firstRuns(runs: number, form: StageJob = LIVE): Promise<Remembered> {
    const remembered: Remembered = new Map();
    for (let run = 0; run < runs; run++) await this.runsWell(form, remembered);
    return remembered;
  }

  /** A normal run, which must succeed and leave a new set as number 1. */
  async runsWell(form: StageJob, remembered: Remembered): Promise<Ran> {
    await this.forget();
    const before = await remember(this, remembered);
    const ran = await this.run(form);
    assert.equal(ran.status, 0, `the undisturbed run failed: ${ran.said}`);
    const seen = await lookAtStore(this);
    const after = await remember(this, remembered, seen);
    assert.ok(after.length > 0 && !before.includes(after[0] ?? ''), `number 1 is not a new set: ${after.join(', ')}`);
    await assertImages(this, remembered, Math.min(form.copies, before.length + 1), seen);
    return ran;
  }

  /** P1, P3, P6, P7 after something nasty, and `current` boots. */
  async assertPromises(remembered: Remembered, atLeast: number, timeoutMs = 30_000): Promise<void> {
    await assertProduction(this, timeoutMs);
    await assertImages(this, remembered, atLeast);
    await assertCurrent(this, { byHand: true });
    await assertNoTwin(this);
  }
}

/** The outcome of a started run. */
export async function ended(started: Started): Promise<Ran> {
  const status = await started.exit;
  const text = started.stdout();
  const report: Partial<RunReport> = text.trim() === '' ? {} : JSON.parse(text) as RunReport;
  return { status, report, server: report.servers?.[0] ?? {}, said: `exit ${String(status)}: ${text}${started.stderr()}` };
}

export function configuration({ capture, copies, servers = [SERVER], job = {}, target = {}, anvil = { name: 'an-a01', nodes: [NODE, SPARE] } }: StageJob): string {
  const more = (keys: Readonly<Record<string, string>>): string => Object.entries(keys).map(([key, value]) => `\n    ${key}: ${value}`).join('');
  return `version: 1
anvils:
  ${anvil.name}:
    nodes: [${anvil.nodes.join(', ')}]
targets:
  dr01:
    host: ${TARGET}
    store: "fs:${STORE}"${more(target)}
jobs:
  db:
    anvil: ${anvil.name}
    targets: [dr01]
    servers: [${servers.join(', ')}]
    copies: ${String(copies)}
    capture: ${capture}${more(job)}
`;
}

/** How long something takes, in milliseconds. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}
