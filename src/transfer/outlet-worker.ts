import { closeSync, writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';

/** The body of the thread that writes to a link. Messages are lists of pieces, each answered by an error's message or null; with an empty list it closes the link and ends. */
export type Piece = { readonly at: number; readonly length: number } | Uint8Array;

const { fd, memory } = workerData as { readonly fd: number; readonly memory: SharedArrayBuffer };

function write(pieces: readonly Piece[]): string | null {
  try {
    if (pieces.length === 0) closeSync(fd);
    for (const piece of pieces) {
      const bytes = piece instanceof Uint8Array ? piece : new Uint8Array(memory, piece.at, piece.length);
      for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done);
    }
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

parentPort?.on('message', (pieces: readonly Piece[]) => {
  parentPort?.postMessage(write(pieces));
  if (pieces.length === 0) parentPort?.close();
});
