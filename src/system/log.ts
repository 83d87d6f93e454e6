import { createLogger, format, transports, type Logger } from 'winston';

/**
 * The log. People's output goes through commands/; this is for what happened and why. Goes to stderr when DR_LOG is set to a
 * level, and to a 0600 file under the state directory when `logTo` was called. What is owed is never kept here: a log can
 * lose its tail when a process dies.
 */
export const log: Logger = createLogger({
  level: process.env['DR_LOG'] ?? 'info',
  format: format.combine(format.timestamp(), format.errors({ stack: true }), format.printf(({ timestamp, level, message, ...rest }) =>
    `${String(timestamp)} ${level} ${String(message)}${Object.keys(rest).length === 0 ? '' : ` ${JSON.stringify(rest)}`}`)),
  transports: [new transports.Console({ stderrLevels: ['error', 'warn', 'info', 'verbose', 'debug', 'silly'], silent: process.env['DR_LOG'] === undefined })],
});

/** Also writes the log to a file that only its owner can read. */
export function logTo(path: string): void {
  log.add(new transports.File({ filename: path, maxsize: 10 * 1024 * 1024, maxFiles: 3, options: { flags: 'a', mode: 0o600 } }));
}
