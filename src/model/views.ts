import type { ErrorData } from './errors.js';

/** What the commands show, as the head returns it and as `--json` prints it. Sizes are bytes, times RFC 3339 UTC, durations milliseconds. */

/** What `dr run` would do, seen from here and now. */
export interface PlanView {
  readonly job: string;
  readonly servers: readonly PlannedServer[];
  /** In the order in which they would be done. */
  readonly steps: readonly PlannedStep[];
  readonly notes: readonly string[];
  /** Why the whole job would be refused. */
  readonly refusal?: ErrorData;
}

export interface PlannedServer {
  readonly name: string;
  readonly node: string | null;
  readonly capture: 'cold' | 'live' | null;
  readonly disks: readonly { readonly disk: string; readonly bytes: number }[];
  /** Why this server would be left out. */
  readonly refusal?: ErrorData;
}

export interface PlannedStep {
  /** Null: the step is the whole job's. */
  readonly server: string | null;
  readonly host: string;
  readonly text: string;
}

/** One image as re-reading found it. */
export interface Verified {
  readonly server: string;
  readonly name: string;
  readonly disk: string;
  readonly set: string | null;
  readonly outcome: 'ok' | 'damaged' | 'unproven' | 'in-use' | 'modified';
  /** For people. */
  readonly detail: string;
}

/** The same with its target, as `dr verify` shows it. */
export interface VerifyRow extends Verified {
  readonly target: string;
}

/** One definition on a target. */
export interface DefinitionRow {
  readonly target: string;
  readonly server: string;
  readonly path: string;
  /** `drifted`: it no longer says what would be published today. `missing`: no run has published it yet. `orphan`: no job has this server. `unknown`: the source could not be asked. */
  readonly state: 'fits' | 'drifted' | 'missing' | 'orphan' | 'unknown';
  /** What differs, one line each, `-` as it is and `+` as it would be published; or why it is unknown. */
  readonly difference: readonly string[];
}

export interface StatusReport {
  readonly jobs: readonly JobStatus[];
  readonly servers: readonly CopyStatus[];
  /** What nodes still owe (a server to start, a file system to thaw), red until it is paid. */
  readonly owed: readonly { readonly host: string; readonly what: string; readonly since: string; readonly stuck: string | null }[];
  /** Hosts that could not be asked, so that the rest is not taken for the whole. */
  readonly problems: readonly (ErrorData & { readonly host: string })[];
}

export interface JobStatus {
  readonly job: string;
  readonly last: { readonly outcome: string; readonly started_at: string; readonly finished_at: string } | null;
  readonly running: { readonly since: string; readonly host: string; readonly pid: number } | null;
  readonly next: string | null;
}

/** The newest complete copy of a server on a target. */
export interface CopyStatus {
  readonly server: string;
  readonly target: string;
  readonly captured_at: string | null;
  readonly age_ms: number | null;
  readonly complete_sets: number;
  /** Set when it was booted on the target and not yet released. */
  readonly activated: string | null;
}

export interface CancelReport {
  readonly job: string;
  readonly server: string | null;
  /** `not-running`: there was nothing to cancel. */
  readonly outcome: 'cancelled' | 'not-running';
}

export interface ReleaseRow {
  readonly server: string;
  readonly target: string;
  /** False: it was not marked there. */
  readonly released: boolean;
}

/** What disaster day starts from. */
export interface ActivationRequest {
  readonly definitions: string;
  readonly current: string;
  /** Absent: the store that the `current` links lead to. */
  readonly store?: string;
  readonly libvirt: string;
  /** Empty: all that have a definition. */
  readonly servers: readonly string[];
  /** Absent: the newest complete set. */
  readonly sequence?: number;
  readonly dryRun: boolean;
  /** The admin says in so many words that the originals are off and stay off. */
  readonly originalsAreOff: boolean;
}

export interface ActivationPlanView {
  readonly servers: readonly PlannedActivation[];
  /** What the host lacks or what should be known before saying yes. */
  readonly notes: readonly string[];
  /** Why nothing can be booted. */
  readonly refusal?: ErrorData;
}

export interface PlannedActivation {
  readonly server: string;
  readonly definition: string;
  /** `boot`; `running`: it runs here already, it is left as it is; `refused`: see `reason`. */
  readonly action: 'boot' | 'running' | 'refused';
  readonly set: string | null;
  readonly sequence: number | null;
  readonly captured_at: string | null;
  readonly memory_bytes: number | null;
  readonly reason?: ErrorData;
}

export interface ActivationReport {
  readonly outcome: 'ok' | 'partial' | 'failed' | 'refused' | 'cancelled' | 'dry-run';
  readonly servers: readonly {
    readonly server: string;
    readonly outcome: 'booted' | 'running' | 'refused' | 'failed' | 'skipped' | 'planned';
    readonly set: string | null;
    readonly captured_at: string | null;
    readonly error?: ErrorData;
  }[];
  readonly error?: ErrorData;
}

export type ActivationEvent =
  | { readonly kind: 'booting' | 'booted' | 'skipped'; readonly server: string; readonly detail?: string }
  | { readonly kind: 'failed'; readonly server: string; readonly error: ErrorData }
  | { readonly kind: 'note'; readonly text: string };
