import { readdir, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { DrError } from '../model/errors.js';
import { makeDirectory, readJson, writeDurable } from '../system/durable.js';
import { startTime } from '../system/processes.js';
import { stateDirectory } from '../system/state.js';

/** Who runs which job on this host, so that `dr status` and `dr cancel` can find out. The lock is what keeps two apart, not this. */

const RunningFile = z.object({ job: z.string(), pid: z.number(), startTime: z.string(), since: z.string(), host: z.string(), servers: z.array(z.string()) });
export type RunningJob = z.infer<typeof RunningFile>;

/** A run as others on this host see it. */
export interface Announcement extends AsyncDisposable {
  /** For one server of the run: when to let go of it, and how to say that this is done. */
  leash(server: string): Leash;
}

export interface Leash {
  /** Aborted with the run's signal, or when somebody asks to cancel this server alone. */
  readonly signal: AbortSignal;
  /** The server is as it was before the run: who asked for that is told. */
  free(): Promise<void>;
  /** The server is held again. */
  hold(): void;
}

/** How often a run looks for requests to cancel one of its servers, in milliseconds. */
const LOOK_MS = 500;

/** Is there while somebody waits for the server to be let go of. */
export function requestPath(job: string, server: string): string {
  return join(directoryOf(job), `cancel-${server}`);
}

function directoryOf(job: string): string {
  return stateDirectory('running', job);
}

/** Makes the run known, and watches for requests to cancel single servers. The caller holds the job's lock. */
export async function announceRun(job: string, since: Date, servers: readonly string[], run: AbortSignal): Promise<Announcement> {
  const directory = directoryOf(job);
  await rm(directory, { recursive: true, force: true }); // of a run that died
  await makeDirectory(directory);
  const running: RunningJob = { job, pid: process.pid, startTime: await startTime(process.pid) ?? '', since: since.toISOString(), host: hostname(), servers: [...servers] };
  await writeDurable(join(directory, 'run.json'), JSON.stringify(running));

  const asked = new Map(servers.map((server) => [server, new AbortController()]));
  const held = new Set<string>();
  const answer = (server: string): Promise<void> => rm(requestPath(job, server), { force: true });
  const timer = setInterval(() => {
    void readdir(directory).catch(() => [] as string[]).then(async (names) => { // the run is ending
      for (const [server, controller] of asked) {
        if (!names.includes(basename(requestPath(job, server)))) continue;
        controller.abort(new DrError('cancelled', `${server} was cancelled. Its older copies are untouched.`));
        if (!held.has(server)) await answer(server);
      }
    });
  }, LOOK_MS);
  timer.unref();
  const abortAll = (): void => { for (const controller of asked.values()) controller.abort(new DrError('cancelled', 'the run was cancelled. Older copies are untouched.')); };
  if (run.aborted) abortAll();
  else run.addEventListener('abort', abortAll, { once: true });

  return {
    leash: (server) => {
      held.add(server);
      return {
        signal: asked.get(server)?.signal ?? run,
        hold: () => { held.add(server); },
        free: async () => {
          held.delete(server);
          await answer(server);
        },
      };
    },
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** The run of this job on this host that is alive now. */
export async function runningJob(job: string): Promise<RunningJob | undefined> {
  const parsed = RunningFile.safeParse(await readJson(join(directoryOf(job), 'run.json')));
  if (!parsed.success || await startTime(parsed.data.pid) !== parsed.data.startTime) return undefined;
  return parsed.data;
}

/** Asks a run on this host to stop, or to let go of one server. Throws `usage` for a server that the run does not have. */
export async function requestCancel(running: RunningJob, server: string | undefined): Promise<void> {
  if (server === undefined) {
    process.kill(running.pid, 'SIGINT');
    return;
  }
  if (!running.servers.includes(server)) throw new DrError('usage', `the running job ${running.job} has no server ${server}`, `Its servers are: ${running.servers.join(', ')}.`);
  await writeDurable(requestPath(running.job, server), '');
}
