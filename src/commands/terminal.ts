import { createInterface } from 'node:readline/promises';

/** Where a command speaks and listens. `main.ts` gives the process's own; tests give their own. */
export interface Terminal {
  /** Results go to stdout, everything else to stderr. Text comes with its line ends. */
  out(text: string): void;
  err(text: string): void;
  readonly outTty: boolean;
  /** Whether bars may be drawn on stderr. */
  readonly errTty: boolean;
  /** What bars are drawn on. */
  readonly errStream: NodeJS.WritableStream;
  /** Width of the terminal; undefined on a pipe, where nothing is cut. */
  readonly columns: number | undefined;
  readonly outColour: boolean;
  readonly errColour: boolean;
  /** One line from a person; undefined if there is no person (standard input is no terminal) or the input ended. */
  ask(question: string, signal: AbortSignal): Promise<string | undefined>;
}

export type Colour = 'red' | 'green' | 'yellow' | 'dim' | 'bold';

const CODES: Readonly<Record<Colour, readonly [number, number]>> = { red: [31, 39], green: [32, 39], yellow: [33, 39], dim: [2, 22], bold: [1, 22] };

export function paint(on: boolean, colour: Colour | undefined, text: string): string {
  if (!on || colour === undefined) return text;
  const [begin, end] = CODES[colour];
  return `\x1b[${String(begin)}m${text}\x1b[${String(end)}m`;
}

/** The terminal, pipes or files that this process was started with. */
export function processTerminal(): Terminal {
  const { stdin, stdout, stderr, env } = process;
  // A reader that went away (`dr images | head`) is no reason to fail, least of all in the middle of a run.
  for (const stream of [stdout, stderr]) stream.on('error', () => undefined);
  const colours = (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb';
  return {
    out: (text) => { stdout.write(text); },
    err: (text) => { stderr.write(text); },
    outTty: stdout.isTTY,
    errTty: stderr.isTTY && env['TERM'] !== 'dumb',
    errStream: stderr,
    columns: stdout.isTTY ? Math.max(40, stdout.columns) : undefined,
    outColour: colours && stdout.isTTY,
    errColour: colours && stderr.isTTY,
    ask: async (question, signal) => {
      if (!stdin.isTTY) return undefined;
      // Not in raw mode, so that Ctrl-C stays a signal.
      const lines = createInterface({ input: stdin, output: stderr, terminal: false });
      try {
        const ended = new Promise<undefined>((resolve) => { lines.once('close', () => { resolve(undefined); }); });
        return await Promise.race([lines.question(question, { signal }), ended]);
      } catch (error) {
        if (signal.aborted) return undefined;
        throw error;
      } finally {
        lines.close();
      }
    },
  };
}
