import { readdir, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { DrError } from '../model/errors.js';
import { makeDirectory, readJson, writeDurable } from '../system/durable.js';
import { startTime } from '../system/processes.js';
import { stateDirectory } from '../system/state.js';

/** Who runs which job on this host, so that `dr status` and `dr cancel` can find out. The lock is what keeps two apart, not this. */

const RunningFile = z.object({ job: z.string(), pid: z.number(), startTime: z.string(), since: z.string(), host: z.string(), servers: z.array(z.string()) });
export type RunningJob = z.infer<typeof RunningFile>;

export interface Announcement extends AsyncDisposable {
  readonly directory: string;
}

/** How often a run looks for requests to cancel one of its servers, in milliseconds. */
const LOOK_MS = 500;

function directoryOf(job: string): string {
  return stateDirectory('running', job);
}

export async function announceRun(job: string, since: Date, servers: readonly string[]): Promise<Announcement> {
  const directory = directoryOf(job);
  await rm(directory, { recursive: true, force: true }); // of a run that died: the caller holds the job's lock
  await makeDirectory(directory);
  const running: RunningJob = { job, pid: process.pid, startTime: await startTime(process.pid) ?? '', since: since.toISOString(), host: hostname(), servers: [...servers] };
  await writeDurable(join(directory, 'run.json'), JSON.stringify(running));
  return { directory, [Symbol.asyncDispose]: async () => { await rm(directory, { recursive: true, force: true }); } };
}

/** The run of this job on this host that is alive now. */
export async function runningJob(job: string): Promise<RunningJob | undefined> {
  const parsed = RunningFile.safeParse(await readJson(join(directoryOf(job), 'run.json')));
  if (!parsed.success || await startTime(parsed.data.pid) !== parsed.data.startTime) return undefined;
  return parsed.data;
}

/** A signal that is aborted with the run's, or when somebody asks to cancel this server alone. */
export function cancellable(run: AbortSignal, announcement: Announcement, server: string): AbortSignal {
  const asked = new AbortController();
  const wanted = `cancel-${server}`;
  const timer = setInterval(() => {
    void readdir(announcement.directory).catch(() => []).then((names) => {
      if (!(names as string[]).includes(wanted)) return;
      clearInterval(timer);
      asked.abort(new DrError('cancelled', `${server} was cancelled. Its older copies are untouched.`));
    });
  }, LOOK_MS);
  timer.unref();
  const onRunAbort = (): void => { asked.abort(new DrError('cancelled', 'the run was cancelled. Older copies are untouched.')); };
  if (run.aborted) onRunAbort();
  else run.addEventListener('abort', onRunAbort, { once: true });
  return asked.signal;
}

/** Asks a run on this host to stop, or to let go of one server. Throws `usage` for a server that the run does not have. */
export async function requestCancel(running: RunningJob, server: string | undefined): Promise<void> {
  if (server === undefined) {
    process.kill(running.pid, 'SIGINT');
    return;
  }
  if (!running.servers.includes(server)) throw new DrError('usage', `the running job ${running.job} has no server ${server}`, `Its servers are: ${running.servers.join(', ')}.`);
  await writeDurable(join(directoryOf(running.job), `cancel-${server}`), '');
}
