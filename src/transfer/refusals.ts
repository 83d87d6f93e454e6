import { DrError, type ErrorCode } from '../model/errors.js';

/** Everything that a stream can be refused for, in one table. A refused stream is never called complete. */
export const REFUSALS = {
  'not-ours': ['transfer-protocol', 'the far end does not speak our transfer protocol'],
  'version': ['protocol-version', 'the far end speaks another version of the transfer protocol'],
  'unknown-type': ['transfer-protocol', 'a frame of an unknown type arrived'],
  'reserved': ['transfer-protocol', 'a frame header has bits set that must be clear'],
  'frame-length': ['transfer-protocol', 'a frame has a length that its type can\'t have'],
  'out-of-place': ['transfer-protocol', 'a frame arrived where it has no place'],
  'bad-json': ['transfer-protocol', 'a frame\'s JSON can\'t be understood'],
  'ticket': ['not-ours', 'the ticket is unknown or the secret does not belong to it'],
  'size': ['transfer-protocol', 'the sender\'s disk is not what the ticket was made for'],
  'gap': ['transfer-protocol', 'a block was left out'],
  'duplicate': ['transfer-protocol', 'a block was answered, or asked about, a second time'],
  'range': ['transfer-protocol', 'a run of blocks is empty or goes past the end of the disk'],
  'not-offered': ['transfer-protocol', 'a block was called the same, or asked about, that was never compared'],
  'block-length': ['transfer-protocol', 'a block does not have the length it must have'],
  'block-digest': ['transfer-protocol', 'a block\'s bytes do not match its digest'],
  'patch-digest': ['patch-failed', 'the parts that were sent of a block do not make it what it should be'],
  'patch': ['transfer-protocol', 'a patch has parts that its block does not have, or was never asked for'],
  'counts': ['transfer-protocol', 'the final counts are not those of the blocks that arrived'],
  'total': ['transfer-protocol', 'the final digest is not that of the blocks that arrived'],
  'stream': ['transfer-protocol', 'a block\'s bytes were announced on a stream that nobody joined'],
  'truncated': ['transfer-protocol', 'the stream ended early'],
  'trailing': ['transfer-protocol', 'there was something after the end of the stream'],
  'lookahead': ['transfer-protocol', 'digests were offered, or asked for, out of order or too far ahead'],
  'silence': ['connection-lost', 'nothing was heard from the far end'],
} as const satisfies Record<string, readonly [ErrorCode, string]>;

export type RefusalName = keyof typeof REFUSALS;

/** A stream that was refused, and which row of the table it was. */
export class Refusal extends DrError {
  readonly refusal: RefusalName;

  constructor(refusal: RefusalName, detail = '') {
    const [code, what] = REFUSALS[refusal];
    super(code, `the transfer was refused (${refusal}): ${what}${detail === '' ? '' : `: ${detail}`}. The image being written was not completed; complete copies are untouched.`,
      refusal === 'version' ? 'Install the same version of dr-engine on both hosts.'
      : refusal === 'silence' ? 'Check the link between the two hosts, then run the job again.'
      : refusal === 'not-ours' ? 'Check that nothing else prints on standard output when that host is entered with ssh, and that its agent command runs dr.'
      : 'Run the job again; if it happens twice, test the memory of both hosts.');
    this.refusal = refusal;
  }
}
