import type { ErrorData } from './errors.js';

/** The JSON object that `dr run --json` ends with. Sizes are bytes, times RFC 3339 UTC or milliseconds. */
export interface RunReport {
  readonly job: string;
  readonly outcome: 'ok' | 'partial' | 'failed' | 'refused' | 'cancelled';
  readonly started_at: string;
  readonly finished_at: string;
  readonly servers: readonly ServerReport[];
  /** Why the whole run ended, when it was not one server's failure. */
  readonly error?: ErrorData;
}

export interface ServerReport {
  readonly name: string;
  readonly node: string | null;
  readonly outcome: 'ok' | 'partial' | 'failed' | 'refused' | 'cancelled' | 'skipped';
  readonly capture: 'cold' | 'live' | null;
  /** How long the server was shut down for this run; 0 when it ran on or was off before. */
  readonly down_ms: number;
  /** How long its file systems were frozen. */
  readonly frozen_ms: number;
  readonly error?: ErrorData;
  /** What a person should know though the server's images are complete. */
  readonly notes?: readonly string[];
  readonly images: readonly ImageReport[];
}

export interface ImageReport {
  readonly target: string;
  readonly name: string;
  readonly disk: string;
  readonly bytes: number;
  readonly bytes_read: number;
  readonly bytes_sent: number;
  readonly bytes_written: number;
  readonly digest: string;
  readonly cached: boolean;
}

/** One row of `dr images --json`. */
export interface ImageRow {
  readonly target: string;
  readonly name: string;
  readonly server: string;
  readonly disk: string;
  readonly sequence: number | 'incomplete';
  readonly state: 'complete' | 'incomplete' | 'unproven' | 'modified' | 'damaged';
  readonly bytes: number;
  readonly set: string | null;
  readonly captured_at: string | null;
  readonly digest: string | null;
  readonly in_use: string | null;
}
