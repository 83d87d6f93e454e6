import { didYouMean, nearest } from './nearest.js';

/** A mistake that only shows when two places of the file are held against each other. */
export interface CrossMistake {
  readonly path: readonly PropertyKey[];
  /** Whether the mistake is in the key at `path` or in its value. */
  readonly what: 'key' | 'value';
  readonly message: string;
}

/**
 * Looks at the whole file as it was written, also where parts of it are wrong: whatever is not of the expected kind is passed over, since
 * the schema has reported it.
 */
export function crossChecks(file: unknown): CrossMistake[] {
  const anvils = entries(file, 'anvils');
  const targets = entries(file, 'targets');
  const jobs = entries(file, 'jobs');
  return [
    ...badNames('anvils', anvils),
    ...badNames('targets', targets),
    ...badNames('jobs', jobs),
    ...anvils.flatMap(([name, anvil]) => duplicates(anvil, ['anvils', name, 'nodes'])),
    ...sharedPlaces(targets),
    ...targets.flatMap(([name, target]) => fullPools(name, target)),
    ...jobs.flatMap(([name, job]) => [
      ...unknownReferences(['jobs', name], job, anvils, targets),
      ...duplicates(job, ['jobs', name, 'targets']),
      ...duplicates(job, ['jobs', name, 'servers']),
      ...diskNameMistakes(['jobs', name], job),
    ]),
    ...serversInTwoJobs(jobs),
  ];
}

type Entries = readonly (readonly [string, unknown])[];

function entries(value: unknown, key: string): Entries {
  const inner = get(value, key);
  return typeof inner === 'object' && inner !== null && !Array.isArray(inner) ? Object.entries(inner) : [];
}

function get(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, key) ? (value as Readonly<Record<string, unknown>>)[key] : undefined;
}

function text(value: unknown, key: string, otherwise?: string): string | undefined {
  const inner = get(value, key) ?? otherwise;
  return typeof inner === 'string' ? inner : undefined;
}

/** A text that names a directory: two spellings of one place are the same. */
function place(value: unknown, key: string, otherwise?: string): string | undefined {
  return text(value, key, otherwise)?.replace(/\/+/g, '/').replace(/\/$/, '');
}

/** Texts of a list with their places in it. */
function texts(value: unknown, key: string): readonly (readonly [number, string])[] {
  const inner = get(value, key);
  return Array.isArray(inner) ? [...inner.entries()].filter((entry): entry is [number, string] => typeof entry[1] === 'string') : [];
}

/** Names of Anvils, targets and jobs become file names of locks and records. */
function badNames(section: string, named: Entries): CrossMistake[] {
  return named.filter(([name]) => !/^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$/.test(name)).map(([name]) => ({
    path: [section, name], what: 'key',
    message: 'expected a name of letters, digits and the characters _ . + - that begins with a letter or digit',
  }));
}

function duplicates(value: unknown, path: readonly string[]): CrossMistake[] {
  const seen = new Set<string>();
  return texts(value, path.at(-1) ?? '').flatMap(([index, word]) => {
    if (!seen.has(word)) {
      seen.add(word);
      return [];
    }
    return [{ path: [...path, index], what: 'value' as const, message: `${JSON.stringify(word)} is listed twice` }];
  });
}

function unknownReferences(path: readonly string[], job: unknown, anvils: Entries, targets: Entries): CrossMistake[] {
  const known = (kind: string, word: string, named: Entries): string =>
    `there is no ${kind} ${JSON.stringify(word)} in this file${didYouMean(word, named.map(([name]) => name))}`;
  const anvil = text(job, 'anvil');
  const missing: CrossMistake[] = [];
  if (anvil !== undefined && !anvils.some(([name]) => name === anvil)) {
    missing.push({ path: [...path, 'anvil'], what: 'value', message: known('Anvil', anvil, anvils) });
  }
  for (const [index, word] of texts(job, 'targets')) {
    if (!targets.some(([name]) => name === word)) missing.push({ path: [...path, 'targets', index], what: 'value', message: known('target', word, targets) });
  }
  return missing;
}

