import { MultiBar, type SingleBar } from 'cli-progress';
import type { PhaseEvent, RunEvent, TransferEvent } from '../model/run-event.js';
import { bytes, clock, duration, plain, wrap } from './format.js';
import { cut } from './table.js';
import { paint, type Colour, type Terminal } from './terminal.js';

/** Shows what goes on, on stderr. Never fails, never needed. */
export interface Display {
  show(event: RunEvent): void;
  /** A line between the others. */
  say(text: string): void;
  /** Takes the bars away and gives the terminal back. */
  close(): void;
}

/** Bars on a terminal, lines elsewhere, silence with `--json`. */
export function openDisplay(terminal: Terminal, silent: boolean): Display {
  if (silent) return { show: () => undefined, say: () => undefined, close: () => undefined };
  return terminal.errTty ? bars(terminal) : lines(terminal);
}

/** A moving transfer says how it is doing this often where no bar can be drawn, in milliseconds. */
const LINE_EVERY_MS = 30_000;

function lines(terminal: Terminal): Display {
  const last = new Map<string, number>();
  const say = (text: string): void => { terminal.err(`${clock(new Date())} ${plain(text)}\n`); };
  return {
    say,
    close: () => undefined,
    show: (event) => {
      if (event.kind !== 'transfer') {
        say(sentence(event));
        return;
      }
      const key = keyOf(event);
      if (event.state === 'progress') {
        if (Date.now() - (last.get(key) ?? 0) < LINE_EVERY_MS) return;
        last.set(key, Date.now());
        say(event.what === 'verifying' ? `${transferName(event)}: ${percent(event)} read` : `${transferName(event)}: ${percent(event)} of ${bytes(event.total)}, ${bytes(event.sent)} sent`);
        return;
      }
      last.set(key, Date.now());
      say(transferSentence(event));
    },
  };
}

/** Clears the rest of the line. */
const CLEAR_LINE = '\x1b[K';

/** Width of the clock before a line. */
const MARGIN = 9;

interface Bar {
  readonly bar: SingleBar;
  readonly rate: Rate;
}

function bars(terminal: Terminal): Display {
  const shown = new Map<string, Bar>();
  let group: MultiBar | undefined;
  // A group of bars exists only while something moves: between transfers the terminal is plain.
  const open = (): MultiBar => group ??= new MultiBar({
    stream: terminal.errStream, hideCursor: true, clearOnComplete: true, fps: 5, linewrap: false, gracefulExit: false, emptyOnZero: true,
    format: (_options, state, payload: BarPayload) => barLine(payload, state.value, state.total, terminal.columns ?? 80),
  });
  const say = (text: string, colour?: Colour): void => {
    // While bars are drawn the terminal does not wrap by itself.
    const [first = '', ...rest] = wrap(plain(text), (terminal.columns ?? 80) - MARGIN);
    const line = [`${paint(terminal.errColour, 'dim', clock(new Date()))} `, ...rest.map(() => ' '.repeat(MARGIN))]
      .map((margin, index) => `${margin}${paint(terminal.errColour, colour, [first, ...rest][index] ?? '')}\n`).join('');
    if (group === undefined) terminal.err(line);
    else group.log(line.replaceAll('\n', `${CLEAR_LINE}\n`)); // a line takes the place of a bar that was longer
  };
  const finish = (key: string): void => {
    const one = shown.get(key);
    if (one === undefined || group === undefined) return;
    group.remove(one.bar);
    shown.delete(key);
    if (shown.size > 0) return;
    group.stop();
    group = undefined;
  };
  return {
    say,
    close: () => {
      group?.stop();
      group = undefined;
      shown.clear();
    },
    show: (event) => {
      if (event.kind !== 'transfer') {
        say(sentence(event), colourOf(event));
        return;
      }
      const key = keyOf(event);
      if (event.state === 'end' || event.state === 'failed') {
        finish(key);
        say(transferSentence(event), event.state === 'failed' ? 'red' : undefined);
        return;
      }
      const known = shown.get(key);
      const rate = known?.rate ?? new Rate();
      rate.add(Date.now(), event.done);
      const payload: BarPayload = { name: transferName(event), rate, sent: event.sent, share: event.what === 'verifying' };
      if (known === undefined) shown.set(key, { rate, bar: open().create(event.total, event.done, payload) });
      else known.bar.update(event.done, payload);
    },
  };
}

interface BarPayload {
  readonly name: string;
  readonly rate: Rate;
  readonly sent: number;
  /** The figures say how much of the whole is done, but are no bytes. */
  readonly share?: boolean;
}

