import assert from 'node:assert/strict';
import { median, summarise } from '../bench/statistics.js';
import { limitOf, table, type Entry, type Row } from '../bench/table.js';

const MIB = 2 ** 20;

describe('the bench\'s figures', () => {
  it('are medians of time and the largest of memory', () => {
    assert.equal(median([5, 1, 9]), 5);
    assert.equal(median([4, 1, 2, 9]), 3);
    assert.throws(() => median([]));
    const summary = summarise([{ seconds: 3, cpuSeconds: 1, wireBytes: 10, peaks: { ssh: 5 } }, { seconds: 1, wireBytes: 30, peaks: { ssh: 9, dd: 1 } }, { seconds: 8, cpuSeconds: 2, wireBytes: 20, peaks: { ssh: 2 } }]);
    assert.deepEqual(summary, { runs: 3, seconds: 3, least: 1, most: 8, cpuSeconds: 1.5, wireBytes: 20, peaks: { ssh: 9, dd: 1 } });
  });

  const entry = (name: string, kind: Entry['kind'], seconds: number): Entry => ({ name, kind, runs: 5, seconds, least: seconds / 2, most: seconds * 2, cpuSeconds: 1, wireBytes: 1024 * MIB, peaks: { one: 100 * MIB, two: 7 * MIB } });
  const row: Row = {
    name: 'full', what: 'something', limits: ['reading alone', 'writing alone'], notes: ['a note '.repeat(30).trim()],
    entries: [entry('reading alone', 'limit', 2), entry('writing alone', 'limit', 3), entry('ssh alone', 'limit', 9), entry('dr-engine', 'ours', 4), entry('qemu-img convert', 'peer', 6), entry('reading and hashing', 'limit', 1)],
  };

  it('hold a row against the slowest part that it names', () => {
    assert.equal(limitOf(row)?.name, 'writing alone');
  });

  it('fit into 80 columns, with ratios to ours and to the limit', () => {
    const lines = table([row]).split('\n');
    assert.ok(lines.every((line) => line.length <= 80), lines.join('\n'));
    assert.ok(lines.some((line) => /^ {2}dr-engine +4\.00 +2\.00-8\.00 +0\.75 +1024 +1\.0 +100$/.test(line)), lines.join('\n'));
    assert.ok(lines.some((line) => /^ {2}qemu-img convert +6\.00 +3\.00-12\.00 +1\.50 +0\.50 /.test(line)), lines.join('\n'));
    assert.ok(lines.some((line) => line.startsWith('  writing alone < ')));
  });
});