/** Two targets on one host would take each other's images, or switch each other's links. */
function sharedPlaces(targets: Entries): CrossMistake[] {
  return targets.flatMap(([name, target], index): CrossMistake[] => {
    const host = text(target, 'host');
    const store = place(target, 'store');
    const current = place(target, 'current', '/shared/dr/current');
    for (const [other, earlier] of targets.slice(0, index)) {
      if (host === undefined || text(earlier, 'host') !== host) continue;
      const group = volumeGroups(store).find((one) => volumeGroups(place(earlier, 'store')).includes(one));
      if (group !== undefined && place(earlier, 'store') !== store) {
        return [{ path: ['targets', name, 'store'], what: 'value', message: `the volume group ${group} is in the store of target ${other} on the same host too; each target needs its own` }];
      }
      if (store !== undefined && place(earlier, 'store') === store) {
        return [{ path: ['targets', name, 'store'], what: 'value', message: `target ${other} has the same store on the same host; each target needs its own` }];
      }
      if (place(earlier, 'current', '/shared/dr/current') === current) {
        return [{ path: ['targets', name, 'current'], what: 'key',
          message: `target ${other} on the same host has the same directory of links, ${String(current)}; give one of them another with current:` }];
      }
    }
    return [];
  });
}

/** The volume groups of a store, without their pools: an image's name is one volume in the whole group. */
function volumeGroups(store: string | undefined): readonly string[] {
  return store?.startsWith('vg:') === true ? store.slice('vg:'.length).split(',').map((entry) => entry.replace(/\/.*/, '')) : [];
}

/** A thin volume has no blocks of its own before they are written. */
function fullPools(name: string, target: unknown): CrossMistake[] {
  const pool = text(target, 'store')?.startsWith('vg:') === true ? text(target, 'store')?.slice('vg:'.length).split(',').find((entry) => entry.includes('/')) : undefined;
  if (pool === undefined || text(target, 'allocation') !== 'full') return [];
  return [{ path: ['targets', name, 'allocation'], what: 'value', message: `images in the thin pool ${pool} take space as they are written; leave allocation out, or name the volume group alone for whole volumes` }];
}

function serversInTwoJobs(jobs: Entries): CrossMistake[] {
  const taken = new Map<string, string>();
  const mistakes: CrossMistake[] = [];
  for (const [name, job] of jobs) {
    const targets = new Set(texts(job, 'targets').map(([, target]) => target));
    for (const target of targets) {
      const seen = new Set<string>();
      for (const [index, server] of texts(job, 'servers')) {
        if (seen.has(server)) continue; // listed twice in this job, which is reported for itself
        seen.add(server);
        const key = JSON.stringify([text(job, 'anvil'), server, target]);
        const other = taken.get(key);
        if (other === undefined) taken.set(key, name);
        else {
          mistakes.push({ path: ['jobs', name, 'servers', index], what: 'value',
            message: `${server} is in job ${other} too, with the same target ${target}; a server has one job per target` });
        }
      }
    }
  }
  return mistakes;
}

/** `vda: root` speaks of every server of the job, `Web01/vda: root` of one. */
function diskNameMistakes(path: readonly string[], job: unknown): CrossMistake[] {
  const servers = texts(job, 'servers').map(([, server]) => server);
  const used = new Map<string, string>();
  return entries(job, 'disk_names').flatMap(([key, name]): CrossMistake[] => {
    const here = [...path, 'disk_names', key];
    const match = /^(?:(.+)\/)?([A-Za-z][A-Za-z0-9_-]*)$/.exec(key);
    if (match === null) return [{ path: here, what: 'key', message: `expected a disk's device such as vda, or SERVER/vda, found ${JSON.stringify(key)}` }];
    const server = match[1];
    if (server !== undefined && !servers.includes(server)) {
      const near = nearest(server, servers);
      return [{ path: here, what: 'key', message: `server ${JSON.stringify(server)} is not in this job${near === undefined ? '' : `; did you mean "${near}/${match[2] ?? ''}"?`}` }];
    }
    const clash = typeof name === 'string' ? used.get(`${server ?? ''}/${name}`) : undefined;
    if (clash !== undefined) return [{ path: here, what: 'value', message: `${clash} has the name ${JSON.stringify(name)} already; each disk of a server needs its own` }];
    if (typeof name === 'string') used.set(`${server ?? ''}/${name}`, key);
    return [];
  });
}
