import { readFile } from 'node:fs/promises';
import type { AnvilConfig, Config, DiskName, JobConfig, TargetConfig } from '../model/config.js';
import { DrError } from '../model/errors.js';
import { hasCode } from '../system/durable.js';
import { crossChecks } from './cross-checks.js';
import { show } from './leaves.js';
import { didYouMean } from './nearest.js';
import { parseSource, type Mistake, type Source } from './positions.js';
import { schema, validKeys, type ConfigFile } from './schema.js';

export type { AnvilConfig, Config, DiskName, JobConfig, TargetConfig } from '../model/config.js';

const DEFAULT_FILE = '/etc/dr/dr.yaml';
const HINT = 'Correct the file; docs/configuration.md describes every key.';

/**
 * Reads the configuration: the file named, else `$DR_CONFIG`, else /etc/dr/dr.yaml. Throws `config-missing` if there is none and
 * `config-invalid` with every mistake found, each as `file:line:column: key: what is wrong`.
 */
export async function loadConfig(path: string | undefined, env: NodeJS.ProcessEnv = process.env): Promise<Config> {
  const fromEnv = env['DR_CONFIG'] === '' ? undefined : env['DR_CONFIG'];
  const file = path ?? fromEnv ?? DEFAULT_FILE;
  const named = path !== undefined ? '' : fromEnv !== undefined ? ' (named by $DR_CONFIG)' : '';
  return parseConfig(file, await read(file, named));
}

async function read(file: string, named: string): Promise<string> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) {
      throw new DrError('config-missing', `there is no configuration file ${file}${named}`,
        'Name one with --config FILE or $DR_CONFIG, or write /etc/dr/dr.yaml; docs/configuration.md has an example.', { cause: error });
    }
    const why = hasCode(error, 'EISDIR') ? 'it is a directory' : hasCode(error, 'EACCES') ? 'permission denied' : error instanceof Error ? error.message : String(error);
    throw new DrError('config-missing', `the configuration file ${file}${named} can't be read: ${why}`,
      'Name a readable file with --config FILE or $DR_CONFIG.', { cause: error });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new DrError('config-invalid', `${file} is not a text file in UTF-8`, HINT, { cause: error });
  }
}

/** Reads a configuration from text; `file` is what messages call it. Throws `config-invalid`. */
export function parseConfig(file: string, text: string): Config {
  const source = parseSource(text);
  if (source.mistakes.length > 0) throw invalid(file, source.mistakes);
  if (source.value === null || source.value === undefined) {
    throw invalid(file, [{ at: { line: 1, column: 1 }, path: [], message: 'the file is empty; expected version, anvils, targets and jobs' }]);
  }
  const result = schema.safeParse(source.value);
  const mistakes = [
    ...(result.error?.issues ?? []).flatMap((issue) => shapeMistakes(source, issue)),
    ...crossChecks(source.value).map((found) => ({ ...found, at: source.position(found.path, found.what) })),
  ];
  if (!result.success || mistakes.length > 0) throw invalid(file, mistakes);
  return normalise(file, result.data);
}

function invalid(file: string, mistakes: readonly Mistake[]): DrError {
  const lines = [...mistakes]
    .sort((a, b) => a.at.line - b.at.line || a.at.column - b.at.column)
    .map(({ at, path, message }) => `${file}:${String(at.line)}:${String(at.column)}: ${path.length === 0 ? '' : `${spell(path)}: `}${message}`);
  return new DrError('config-invalid', [...new Set(lines)].join('\n'), HINT);
}

/** `jobs.web.servers[1]` */
function spell(path: readonly PropertyKey[]): string {
  return path.map((key, index) => typeof key === 'number' ? `[${String(key)}]` : `${index === 0 ? '' : '.'}${String(key)}`).join('');
}

interface Issue {
  readonly code?: string | undefined;
  readonly path: readonly PropertyKey[];
  readonly message: string;
  readonly expected?: string;
  readonly keys?: readonly string[];
}

