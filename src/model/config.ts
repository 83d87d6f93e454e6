/**
 * The configuration as the program uses it: checked, defaults filled in, sizes in bytes, durations in seconds.
 * `config/load.ts` makes it; docs/configuration.md describes the file.
 */
export interface Config {
  /** The file it came from, as it was named. */
  readonly file: string;
  readonly anvils: ReadonlyMap<string, AnvilConfig>;
  readonly targets: ReadonlyMap<string, TargetConfig>;
  readonly jobs: ReadonlyMap<string, JobConfig>;
  /** Name of the file in the root of a cache drive's file system. */
  readonly cacheSignature: string;
  /** Blocks whose last proof is older than this are read again. */
  readonly reproveAfterSeconds: number;
  /** Program and arguments that start an agent at the far end of ssh; `agent` is added. */
  readonly agentCommand: readonly string[];
}

export interface AnvilConfig {
  readonly name: string;
  /** ssh(1) destinations; `local` is this host. No two are the same. */
  readonly nodes: readonly string[];
  /** libvirt connection URI, as the nodes use it. */
  readonly libvirt: string;
  /** Directory on the nodes with the servers' definition files, comments and all. */
  readonly definitions?: string;
  /** What replaces `virsh shutdown` and `virsh start`; one of the words holds `{server}`. */
  readonly commands: { readonly shutdown?: readonly string[]; readonly start?: readonly string[] };
}

export interface TargetConfig {
  readonly name: string;
  /** ssh(1) destination as seen from here; `local` is this host. */
  readonly host: string;
  /** ssh(1) destination as seen from the nodes, who send the images. */
  readonly reach: string;
  /** libvirt connection URI, as the target uses it. */
  readonly libvirt: string;
  /** `fs:/absolute/directory`, without a trailing slash, or `vg:VG[,VG…]`, where `VG/POOL` has thin volumes. */
  readonly store: string;
  /** Directory on the target with definitions to boot from. */
  readonly definitions: string;
  /** Directory on the target with the links to the newest complete sets. */
  readonly current: string;
  readonly useCache: boolean;
  /** What may be sent by time of day; no two spans overlap, and where there is none there is no limit. */
  readonly bandwidth: readonly BandwidthSpan[];
  /** Over how many ssh connections a disk is sent; absent: over a further one as long as that helps. */
  readonly streams?: number;
  readonly allocation: 'sparse' | 'full';
}

/** A limit from one time of day to another of the host that runs the job. */
export interface BandwidthSpan {
  /** Minutes after midnight, 0 to 1439. */
  readonly from: number;
  /** 1 to 1440; not after `from` where the span goes over midnight. */
  readonly to: number;
  readonly bytesPerSecond: number;
}

export interface JobConfig {
  readonly name: string;
  readonly anvil: string;
  readonly targets: readonly string[];
  readonly servers: readonly string[];
  /** 1 to 99. */
  readonly copies: number;
  readonly capture: 'shutdown' | 'live';
  /** How a running server is taken: by libvirt's backup job, or by snapshots of its logical volumes. */
  readonly live: 'backup' | 'lvm';
  /** What a snapshot sets aside for what the guest overwrites, for `live: lvm`. */
  readonly snapshotSize: SnapshotSize;
  /** Whether the snapshot of a disk in a thin pool is kept until the next run, which then reads only what changed, for `live: lvm`. */
  readonly keepBase: boolean;
  /** Five cron fields or `@daily` and the like, in this host's time zone. */
  readonly schedule?: string;
  readonly shutdownTimeoutSeconds: number;
  readonly onShutdownTimeout: 'fail' | 'force-off';
  /** How long after a shutdown that was not obeyed a server is still watched, and started if it goes down after all. */
  readonly lateShutdownWatchSeconds: number;
  /** The longest that a live capture may last. */
  readonly maxJobTimeSeconds: number;
  /** Directory on the node that keeps what the guest overwrites during a live capture. */
  readonly scratch: string;
  /** What must stay free where `scratch` is. */
  readonly scratchReserveBytes: number;
  readonly diskNames: readonly DiskName[];
  readonly overwriteOnlyCopy: boolean;
  readonly allowEncrypted: boolean;
}

/** Of the disk that it is a snapshot of, or in bytes. A snapshot in a thin pool sets nothing aside. */
export type SnapshotSize = { readonly percent: number } | { readonly bytes: number };

/** The name that images of a disk carry, where the job settles it. */
export interface DiskName {
  /** Absent: every server of the job. */
  readonly server?: string;
  /** Device name in the definition (`vda`). */
  readonly target: string;
  readonly name: string;
}

/** A disk's name in image names: what the job says for this server, else for all servers, else the source's own name. */
export function diskNameFor(job: JobConfig, server: string, target: string, natural: string): string {
  const settled = job.diskNames.filter((entry) => entry.target === target);
  return (settled.find((entry) => entry.server === server) ?? settled.find((entry) => entry.server === undefined))?.name ?? natural;
}
