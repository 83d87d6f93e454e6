import { DrError } from '../model/errors.js';
import type { PartialContent } from '../model/host.js';
import { DigestWindow } from './digest-window.js';
import type { Geometry } from './geometry.js';
import { ticketDigests } from './ticket.js';

/**
 * What an image holds of which only those blocks were kept that its destination lacked: a block is in it if its digest is another than the
 * destination's was. All digests are known, also of blocks that are not there.
 */
export class PartialImage implements AsyncDisposable {
  readonly #captured: DigestWindow;
  readonly #base: DigestWindow;

  private constructor(captured: DigestWindow, base: DigestWindow) {
    this.#captured = captured;
    this.#base = base;
  }

  /** Throws what the operating system says if either file can't be read, and `source-failed` if there is not a digest for every block. */
  static async open({ ticket, base }: PartialContent, disk: Geometry): Promise<PartialImage> {
    const captured = await DigestWindow.open(ticketDigests(ticket));
    try {
      if (disk.blocks > 0) insist(captured.digest(disk.blocks - 1));
      return new PartialImage(captured, await DigestWindow.open(base));
    } catch (error) {
      await captured[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The digest of any block. Throws `source-failed` if it is gone. */
  digest(index: number): Buffer {
    return insist(this.#captured.digest(index));
  }

  /** Whether the block was left out. */
  lacks(index: number): boolean {
    return this.#base.digest(index)?.equals(this.digest(index)) === true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#captured[Symbol.asyncDispose]();
    await this.#base[Symbol.asyncDispose]();
  }
}

function insist(digest: Buffer | undefined): Buffer {
  if (digest === undefined) throw new DrError('source-failed', 'the digests of what was cached are not all there', 'Run the job again.');
  return digest;
}
