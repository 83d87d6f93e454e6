import assert from 'node:assert/strict';
import type { z } from 'zod';
import type { LabHost, Started } from '../lab/host.js';
import { ActivationShape, RunShape, type RunJson, type ServerJson } from './shapes.js';

/** Whoever types `dr` on a host of a lab: writes the configuration, runs commands, reads what they print. */

/** Parts of a configuration, as they stand in the file. */
export type Keys = Readonly<Record<string, unknown>>;

export interface Configuration {
  readonly jobs: Readonly<Record<string, Keys>>;
  /** Default: an-a01 with node01 and node02. */
  readonly anvils?: Readonly<Record<string, Keys>>;
  /** Default: dr01 with fs:/srv/dr. */
  readonly targets?: Readonly<Record<string, Keys>>;
  readonly more?: Keys;
}

export interface Said {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  /** All of it, for messages of failed assertions. */
  readonly all: string;
}

export interface Ran extends Said {
  readonly report: RunJson;
  /** The report of one server; the first if none is named. */
  server(name?: string): ServerJson;
}

export const FILE = '/etc/dr/dr.yaml';

/** A job with what all tests here mean by default. */
export function job(servers: readonly string[], more: Keys = {}): Keys {
  return { anvil: 'an-a01', targets: ['dr01'], servers, copies: 3, capture: 'live', ...more };
}

/** A shutdown job for guests that ignore the request: they are forced off, which is the quickest way down. */
export function cold(servers: readonly string[], more: Keys = {}): Keys {
  return job(servers, { capture: 'shutdown', shutdown_timeout: '1s', on_shutdown_timeout: 'force-off', ...more });
}

export class Admin {
  constructor(readonly host: LabHost) {}

  /** JSON is YAML. */
  async configure({ jobs, anvils, targets, more }: Configuration): Promise<void> {
    await this.host.writeFile(FILE, JSON.stringify({
      version: 1,
      anvils: anvils ?? { 'an-a01': { nodes: ['node01', 'node02'] } },
      targets: targets ?? { dr01: { host: 'dr01', store: 'fs:/srv/dr' } },
      jobs,
      ...more,
    }, null, 2), 0o600);
  }

  async type(program: string, ...args: readonly string[]): Promise<Said> {
    const { exitCode, stdout, stderr } = await this.host.run(program, args, { okExit: [0, 1, 2, 3, 4, 5, 130], timeoutMs: 600_000 });
    return said(exitCode, stdout, stderr);
  }

  dr(...args: readonly string[]): Promise<Said> {
    return this.type('dr', ...args);
  }

  /** What a command prints with --json, held against its shape. */
  async json<T extends z.ZodType>(shape: T, ...args: readonly string[]): Promise<Said & { readonly value: z.infer<T> }> {
    const answer = await this.dr(...args, '--json');
    return { ...answer, value: parse(shape, answer) };
  }

  async run(name: string, ...args: readonly string[]): Promise<Ran> {
    return ran(await this.dr('run', name, '--json', ...args));
  }

  /** A run that must succeed. */
  async runsWell(name: string, ...args: readonly string[]): Promise<Ran> {
    const result = await this.run(name, ...args);
    assert.equal(result.status, 0, result.all);
    assert.equal(result.report.outcome, 'ok', result.all);
    return result;
  }

  start(name: string, ...args: readonly string[]): Promise<Started> {
    return this.host.spawn('dr', ['run', name, '--json', ...args]);
  }

  async activate(...args: readonly string[]): Promise<Said & { readonly report: z.infer<typeof ActivationShape> }> {
    const answer = await this.type('dr-activate', '--json', ...args);
    return { ...answer, report: parse(ActivationShape, answer) };
  }
}

/** What a started run printed, when it has ended. */
export async function ended(started: Started): Promise<Ran> {
  const status = await started.exit;
  return ran(said(status, started.stdout(), started.stderr()));
}

function said(status: number, stdout: string, stderr: string): Said {
  return { status, stdout, stderr, all: `exit ${String(status)}\n${stdout}${stderr}` };
}

function ran(answer: Said): Ran {
  const report = parse(RunShape, answer);
  return {
    ...answer, report,
    server: (name) => {
      const found = name === undefined ? report.servers[0] : report.servers.find((one) => one.name === name);
      assert.ok(found, `the report has no server ${name ?? ''}: ${answer.all}`);
      return found;
    },
  };
}

export function parse<T extends z.ZodType>(shape: T, answer: Said): z.infer<T> {
  let value: unknown;
  try {
    value = JSON.parse(answer.stdout);
  } catch {
    assert.fail(`no JSON on standard output: ${answer.all}`);
  }
  const result = shape.safeParse(value);
  if (!result.success) assert.fail(`not of the documented shape: ${result.error.message}\n${answer.all}`);
  return result.data;
}
