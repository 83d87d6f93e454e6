import { createRequire } from 'node:module';
import type * as Winston from 'winston';

/**
 * The log. People's output goes through commands/; this is for what happened and why. Goes to stderr when DR_LOG is set to a
 * level, and to a 0600 file once `logTo` was called; winston is loaded only then. What is owed is never kept here: a log can
 * lose its tail when a process dies.
 */
export const log = {
  debug: (message: string, details: object = {}): void => { target()?.debug(message, details); },
  info: (message: string, details: object = {}): void => { target()?.info(message, details); },
  warn: (message: string, details: object = {}): void => { target()?.warn(message, details); },
  error: (message: string, details: object = {}): void => { target()?.error(message, details); },
};

let logger: Winston.Logger | undefined;

/** Also writes the log to a file that only its owner can read. */
export function logTo(path: string): void {
  const { transports } = winston();
  (logger ??= create()).add(new transports.File({ filename: path, maxsize: 10 * 1024 * 1024, maxFiles: 3, options: { flags: 'a', mode: 0o600 } }));
}

function target(): Winston.Logger | undefined {
  if (logger === undefined && process.env['DR_LOG'] !== undefined) logger = create();
  return logger;
}

function create(): Winston.Logger {
  const { createLogger, format, transports } = winston();
  return createLogger({
    level: process.env['DR_LOG'] ?? 'info',
    format: format.combine(format.timestamp(), format.errors({ stack: true }), format.printf(({ timestamp, level, message, ...rest }) =>
      `${String(timestamp)} ${level} ${String(message)}${Object.keys(rest).length === 0 ? '' : ` ${JSON.stringify(rest)}`}`)),
    transports: [new transports.Console({ stderrLevels: ['error', 'warn', 'info', 'verbose', 'debug', 'silly'], silent: process.env['DR_LOG'] === undefined })],
  });
}

function winston(): typeof Winston {
  return createRequire(import.meta.url)('winston') as typeof Winston;
}