function shapeMistakes(source: Source, issue: Issue): Mistake[] {
  const { path } = issue;
  if (issue.code === 'unrecognized_keys') {
    return (issue.keys ?? []).map((key) => ({
      at: source.position([...path, key], 'key'), path: [...path, key],
      message: `unknown key${didYouMean(key, validKeys(path)) || `; the keys here are ${validKeys(path).join(', ')}`}`,
    }));
  }
  const value = path.reduce<unknown>((inner, key) => (inner as Readonly<Record<PropertyKey, unknown>> | undefined)?.[key], source.value);
  const list = issue.expected === 'array' || issue.code === 'too_small';
  const wanted = list ? 'a list such as [a, b]' : path.length === 0 ? 'version, anvils, targets and jobs' : 'keys with values below it';
  const message = issue.code === 'custom' ? issue.message
    : value === undefined ? `is missing; expected ${wanted}`
    : `expected ${wanted}, found ${show(value)}`;
  return [{ at: source.position(path, 'value'), path, message }];
}

function normalise(file: string, read: ConfigFile): Config {
  const named = <From, To>(section: Readonly<Record<string, From>>, make: (name: string, from: From) => To): ReadonlyMap<string, To> =>
    new Map(Object.entries(section).map(([name, from]) => [name, make(name, from)]));
  return {
    file,
    anvils: named(read.anvils, anvilOf),
    targets: named(read.targets, targetOf),
    jobs: named(read.jobs, jobOf),
    cacheSignature: read.cache?.signature ?? '.dr_cache',
    reproveAfterSeconds: read.reprove_after ?? 30 * 86_400,
    agentCommand: read.agent_command ?? ['dr'],
  };
}

function anvilOf(name: string, read: ConfigFile['anvils'][string]): AnvilConfig {
  const { shutdown, start } = read.commands ?? {};
  return {
    name,
    nodes: read.nodes,
    libvirt: read.libvirt ?? 'qemu:///system',
    ...(read.definitions === undefined ? {} : { definitions: read.definitions }),
    commands: { ...(shutdown === undefined ? {} : { shutdown }), ...(start === undefined ? {} : { start }) },
  };
}

function targetOf(name: string, read: ConfigFile['targets'][string]): TargetConfig {
  return {
    name,
    host: read.host,
    reach: read.reach ?? read.host,
    libvirt: read.libvirt ?? 'qemu:///system',
    store: read.store,
    definitions: read.definitions ?? '/shared/definitions',
    current: read.current ?? '/shared/dr/current',
    useCache: read.use_cache ?? true,
    bandwidth: read.bandwidth_limit ?? [],
    ...(read.streams === undefined ? {} : { streams: read.streams }),
    allocation: read.allocation ?? 'sparse',
  };
}

function jobOf(name: string, read: ConfigFile['jobs'][string]): JobConfig {
  return {
    name,
    anvil: read.anvil,
    targets: read.targets,
    servers: read.servers,
    copies: read.copies,
    capture: read.capture,
    live: read.live ?? 'backup',
    snapshotSize: read.snapshot_size ?? { percent: 20 },
    keepBase: read.keep_base ?? false,
    ...(read.schedule === undefined ? {} : { schedule: read.schedule }),
    shutdownTimeoutSeconds: read.shutdown_timeout ?? 120,
    onShutdownTimeout: read.on_shutdown_timeout ?? 'fail',
    lateShutdownWatchSeconds: read.late_shutdown_watch ?? 6 * 3600,
    maxJobTimeSeconds: read.max_job_time ?? 2 * 3600,
    scratch: read.scratch ?? '/var/lib/libvirt/dr-engine',
    scratchReserveBytes: read.scratch_reserve ?? 2 ** 30,
    diskNames: Object.entries(read.disk_names ?? {}).map(([key, disk]) => diskNameOf(key, disk)),
    overwriteOnlyCopy: read.overwrite_only_copy ?? false,
    allowEncrypted: read.allow_encrypted ?? false,
  };
}

function diskNameOf(key: string, name: string): DiskName {
  const slash = key.lastIndexOf('/');
  return slash === -1 ? { target: key, name } : { server: key.slice(0, slash), target: key.slice(slash + 1), name };
}
