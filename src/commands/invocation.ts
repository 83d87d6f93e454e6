import { Command, CommanderError } from 'commander';
import { loadConfig } from '../config/load.js';
import type { Config } from '../model/config.js';
import { DrError } from '../model/errors.js';
import { version } from '../system/version.js';
import type { Activation, Head } from './head.js';
import { plain } from './format.js';
import { paint, type Terminal } from './terminal.js';

/** Everything around one call of `dr` or `dr-activate`. */
export interface Surroundings {
  readonly terminal: Terminal;
  readonly env: NodeJS.ProcessEnv;
  /** Aborted by Ctrl-C and by SIGTERM, SIGHUP. */
  readonly signal: AbortSignal;
  /** Loaded when a command needs it. */
  readonly wiring: () => Promise<{ readonly head: Head; readonly activation: Activation }>;
}

/** What a command works with: its surroundings, and the options that all commands have. */
export interface Invocation extends Surroundings {
  config(): Promise<Config>;
  head(): Promise<Head>;
  readonly json: boolean;
}

/**
 * Turns a command's act, which answers with the exit status, into what commander calls: with the arguments and options that the
 * command declares, which is what `Arguments` must be.
 */
export type Wrap = <Arguments extends readonly unknown[]>(
  act: (invocation: Invocation, ...args: Arguments) => Promise<number>,
) => (...called: unknown[]) => Promise<void>;

interface GlobalOptions {
  readonly config?: string;
  readonly json?: boolean;
}

/** The root command of a program, that throws instead of leaving the process, and prints nothing but help itself. */
export function rootCommand(name: string, description: string, terminal: Terminal): Command {
  return new Command(name)
    .description(description)
    .version(version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .exitOverride()
    .configureOutput({ writeOut: (text) => { terminal.out(text); }, writeErr: () => undefined })
    .configureHelp({ showGlobalOptions: true, helpWidth: Math.min(terminal.columns ?? 80, 100) });
}

/**
 * Runs a program made by `build` to its exit status. Errors are shown: as text on stderr, or as `{code, message, hint}` on stdout with
 * `--json`. `build` gets the function that turns an action into one that commander can call.
 */
export async function perform(argv: readonly string[], surroundings: Surroundings, build: (wrap: Wrap) => Command): Promise<number> {
  let status = 0;
  const wrap: Wrap = <Arguments extends readonly unknown[]>(act: (invocation: Invocation, ...args: Arguments) => Promise<number>) =>
    async (...called: unknown[]): Promise<void> => {
      const command = called.at(-1);
      if (!(command instanceof Command)) throw new DrError('internal', 'an action was called without its command');
      const options = command.optsWithGlobals<GlobalOptions>();
      const invocation: Invocation = {
        ...surroundings,
        config: () => loadConfig(options.config, surroundings.env),
        head: async () => (await surroundings.wiring()).head,
        json: options.json === true,
      };
      status = await act(invocation, ...(called.slice(0, -1) as unknown as Arguments));
    };
  const program = build(wrap);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return status;
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return 0; // help or version was printed
    const error = thrown instanceof CommanderError ? usageError(thrown, program, argv) : DrError.from(thrown);
    showError(surroundings.terminal, program.name(), error, asksForJson(argv));
    return error.exitStatus;
  }
}

function asksForJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  return (end === -1 ? argv : argv.slice(0, end)).includes('--json');
}

/** Commander's complaints in the form of ours: what is wrong, and what to do. */
function usageError(error: CommanderError, program: Command, argv: readonly string[]): DrError {
  const word = argv.find((candidate) => program.commands.some((command) => command.name() === candidate));
  const help = `${program.name()}${word === undefined ? '' : ` ${word}`} --help`;
  if (error.code === 'commander.help' && argv[0] === 'help') return new DrError('usage', `unknown command '${argv[1] ?? ''}'`, `${help} lists the commands.`);
  if (error.code === 'commander.help') return new DrError('usage', 'no command was given', `${help} lists the commands; dr check is a good first one.`);
  const [first = '', ...rest] = error.message.replace(/^error: /, '').split('\n');
  const suggestion = /\(Did you mean (.*)\?\)/s.exec(rest.join(' '))?.[1];
  return new DrError('usage', first, suggestion === undefined ? `See ${help}.` : `Did you mean ${suggestion}? See ${help}.`, { cause: error });
}

/** An error as every command shows it. */
export function showError(terminal: Terminal, program: string, error: DrError, json: boolean): void {
  if (json) {
    printJson(terminal, error.toJSON());
    return;
  }
  const name = paint(terminal.errColour, 'red', `${program}:`);
  if (error.code === 'config-invalid') {
    // Mistakes begin their lines with the place, as editors and people know it from compilers.
    terminal.err(`${plain(error.message)}\n${name} ${plain(error.hint)}\n`);
    return;
  }
  const indent = ' '.repeat(program.length + 2);
  const under = (text: string): string => plain(text).split('\n').join(`\n${indent}`);
  terminal.err(`${name} ${under(error.message)}\n${error.hint === '' ? '' : `${indent}${under(error.hint)}\n`}`);
}

/** One JSON value on stdout, readable by people too. */
export function printJson(terminal: Terminal, value: unknown): void {
  terminal.out(`${JSON.stringify(value, null, 2)}\n`);
}

/** For commands that only look: Ctrl-C ends them at once, whatever they wait for. */
export function orCancelled<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const cancelled = (): DrError => signal.reason instanceof DrError ? signal.reason : new DrError('cancelled', 'cancelled');
  return new Promise<T>((resolve, reject) => {
    const stop = (): void => { reject(cancelled()); };
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
    work.then(resolve, reject).finally(() => { signal.removeEventListener('abort', stop); });
  });
}

/** Collects an option that may be given more than once. */
export function collect(value: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), value];
}

/** Gathers what could not be asked, so that a part is not taken for the whole: shown on stderr, and exit status 3. */
export function problems({ terminal }: Invocation): { readonly note: (target: string, problem: DrError) => void; exitStatus(): number } {
  let met = 0;
  return {
    note: (target, problem) => {
      met++;
      showError(terminal, 'dr', new DrError(problem.code, `${target} is left out: ${problem.message}`, problem.hint), false);
    },
    exitStatus: () => met === 0 ? 0 : 3,
  };
}
