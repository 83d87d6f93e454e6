import type { ErrorData } from './errors.js';

/** What a node's agent says of a server and its disks. */

export type DomainState = 'running' | 'paused' | 'shut off' | 'other';

export interface DiskSeen {
  /** The device name inside the guest's definition (`vda`); unique within a server. */
  readonly target: string;
  /** The name that images carry: the LV's name, or the file's base name without extension (before disk_names). */
  readonly name: string;
  readonly path?: string;
  readonly format: string;
  /** Virtual size in bytes. */
  readonly bytes: number;
  /** Its path is a container of encrypted bytes, which is what `format` and `bytes` describe then. */
  readonly encrypted?: boolean;
  /** Why it can't be imaged, if it can't. */
  readonly problem?: string;
}

export interface ServerSeen {
  readonly name: string;
  /** libvirt's UUID of the domain. */
  readonly uuid: string;
  readonly state: DomainState;
  /** False for a transient domain, whose definition vanishes with its shutdown. */
  readonly persistent: boolean;
  /** `virsh dumpxml --inactive --security-info`, or the live XML of a transient domain. */
  readonly xml: string;
  /** The server's file in the Anvil's definitions directory, comments and all, if there is one. */
  readonly definitionFile?: string;
  readonly disks: readonly DiskSeen[];
  /** Path of the UEFI variables file, if the domain has one. */
  readonly nvram?: string;
  /** Why it can't be captured by LVM snapshots now; absent if it can, or if that was not asked. */
  readonly snapshotProblem?: ErrorData;
  /** Whether a TPM emulator's state belongs to the server. */
  readonly tpm: boolean;
}
