import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { StepName } from '../../src/model/steps.js';
import { Host, type LabHost } from './host.js';
import { until } from './namespaces.js';

/** Stops dr-engine's processes of a host at named steps (src/system/steps.ts). The files are those of that protocol. */

/** Sets variables for every `dr` of the host, also those that come over ssh; replaces what was set before. */
export async function setEnvironment(host: LabHost, variables: Readonly<Record<string, string>>): Promise<void> {
  await host.writeFile('/etc/dr/lab.env', Object.entries(variables).map(([name, value]) => `${name}='${value.replaceAll("'", `'\\''`)}'\n`).join(''));
}

/** From now on steps of this host are logged and can be stopped at; forgets everything logged so far. */
export async function watchSteps(host: LabHost, variables: Readonly<Record<string, string>> = {}): Promise<void> {
  await host.run('sh', ['-c', 'mkdir -p "$1" && cd "$1" && rm -f log stop-at stopped-at reached go', 'sh', host.steps]);
  await setEnvironment(host, { DR_STEPS: host.steps, ...variables });
}

export async function ignoreSteps(host: LabHost): Promise<void> {
  await setEnvironment(host, {});
}

/** The process that comes to `step` for the n-th time from now on stands still there. */
export async function stopAt(host: LabHost, step: StepName, n = 1): Promise<void> {
  // The order appears whole or not at all: a process may be looking.
  await host.run('sh', ['-c', 'cd "$1" && rm -f go reached stopped-at && echo "$2" > .stop-at && mv .stop-at stop-at', 'sh', host.steps, `${step} ${String(n)}`]);
}

/** Takes back an order to stop that nobody has come to yet. */
export async function stopNowhere(host: LabHost): Promise<void> {
  await host.run('rm', ['-f', join(host.steps, 'stop-at')]);
}

export interface Reached {
  readonly step: StepName;
  /** The process that stands there, by its number inside the host. */
  readonly pid: number;
}

/** Whether somebody stands at a step now. */
export async function standing(host: LabHost): Promise<Reached | undefined> {
  // A namespaced host's file is on the machine, too: a campaign looks ten times a second, and starting a program each time would cost a core.
  const path = join(host.steps, 'reached');
  const text = host instanceof Host
    ? await readFile(path, 'utf8').catch(() => '') // nobody stands there
    : (await host.run('cat', [path], { okExit: [0, 1] })).stdout;
  const match = /^(\S+) (\d+)\n$/.exec(text);
  return match === null ? undefined : { step: match[1] as StepName, pid: Number(match[2]) };
}

/** Waits until somebody stands at the step. */
export async function reached(host: LabHost, timeoutMs = 30_000): Promise<Reached> {
  return until(`a process of ${host.name} to come to the step`, () => standing(host), timeoutMs);
}

/** Lets the process that stands at a step go on. */
export async function go(host: LabHost): Promise<void> {
  await host.run('touch', [join(host.steps, 'go')]);
}

/** How often each step was come to since `watchSteps`. */
export async function stepsSeen(host: LabHost): Promise<ReadonlyMap<StepName, number>> {
  const { stdout } = await host.run('cat', [join(host.steps, 'log')], { okExit: [0, 1] });
  const seen = new Map<StepName, number>();
  for (const line of stdout.split('\n').filter((each) => each !== '')) {
    const step = line.split(' ')[0] as StepName;
    seen.set(step, (seen.get(step) ?? 0) + 1);
  }
  return seen;
}
