import assert from 'node:assert/strict';
import { planComplete } from '../../src/rotation/plan.js';
import { rejects } from '../conformance/store.js';
import { failAt, Fault, fullAfter } from '../support/faulty-store.js';
import { content, setId, TestTarget, type Captured } from '../support/target.js';

/** The rotation's model is exhaustive in memory; this is the same on real files, links and attributes: a death after every change in turn. */
describe('a rotation on real files', function () {
  this.timeout(120_000);
  let target: TestTarget;
  let next: number;
  beforeEach(async () => {
    target = await TestTarget.make();
    next = 1;
    for (let runs = 0; runs < 2; runs++) await target.run(capture());
  });
  afterEach(() => target.remove());

  const capture = (): Captured => {
    const n = next++;
    return { set: setId(n), copies: 2, disks: { root: content(n, 4096), data: content(n, 8192) } };
  };
  /** What holds at every instant: a definition boots one whole set, and at least one is proven. */
  const insistSafe = async (when: string): Promise<void> => {
    const [root, data] = [await target.booted('root'), await target.booted('data')];
    const day = /^day (\d+)/.exec(root.toString('latin1'))?.[1];
    assert.ok(day !== undefined && root.equals(content(Number(day), 4096)) && data.equals(content(Number(day), 8192)), `${when}: current leads to one set`);
    const { servers: [seen] } = await target.call('store.observe', { servers: 'all' });
    const proven = new Set(seen?.images.filter(({ state }) => state === 'proven').map(({ identity }) => identity?.set));
    assert.ok(proven.size >= 1, `${when}: a proven set is left`);
    assert.ok(proven.has(setId(Number(day))), `${when}: current leads to a proven set`);
  };
  const insistRecovers = async (when: string): Promise<void> => {
    await target.run(capture());
    assert.equal(await target.states(), '1: proven, 2: proven', when);
    assert.equal(await target.states('Web01', 'data'), '1: proven, 2: proven', when);
    await insistSafe(`${when}, after the next run`);
  };

  for (const [call, times] of [['giveName', 4], ['takeName', 4], ['bind', 2]] as const) {
    it(`that dies after each ${call} of its beginning loses nothing`, async () => {
      for (let nth = 1; nth <= times; nth++) {
        const when = `after ${call} number ${String(nth)}`;
        await assert.rejects(target.begin(capture(), failAt(target.open().store, call, nth, 'after')), Fault, when);
        await insistSafe(when);
        await insistRecovers(when);
      }
    });
  }

  for (const call of ['giveName', 'takeName'] as const) {
    it(`that dies after each ${call} of its completion keeps the new set`, async () => {
      for (let nth = 1; nth <= 2; nth++) {
        const when = `after ${call} number ${String(nth)}`;
        const captured = capture();
        await target.begin(captured);
        await target.prove(captured);
        const plan = planComplete(await target.observe(captured), captured.set, 2);
        await assert.rejects(target.execute('Web01', plan, failAt(target.open().store, call, nth, 'after')), Fault, when);
        await insistSafe(when);
        await target.call('store.tidy', {});
        assert.deepEqual(await target.booted('root'), captured.disks['root'], `${when}: the newest set is proven, so it is the one to boot`);
        await insistRecovers(when);
        assert.ok((await target.open().store.list()).some(({ identity }) => identity?.set === captured.set), `${when}: the set that was proven is kept`);
      }
    });
  }

  it('that finds the store full changes nothing that is good', async () => {
    const larger: Captured = { ...capture(), disks: { root: content(3, 4096), data: content(3, 8192), more: content(3, 1 << 20) } };
    await rejects(target.begin(larger, fullAfter(target.open().store, 4096)), 'no-space');
    await insistSafe('with a full store');
    await insistRecovers('after there was space again');
  });
});