/** `Web01/root → dr01    ███████░░░░░   62 %  2.00 GiB   312 MiB/s  ETA 3.0 s`, as wide as the terminal or less. */
export function barLine({ name, rate, share: inParts = false }: Pick<BarPayload, 'name' | 'rate' | 'share'>, done: number, total: number, width: number): string {
  const perSecond = rate.perSecond();
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const eta = perSecond > 0 ? duration(((total - done) / perSecond) * 1000) : '-';
  const amount = width < 100 ? bytes(total).padStart(8) : `${bytes(done).padStart(8)} of ${bytes(total).padEnd(8)}`;
  const moved = inParts ? '' : `${amount}  ${`${bytes(perSecond)}/s`.padStart(10)}  `;
  const figures = `${String(Math.floor(share * 100)).padStart(3)} %  ${moved}ETA ${eta.padEnd(11)}`;
  // What is left is shared between name and bar.
  const left = Math.max(16, width - 1 - figures.length - 4);
  const nameWidth = Math.min(32, Math.max(10, left - 12));
  const barWidth = Math.max(6, Math.min(30, left - nameWidth));
  const full = Math.floor(share * barWidth);
  return `${cut(name, nameWidth, 'middle').padEnd(nameWidth)}  ${'█'.repeat(full)}${'░'.repeat(barWidth - full)}  ${figures}`;
}

/** Speed over the last seconds, so that a stall shows and a fast start does not linger. */
export class Rate {
  readonly #samples: { readonly at: number; readonly done: number }[] = [];

  /** `at` in milliseconds. */
  add(at: number, done: number): void {
    this.#samples.push({ at, done });
    while ((this.#samples[1]?.at ?? at) < at - 5_000) this.#samples.shift();
  }

  /** Bytes per second; 0 while it can't be known. */
  perSecond(): number {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.at <= first.at) return 0;
    return Math.max(0, (last.done - first.done) / ((last.at - first.at) / 1000));
  }
}

function keyOf(event: TransferEvent): string {
  return JSON.stringify([event.what, event.server, event.disk, event.to]);
}

function transferName(event: TransferEvent): string {
  const subject = event.disk === '' ? event.server : `${event.server}/${event.disk}`;
  return `${subject} ${event.what === 'verifying' ? 'on' : '→'} ${event.to}`;
}

function percent(event: TransferEvent): string {
  return `${String(event.total === 0 ? 100 : Math.floor((event.done / event.total) * 100))} %`;
}

function transferSentence(event: TransferEvent): string {
  const name = transferName(event);
  if (event.state === 'begin') return `${name}: ${event.what} ${bytes(event.total)}`;
  if (event.state === 'failed') return `${name}: failed after ${percent(event)}`;
  return event.what === 'verifying' ? `${name}: read` : `${name}: ${bytes(event.total)} arrived, ${bytes(event.sent)} sent`;
}

function colourOf(event: Exclude<RunEvent, TransferEvent>): Colour | undefined {
  if (event.kind === 'note') return event.level === 'warning' ? 'yellow' : undefined;
  return event.phase === 'failed' ? 'red' : event.phase === 'complete' ? 'green' : undefined;
}

/** One line for the event. */
export function sentence(event: Exclude<RunEvent, TransferEvent>): string {
  const subject = event.server === undefined ? '' : `${event.server}: `;
  if (event.kind === 'note') return `${subject}${event.level === 'warning' ? 'warning: ' : ''}${event.text}`;
  const where = event.node === undefined ? '' : ` on ${event.node}`;
  const target = event.target === undefined ? '' : ` on ${event.target}`;
  return `${subject}${phaseWords(event, where, target)}${event.detail === undefined ? '' : `: ${event.detail}`}`;
}

function phaseWords({ phase, ms }: PhaseEvent, where: string, target: string): string {
  const took = (words: string): string => ms === undefined || ms === 0 ? '' : `, ${words} ${duration(ms)}`;
  switch (phase) {
    case 'observing': return 'looking at the hosts';
    case 'planning': return 'planning';
    case 'shutting-down': return `shutting down${where}`;
    case 'down': return `is shut down${where}${took('after')}`;
    case 'capturing': return `capturing${where}`;
    case 'captured': return `captured${where}${took('file systems were frozen for')}`;
    case 'starting': return `starting again${where}`;
    case 'back': return `runs again${where}${took('it was down for')}`;
    case 'rotating': return `making room${target}`;
    case 'proving': return `proving${target}`;
    case 'complete': return `complete${target}`;
    case 'failed': return `failed${where}${target}`;
  }
}
