import { targetNamed } from '../config/lookup.js';
import type { TargetConfig, Config } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { ImageRow } from '../model/report.js';
import type { ImageSeen } from '../model/rotation.js';
import type { TransferEvent } from '../model/run-event.js';
import type { ReleaseRow, VerifyRow } from '../model/views.js';
import { routeTo, storeOf } from './context.js';
import { connectAll } from './hosts.js';

/** The images and sets on the targets. */

/** All targets, or the one named. Throws `usage` for a name that is not configured. */
export function targetsNamed(config: Config, name: string | undefined): readonly TargetConfig[] {
  if (name === undefined) return [...config.targets.values()];
  return [targetNamed(config, name)];
}

/** What several targets are asked for; one that can't answer is told to `onProblem` and left out. */
export interface Asking {
  readonly signal: AbortSignal;
  readonly onProblem: (target: string, problem: DrError) => void;
}

/** Asks each target in turn; one that fails does not keep the others from answering. */
async function askEach<T>(targets: readonly TargetConfig[], { onProblem }: Asking, ask: (target: TargetConfig) => Promise<readonly T[]>): Promise<T[]> {
  const answers = await Promise.all(targets.map(async (target) => {
    try {
      return await ask(target);
    } catch (error) {
      onProblem(target.name, DrError.from(error));
      return [];
    }
  }));
  return answers.flat();
}

export async function listImages(config: Config, name: string | undefined, asking: Asking): Promise<ImageRow[]> {
  const targets = targetsNamed(config, name);
  await using hosts = await connectAll(targets.map(({ host }) => routeTo(config, host)), 'images');
  return await askEach(targets, asking, async (target) => {
    const { servers } = await hosts.agent(target.host).call('store.observe', { store: storeOf(target), servers: 'all' }, { signal: asking.signal });
    return servers.flatMap(({ images }) => images.filter((image) => image.state !== 'foreign').map((image) => rowOf(target, image)));
  });
}

function rowOf(target: TargetConfig, image: ImageSeen): ImageRow {
  return {
    target: target.name, name: image.name, server: image.server, disk: image.disk, sequence: image.slot, state: stateOf(image), bytes: image.bytes,
    set: image.identity?.set ?? null, captured_at: image.capturedAt ?? null, digest: image.digest ?? null, in_use: image.inUse ?? null,
  };
}

function stateOf(image: ImageSeen): ImageRow['state'] {
  if (image.state === 'modified') return 'modified';
  if (image.because?.startsWith('damaged') === true) return 'damaged';
  if (image.slot === 'incomplete' && image.state === 'partial') return 'incomplete';
  return image.state === 'proven' ? 'complete' : 'unproven';
}

export interface VerifyOptions extends Asking {
  readonly adopt: boolean;
  readonly onProgress: (event: TransferEvent) => void;
}

/** Re-reads images on every target and compares them with their manifests; those of the servers named, or all. */
export async function verifyImages(config: Config, servers: readonly string[], options: VerifyOptions): Promise<VerifyRow[]> {
  const targets = targetsNamed(config, undefined);
  await using hosts = await connectAll(targets.map(({ host }) => routeTo(config, host)), 'verify');
  return await askEach(targets, options, async (target) => {
    const rows: VerifyRow[] = [];
    for (const server of servers.length === 0 ? [undefined] : servers) {
      const shown = { kind: 'transfer', what: 'verifying', server: server ?? 'all servers', disk: '', to: target.name, sent: 0 } as const;
      const { results } = await hosts.agent(target.host).call('store.verify', { store: storeOf(target), adopt: options.adopt, ...(server === undefined ? {} : { server }) }, {
        signal: options.signal, onProgress: ({ done, total }) => { options.onProgress({ ...shown, state: 'progress', done, total }); },
      });
      options.onProgress({ ...shown, state: 'end', done: 1, total: 1 });
      rows.push(...results.map((result) => ({ target: target.name, ...result })));
    }
    return rows;
  });
}

/** Takes the mark of an activated or booted server away, on one target or on all: jobs may touch its images again. */
export async function releaseServer(config: Config, server: string, options: Asking & { readonly target?: string }): Promise<ReleaseRow[]> {
  const targets = targetsNamed(config, options.target);
  await using hosts = await connectAll(targets.map(({ host }) => routeTo(config, host)), 'release');
  return await askEach(targets, options, async (one) => {
    const agent = hosts.agent(one.host);
    await agent.call('lock', { name: `server-${server}`, what: `${server} on ${one.name}` });
    return [{ server, target: one.name, ...await agent.call('activated.release', { store: storeOf(one), server }) }];
  });
}
