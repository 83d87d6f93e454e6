/**
 * The error registry: every code, with the exit status it leads to when nothing else went well.
 *
 * Exit statuses: 1 failed; 2 usage or configuration; 3 some servers done, some not; 4 refused, nothing
 * was touched; 5 the job is already running; 130 cancelled.
 */
export const ERRORS = {
  // usage and configuration
  'usage': 2,
  'config-missing': 2,
  'config-invalid': 2,
  'name-invalid': 2,
  // refused: nothing was touched
  'refused': 4,
  'unreachable': 4,
  'protocol-version': 4,
  'server-unknown': 4,
  'server-ambiguous': 4,
  'disk-unsupported': 4,
  'name-collision': 4,
  'space': 4,
  'foreign-image': 4,
  'image-in-use': 4,
  'image-modified': 4,
  'only-copy': 4,
  'original-alive': 4,
  'not-confirmed': 4,
  'nothing-to-activate': 4,
  'definition-unusable': 4,
  'locked': 4,
  'store-unusable': 4,
  'already-owed': 4,
  // the job
  'already-running': 5,
  'cancelled': 130,
  // failed
  'failed': 1,
  'internal': 1,
  'connection-lost': 1,
  'program-failed': 1,
  'program-missing': 1,
  'timeout': 1,
  'shutdown-timeout': 1,
  'capture-void': 1,
  'capture-failed': 1,
  'scratch-full': 1,
  'snapshot-full': 1,
  'start-owed': 1,
  'cache-lost': 1,
  'transfer-failed': 1,
  // a transfer's source can't be read: its destination is not to blame
  'source-failed': 1,
  // the process that reads it died, which says nothing of the source
  'sender-died': 1,
  'transfer-protocol': 1,
  // what was sent of a block did not make it what it should be: it has to be sent whole
  'patch-failed': 1,
  'digest-mismatch': 1,
  'no-space': 1,
  'io': 1,
  'exists': 1,
  'not-ours': 1,
  'state-changed': 1,
  'manifest-damaged': 1,
  'verify-failed': 1,
  'activation-failed': 1,
} as const satisfies Record<string, number>;

export type ErrorCode = keyof typeof ERRORS;

/** An error as it appears in JSON output and on the wire between head and agent. */
export interface ErrorData {
  readonly code: ErrorCode;
  /** What failed, where and why, and what is still safe. */
  readonly message: string;
  /** What to do about it. */
  readonly hint: string;
}

/** The one error class that people see. Anything else that is thrown is a defect and becomes `internal`. */
export class DrError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;

  constructor(code: ErrorCode, message: string, hint = '', options?: ErrorOptions) {
    super(message, options);
    this.name = 'DrError';
    this.code = code;
    this.hint = hint;
  }

  get exitStatus(): number {
    return ERRORS[this.code];
  }

  toJSON(): ErrorData {
    return { code: this.code, message: this.message, hint: this.hint };
  }

  /** Any thrown value as a DrError: itself; `no-space` or `io` for what the operating system says of a file; else wrapped as `internal`. */
  static from(thrown: unknown): DrError {
    if (thrown instanceof DrError) return thrown;
    const message = thrown instanceof Error ? thrown.message : String(thrown);
    switch (thrown instanceof Error && 'code' in thrown ? thrown.code : undefined) {
      case 'ENOSPC': case 'EDQUOT':
        return new DrError('no-space', `there is no space left (${message}). Complete copies are untouched.`, 'Free space there, then run the job again.', { cause: thrown });
      case 'EIO': case 'EROFS':
        return new DrError('io', `a file system does not take what is written, or can't be read (${message}). Complete copies are untouched.`, 'Check that disk and its file system (kernel log).', { cause: thrown });
    }
    return new DrError('internal', message, 'This is a defect in dr-engine; please report it with the log.', { cause: thrown });
  }

  static fromData(data: ErrorData): DrError {
    return new DrError(data.code, data.message, data.hint);
  }
}

export function isErrorData(value: unknown): value is ErrorData {
  return typeof value === 'object' && value !== null
    && 'code' in value && typeof value.code === 'string' && Object.hasOwn(ERRORS, value.code)
    && 'message' in value && typeof value.message === 'string'
    && 'hint' in value && typeof value.hint === 'string';
}
