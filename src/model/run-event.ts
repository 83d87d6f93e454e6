/** What a run says while it goes on, for display only: nothing may depend on these being seen. */
export type RunEvent =
  | PhaseEvent
  | TransferEvent
  | { readonly kind: 'note'; readonly level: 'info' | 'warning'; readonly server?: string; readonly text: string };

export interface PhaseEvent {
  readonly kind: 'phase';
  /** Absent: the whole run. */
  readonly server?: string;
  readonly phase:
    | 'observing' | 'planning'
    | 'shutting-down' | 'down' | 'capturing' | 'captured' | 'starting' | 'back'
    | 'rotating' | 'proving' | 'complete' | 'failed';
  readonly node?: string;
  readonly target?: string;
  /** What the phase took or caused, in milliseconds: downtime for `back`, the freeze for `captured`. */
  readonly ms?: number;
  /** A few words more, such as the reason of a failure. */
  readonly detail?: string;
}

/** One disk on its way to a cache drive or to a target. `progress` comes often; `begin` and exactly one of `end` and `failed` come once in each try. */
export interface TransferEvent {
  readonly kind: 'transfer';
  readonly state: 'begin' | 'progress' | 'end' | 'failed';
  readonly what: 'caching' | 'sending' | 'verifying';
  readonly server: string;
  readonly disk: string;
  /** The target's name, or the cache drive's device. */
  readonly to: string;
  /** Bytes of the disk dealt with, of how many, and what crossed the wire. */
  readonly done: number;
  readonly total: number;
  readonly sent: number;
}
