import assert from 'node:assert/strict';
import fc from 'fast-check';
import { age, bytes, duration, plain, wrap } from '../../src/commands/format.js';
import { barLine, openDisplay, Rate, sentence } from '../../src/commands/progress.js';
import { cut, table } from '../../src/commands/table.js';
import type { TransferEvent } from '../../src/model/run-event.js';
import { capturedTerminal } from '../fixtures/captured-terminal.js';

describe('what is shown', () => {
  it('writes sizes with three digits', () => {
    for (const [count, text] of [[0, '0 B'], [999, '999 B'], [1000, '0.98 KiB'], [1024, '1.00 KiB'], [10_240, '10.0 KiB'], [102_400, '100 KiB'],
      [1023 * 1024, '1.00 MiB'], [2 ** 30, '1.00 GiB'], [40 * 2 ** 30, '40.0 GiB'], [2 ** 50, '1.00 PiB']] as const) assert.equal(bytes(count), text);
    fc.assert(fc.property(fc.nat(Number.MAX_SAFE_INTEGER), (count) => bytes(count).length <= 8));
  });

  it('writes durations with at most two units', () => {
    for (const [ms, text] of [[0, '0 s'], [850, '850 ms'], [12_300, '12.3 s'], [59_999, '1 min'], [192_000, '3 min 12 s'], [7_500_000, '2 h 5 min'], [3_600_000, '1 h'],
      [76 * 3_600_000, '3 d 4 h'], [999.7, '1.0 s'], [3_599_999, '1 h']] as const) assert.equal(duration(ms), text);
    assert.deepEqual([age(-5), age(45_000), age(720_000), age(3 * 3_600_000), age(5 * 86_400_000)], ['0 s', '45 s', '12 min', '3 h', '5 d']);
  });

  it('keeps tables within the terminal, and cuts names where they differ least', () => {
    const columns = [{ head: 'target', cut: 'middle' as const }, { head: 'image', cut: 'middle' as const }, { head: 'state' }, { head: 'size', right: true }];
    const rows = [['dr01', `Web01_${'very-long-disk-name-'.repeat(5)}_incomplete`, 'incomplete', '40.0 GiB'], ['dr01', 'Web01_root_1', { text: 'complete', colour: 'green' as const }, '2.00 GiB']];
    const narrow = table(capturedTerminal({ columns: 80 }), columns, rows);
    for (const line of narrow.split('\n')) assert(line.length <= 80, line);
    assert.match(narrow, /Web01_very.*….*_incomplete/);
    assert.match(narrow, /^TARGET {2}IMAGE +STATE +SIZE$/m);
    assert.match(table(capturedTerminal(), columns, rows), /very-long-disk-name-very-long-disk-name-very/, 'nothing is cut on a pipe');
    assert.deepEqual([cut('abcdefghij', 5, 'middle'), cut('abcdefghij', 5, 'end'), cut('abc', 5, 'end')], ['ab…ij', 'abcd…', 'abc']);
  });

  it('colours only where colours are wanted, and aligns the same with them', () => {
    const rows = [[{ text: 'ok', colour: 'green' as const }, 'x']];
    const columns = [{ head: 'state' }, { head: 'other' }];
    const bare = table(capturedTerminal(), columns, rows);
    const coloured = table(capturedTerminal({ colour: true }), columns, rows);
    assert(!bare.includes('\x1b'));
    assert.match(coloured, /\x1b\[32mok/);
    assert.equal(coloured.replace(/\x1b\[\d+m/g, '').replace(/ +$/gm, ''), bare);
  });

  it('makes control characters visible', () => {
    assert.equal(plain('a\x1b[31mb\nc\td\x7f'), 'a\\x1b[31mb\nc\td\\x7f');
    assert.equal(table(capturedTerminal(), [{ head: 'x' }], [['\x1b]0;owned\x07']]).split('\n')[1], '\\x1b]0;owned\\x07');
  });

  it('wraps at spaces and keeps long words whole', () => {
    assert.deepEqual(wrap('one two three', 8), ['one two', 'three']);
    assert.deepEqual(wrap('/a/very/long/path and', 8), ['/a/very/long/path', 'and']);
    assert.deepEqual(wrap('a b', Infinity), ['a b']);
  });

  it('keeps every bar within the terminal', () => {
    fc.assert(fc.property(fc.string({ minLength: 1, maxLength: 60 }), fc.nat(2 ** 45), fc.nat(2 ** 45), fc.integer({ min: 72, max: 250 }), fc.nat(2 ** 35), (name, a, b, width, speed) => {
      const rate = new Rate();
      rate.add(0, 0);
      rate.add(1000, speed);
      assert(barLine({ name, rate }, Math.min(a, b), Math.max(a, b), width).length < width);
    }));
  });

  it('measures the speed of the last seconds', () => {
    const rate = new Rate();
    assert.equal(rate.perSecond(), 0);
    for (let second = 0; second <= 20; second++) rate.add(second * 1000, Math.min(second, 10) * 100);
    assert.equal(rate.perSecond(), 0, 'a stall shows');
    rate.add(21_000, 2000);
    assert(rate.perSecond() > 100);
  });

  it('says each phase in a sentence', () => {
    assert.equal(sentence({ kind: 'phase', server: 'Web01', phase: 'back', node: 'an-a01n01', ms: 12_300 }), 'Web01: runs again on an-a01n01, it was down for 12.3 s');
    assert.equal(sentence({ kind: 'phase', server: 'Web01', phase: 'captured', node: 'an-a01n01', ms: 0 }), 'Web01: captured on an-a01n01');
    assert.equal(sentence({ kind: 'phase', phase: 'observing' }), 'looking at the hosts');
    assert.equal(sentence({ kind: 'phase', server: 'Web01', phase: 'failed', detail: 'no space' }), 'Web01: failed: no space');
    assert.equal(sentence({ kind: 'note', level: 'warning', server: 'Web01', text: 'no guest agent' }), 'Web01: warning: no guest agent');
  });

  it('writes one line for the beginning and the end of a transfer where no bar can be drawn, and none in between', () => {
    const terminal = capturedTerminal();
    const display = openDisplay(terminal, false);
    const event = (state: TransferEvent['state'], done: number): TransferEvent =>
      ({ kind: 'transfer', what: 'sending', state, server: 'Web01', disk: 'root', to: 'dr01', done, total: 2 ** 30, sent: done / 2 });
    display.show(event('begin', 0));
    for (let done = 0; done < 100; done++) display.show(event('progress', done));
    display.show(event('end', 2 ** 30));
    display.close();
    assert.equal(terminal.stdout(), '');
    assert.deepEqual(terminal.stderr().replace(/^\d\d:\d\d:\d\d /gm, '').split('\n'),
      ['Web01/root → dr01: sending 1.00 GiB', 'Web01/root → dr01: 1.00 GiB arrived, 512 MiB sent', '']);
  });

  it('says nothing at all when it is told to be silent', () => {
    const terminal = capturedTerminal();
    const display = openDisplay(terminal, true);
    display.show({ kind: 'phase', phase: 'observing' });
    display.say('x');
    display.close();
    assert.equal(terminal.stdout() + terminal.stderr(), '');
  });
});
