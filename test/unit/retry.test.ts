import assert from 'node:assert/strict';
import { persist, type Persistence } from '../../src/jobs/persist.js';
import { BRIEF, failuresInARow, mayPass, PATIENT, triesOf, waitAfter } from '../../src/jobs/retry.js';
import { DrError, ERRORS, type ErrorCode } from '../../src/model/errors.js';
import { Refusal, REFUSALS, type RefusalName } from '../../src/transfer/refusals.js';

describe('trying again', () => {
  it('is worth it for the link, for a process at either end, and for the locks that such a one leaves behind; for nothing else', () => {
    const passing = (Object.keys(ERRORS) as ErrorCode[]).filter((code) => mayPass({ code }));
    assert.deepEqual(passing.sort(), ['connection-lost', 'locked', 'sender-died']);
  });

  it('is worth it for no stream that was refused but one that fell silent', () => {
    assert.deepEqual((Object.keys(REFUSALS) as RefusalName[]).filter((name) => mayPass(new Refusal(name))), ['silence']);
  });

  it('waits longer each time, for about two minutes in all; much less for a server that is down', () => {
    for (const { waitsMs } of [PATIENT, BRIEF]) assert.deepEqual([...waitsMs].sort((a, b) => a - b), waitsMs);
    const total = (waits: readonly number[]): number => waits.reduce((sum, wait) => sum + wait, 0);
    assert.equal(triesOf(PATIENT), 5);
    assert.ok(total(PATIENT.waitsMs) >= 90_000 && total(PATIENT.waitsMs) + PATIENT.connectMs * PATIENT.waitsMs.length <= 180_000);
    assert.ok(total(BRIEF.waitsMs) + BRIEF.connectMs * BRIEF.waitsMs.length <= 15_000, 'production waits for this');
  });

  it('ends when the waits are used up, and begins anew after a try that went on for long', () => {
    assert.equal(waitAfter(PATIENT, 1), 2_000);
    assert.equal(waitAfter(PATIENT, 5), undefined);
    assert.equal(failuresInARow(3, 1_000), 4);
    assert.equal(failuresInARow(4, 3_600_000), 1);
  });

  describe('in practice', () => {
    const told: string[] = [];
    const options = (more: Partial<Persistence> = {}): Persistence => ({ patience: { waitsMs: [1, 2], connectMs: 1 }, signal: new AbortController().signal, what: 'sending Web01 to dr01', told: (text) => told.push(text), ...more });
    const failing = (times: number, code: ErrorCode = 'connection-lost'): { tries: number; act(): Promise<string> } => ({
      tries: 0,
      act() {
        this.tries += 1;
        return this.tries <= times ? Promise.reject(new DrError(code, 'the link is gone', 'mend it')) : Promise.resolve('done');
      },
    });
    beforeEach(() => { told.length = 0; });

    it('succeeds once the failure has passed, and says what it did', async () => {
      const work = failing(2);
      assert.equal(await persist(() => work.act(), options()), 'done');
      assert.equal(work.tries, 3);
      assert.match(told.join('\n'), /^sending Web01 to dr01 is tried again in .* \(try 2 of 3; .*\): the link is gone\n.*try 3 of 3/);
    });

    it('gives up with the last failure and how often it was tried', async () => {
      const work = failing(9);
      await assert.rejects(persist(() => work.act(), options()), (error: DrError) => error.code === 'connection-lost' && error.hint === 'mend it' && /tried 3 times in a row: the link is gone/.test(error.message));
      assert.equal(work.tries, 3);
    });

    it('does not try again what was refused', async () => {
      for (const code of ['no-space', 'state-changed', 'source-failed', 'capture-void', 'transfer-protocol', 'image-modified', 'cancelled'] as const) {
        const work = failing(9, code);
        await assert.rejects(persist(() => work.act(), options()), { code, message: 'the link is gone' });
        assert.equal(work.tries, 1);
      }
      assert.deepEqual(told, []);
    });

    it('ends at once when it is no longer wanted, also while it waits', async () => {
      const over = new AbortController();
      const work = failing(9);
      setTimeout(() => { over.abort(); }, 20);
      const began = Date.now();
      await assert.rejects(persist(() => work.act(), options({ patience: { waitsMs: [60_000], connectMs: 1 }, signal: over.signal })), { message: 'the link is gone' });
      assert.equal(work.tries, 1);
      assert.ok(Date.now() - began < 5_000);
      await assert.rejects(persist(() => work.act(), options({ signal: over.signal })), { message: 'the link is gone' });
      assert.equal(work.tries, 2);
    });
  });
});
