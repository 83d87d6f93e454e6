import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CallContext, Method, Params, Progress, Result, StoreRef } from '../../src/agent/protocol.js';
import { currentOf, targetHands } from '../../src/agent/target-hands.js';
import type { SetIntent } from '../../src/model/image-set.js';
import type { ImageSeen, RotationPlan, ServerOnTarget } from '../../src/model/rotation.js';
import { planBegin, planComplete } from '../../src/rotation/plan.js';
import { rotate } from '../../src/rotation/rotate.js';
import { openStore } from '../../src/stores/open.js';
import type { CurrentLinks, Store } from '../../src/stores/store.js';
import { temporaryDirectory } from './file-systems.js';

/** A real target, asked through its hands; what a sender and receiver do between is done here in a few lines. */

type Hands = ReturnType<typeof targetHands>;
type TargetMethod = Extract<keyof Hands, Method>;

export interface Captured {
  readonly set: string;
  readonly server?: string;
  readonly anvil?: string;
  readonly uuid?: string;
  readonly copies?: number;
  /** Disk → content. */
  readonly disks: Readonly<Record<string, Buffer>>;
  readonly nvram?: string;
  readonly provenSince?: string;
}

export const UUID = '11111111-2222-3333-4444-555555555555';
export const MIB = 1024 * 1024;

/** `20260101T000000Z-…` for 1, and so on. */
export function setId(day: number): string {
  return `202601${String(day).padStart(2, '0')}T000000Z-${String(day).padStart(16, '0')}`;
}

export class TestTarget {
  readonly progress: Progress[] = [];
  readonly ref: StoreRef;
  readonly current: CurrentLinks;
  private readonly hands = targetHands(undefined);

  private constructor(readonly path: string, store: string, readonly remove: () => Promise<void>) {
    this.ref = { store, allocation: 'sparse', current: `${path}/shared/dr/current`, definitions: `${path}/shared/definitions` };
    this.current = currentOf(this.ref, this.open());
  }

  /** In a directory of its own, or over volume groups (`vg:…`). Sets DR_STATE_DIR for as long as it is there. */
  static async make(store?: string): Promise<TestTarget> {
    const place = await temporaryDirectory('target');
    const before = process.env['DR_STATE_DIR'];
    process.env['DR_STATE_DIR'] = join(place.path, 'state');
    await mkdir(join(place.path, 'store'));
    return new TestTarget(place.path, store ?? `fs:${place.path}/store`, async () => {
      if (before === undefined) delete process.env['DR_STATE_DIR'];
      else process.env['DR_STATE_DIR'] = before;
      await place.remove();
    });
  }

  open(): ReturnType<typeof openStore> {
    return openStore(this.ref);
  }

  imagePath(name: string): string {
    return join(this.path, 'store', `${name}.raw`);
  }

  async call<M extends TargetMethod>(method: M, params: Omit<Params<M>, 'store'>): Promise<Result<M>> {
    const context: CallContext = { signal: new AbortController().signal, progress: (report) => { this.progress.push(report); } };
    const hand = this.hands[method] as unknown as (params: unknown, context: CallContext) => Promise<Result<M>>;
    return await hand({ store: this.ref, ...params }, context);
  }

  async observe(captured: Pick<Captured, 'disks'> & Partial<Captured>): Promise<ServerOnTarget> {
    const { servers: [seen] } = await this.call('store.observe', {
      servers: [{ server: captured.server ?? 'Web01', uuid: captured.uuid ?? UUID, anvil: captured.anvil ?? 'an-a01', disks: Object.keys(captured.disks), copies: captured.copies ?? 3 }],
    });
    assert.ok(seen);
    return seen;
  }

  /** The set that was begun last. */
  begun = '';

  /** Everything up to the first byte; on `store`, if one is given. */
  async begin(captured: Captured, store?: Store): Promise<SetIntent> {
    const seen = await this.observe(captured);
    this.begun = captured.set;
    const intent: SetIntent = {
      version: 1, set: captured.set, generation: seen.generation + 1, anvil: captured.anvil ?? 'an-a01', job: 'web', server: seen.server, uuid: captured.uuid ?? UUID, node: 'an-a01n01',
      capture: 'live', consistency: 'crash', capturedAt: `${captured.set.slice(0, 4)}-${captured.set.slice(4, 6)}-${captured.set.slice(6, 8)}T00:00:00Z`,
      disks: Object.entries(captured.disks).map(([disk, content], index) => ({ disk, target: `vd${'abcdef'.charAt(index)}`, bytes: content.length })),
    };
    await this.execute(seen.server, planBegin(seen, { intent, copies: captured.copies ?? 3, overwriteOnlyCopy: false, freeBytes: 2 ** 40 }), store);
    return intent;
  }

