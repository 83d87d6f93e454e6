import type { Config } from '../model/config.js';
import type { DrError } from '../model/errors.js';
import type { Finding } from '../model/host.js';
import type { ImageRow, RunReport } from '../model/report.js';
import type { RunEvent, TransferEvent } from '../model/run-event.js';
import type {
  ActivationEvent, ActivationPlanView, ActivationReport, ActivationRequest, CancelReport, DefinitionRow, PlanView, ReleaseRow, StatusReport, VerifyRow,
} from '../model/views.js';

/**
 * What the commands ask of the head. Names in the arguments have been checked against the configuration. Every function throws DrError, and
 * `cancelled` once the signal is aborted.
 */
export interface Head {
  /** Throws what ends the run before anything was touched; every later failure is in the report. */
  runJob(config: Config, job: string, options: {
    readonly servers?: readonly string[];
    readonly signal: AbortSignal;
    readonly onEvent: (event: RunEvent) => void;
  }): Promise<RunReport>;
  planJobView(config: Config, job: string, options: { readonly servers?: readonly string[]; readonly signal: AbortSignal }): Promise<PlanView>;
  /** All hosts, or those of one job. */
  checkAll(config: Config, job: string | undefined, options: { readonly signal: AbortSignal }): Promise<readonly Finding[]>;
  /** A target that can't be asked is reported by `onProblem`, and the rows are those of the others. */
  listImages(config: Config, target: string | undefined, options: Asking): Promise<readonly ImageRow[]>;
  /** All servers if none is named. */
  verifyImages(config: Config, servers: readonly string[], options: Asking & {
    readonly adopt: boolean;
    readonly onProgress: (event: TransferEvent) => void;
  }): Promise<readonly VerifyRow[]>;
  definitionsReport(config: Config, options: Asking): Promise<readonly DefinitionRow[]>;
  /** What would be published on the target for this XML; nothing is touched, no host is asked. */
  previewDefinition(config: Config, request: { readonly xml: string; readonly server: string; readonly target: string }): Promise<string>;
  statusReport(config: Config, options: { readonly signal: AbortSignal }): Promise<StatusReport>;
  /** Resolves when the run has ended (or the server is free). */
  cancelJob(config: Config, job: string, options: { readonly server?: string; readonly signal: AbortSignal }): Promise<CancelReport>;
  /** One row per target where the server may be; all targets if none is named. */
  releaseServer(config: Config, server: string, options: Asking & { readonly target?: string }): Promise<readonly ReleaseRow[]>;
}

export interface Asking {
  readonly signal: AbortSignal;
  readonly onProblem: (target: string, problem: DrError) => void;
}

/** What `dr-activate` asks. */
export interface Activation {
  /**
   * Looks, plans, shows the plan to `confirm` and boots what it allows. Nothing is touched if `confirm` answers false or it is a dry run.
   * A server that fails is in the report.
   */
  activate(request: ActivationRequest, options: {
    readonly signal: AbortSignal;
    readonly confirm: (plan: ActivationPlanView) => Promise<boolean>;
    readonly onEvent: (event: ActivationEvent) => void;
  }): Promise<ActivationReport>;
}
