import type { ErrorData } from '../model/errors.js';
import { plain, wrap } from './format.js';
import { paint, type Terminal } from './terminal.js';

/** A sentence for stdout, broken at the terminal's width; lines after the first are indented. */
export function say(terminal: Terminal, text: string, indent = ''): void {
  terminal.out(`\n${wrap(plain(text), (terminal.columns ?? Infinity) - indent.length).map((line, index) => `${index === 0 ? '' : indent}${line}\n`).join('')}`);
}

/** An error that is part of a report: whose it is, what it is, and what to do. */
export function tell(terminal: Terminal, subject: string, error: ErrorData, colour: 'red' | 'yellow'): void {
  const width = terminal.columns ?? Infinity;
  const [first = '', ...rest] = wrap(plain(error.message.startsWith(subject) ? error.message : `${subject}: ${error.message}`), width - 2);
  terminal.out(`\n${paint(terminal.outColour, colour, first)}\n${rest.map((line) => `  ${line}\n`).join('')}`);
  if (error.hint !== '') terminal.out(wrap(plain(error.hint), width - 4).map((line, index) => `${index === 0 ? '  → ' : '    '}${line}\n`).join(''));
}