  async execute(server: string, plan: RotationPlan, store?: Store): Promise<void> {
    if (plan.kind !== 'plan') assert.fail(JSON.stringify(plan));
    if (store !== undefined) await rotate({ ...this.open(), store, current: this.current }, server, plan.steps);
    else await this.call('store.execute', { server, steps: [...plan.steps] });
  }

  /** Receives one disk: what is written, and the ticket that a receiver leaves. */
  async receive(server: string, disk: string, content: Buffer, provenSince = new Date().toISOString()): Promise<{ readonly ticket: string; readonly digest: string; readonly start: Result<'store.incomplete'>['start'] }> {
    const place = await this.call('store.incomplete', { server, disk, set: this.begun, reproveAfterSeconds: 30 * 86_400 });
    const handle = await open(place.path, 'r+');
    await handle.write(content, 0, content.length, 0);
    await handle.sync();
    await handle.close();
    return { ...await this.ticket(content, provenSince), start: place.start };
  }

  async ticket(content: Buffer, provenSince = new Date().toISOString(), digests = blockDigests(content)): Promise<{ readonly ticket: string; readonly digest: string }> {
    const ticket = randomBytes(16).toString('hex');
    const directory = join(this.path, 'state', 'tickets', ticket);
    await mkdir(directory, { recursive: true });
    const digest = `sha256-1MiB:${createHash('sha256').update(digests).digest('hex')}`;
    await writeFile(join(directory, 'digests'), digests);
    await writeFile(join(directory, 'result.json'), JSON.stringify({ digest, bytesWritten: content.length, proof: 'device', provenSince }));
    return { ticket, digest };
  }

  async prove(captured: Captured): Promise<void> {
    const disks: Record<string, { ticket: string; digest: string }> = {};
    for (const [disk, content] of Object.entries(captured.disks)) disks[disk] = await this.receive(captured.server ?? 'Web01', disk, content, captured.provenSince);
    await this.call('store.prove', { set: captured.set, disks, definition: '<domain/>', ...(captured.nvram === undefined ? {} : { nvram: Buffer.from(captured.nvram).toString('base64') }) });
  }

  async finish(captured: Captured): Promise<void> {
    const server = captured.server ?? 'Web01';
    await this.execute(server, planComplete(await this.observe(captured), captured.set, captured.copies ?? 3));
    await this.call('store.tidy', { server });
  }

  /** A whole undisturbed run for one server. */
  async run(captured: Captured): Promise<void> {
    await this.begin(captured);
    await this.prove(captured);
    await this.finish(captured);
  }

  async image(name: string, server = 'Web01'): Promise<ImageSeen> {
    const { servers } = await this.call('store.observe', { servers: 'all' });
    const found = servers.find((one) => one.server === server)?.images.find((image) => image.name === name);
    assert.ok(found, `${name} is an image of ${server}`);
    return found;
  }

  /** `1: proven, 2: modified` */
  async states(server = 'Web01', disk = 'root'): Promise<string> {
    const { servers } = await this.call('store.observe', { servers: 'all' });
    const images = servers.find((one) => one.server === server)?.images ?? [];
    return images.filter((image) => image.disk === disk).map((image) => `${String(image.slot)}: ${image.state}`).sort().join(', ');
  }

  /** What a definition that points at the links would boot. */
  async booted(disk: string, server = 'Web01'): Promise<Buffer> {
    return await readFile(join(this.ref.current, server, disk));
  }
}

export function blockDigests(content: Buffer): Buffer {
  const digests: Buffer[] = [];
  for (let at = 0; at < content.length; at += MIB) digests.push(createHash('sha256').update(content.subarray(at, at + MIB)).digest());
  return Buffer.concat(digests);
}

/** Content that differs from day to day in its first block only. */
export function content(day: number, bytes = 2 * MIB + 4096): Buffer {
  const buffer = Buffer.alloc(bytes, 0x33);
  buffer.write(`day ${String(day)}\n`, 0);
  return buffer;
}
