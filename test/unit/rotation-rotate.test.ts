import assert from 'node:assert/strict';
import { describe, it } from 'mocha';
import { DrError, type ErrorCode } from '../../src/model/errors.js';
import type { RotationPlan, RotationStep, ServerOnTarget } from '../../src/model/rotation.js';
import { planBegin, planComplete } from '../../src/rotation/plan.js';
import { rotate } from '../../src/rotation/rotate.js';
import { MemoryTarget, put } from '../support/memory-store.js';
import { ANVIL, diskNames, intentOf, parseWorld, printWorld, SERVER, setOf, UUID } from '../support/rotation-notation.js';

/** Each step looks again before it acts: between planning and executing somebody may have been at the images. */
describe('rotate refuses what is not as planned, and touches nothing', () => {
  const move = (set: string, from: number | 'incomplete', to: number | 'incomplete'): RotationStep => ({ kind: 'move', set: setOf(set), from, to, disks: diskNames(2) });
  const begin = (set: string): RotationStep => ({ kind: 'begin', intent: intentOf(setOf('z'), 26, diskNames(2)), recycle: diskNames(2).map((disk) => ({ disk, set: setOf(set) })) });
  const cases: readonly (readonly [what: string, world: string, step: RotationStep, code: ErrorCode])[] = [
    ['a move onto a foreign file', '1=B* 2=?.1', move('B', 1, 2), 'exists'],
    ['a move onto another set', '1=B* 2=A', move('B', 1, 2), 'exists'],
    ['a move of a set of which a disk is gone', '1=B.0', move('B', 1, 2), 'state-changed'],
    ['a move of what another set took the place of', '1=C*', move('B', 1, 2), 'state-changed'],
    ['current to a set without a proof', '1=b 2=A*', { kind: 'point-current', set: setOf('b'), slot: 1 }, 'state-changed'],
    ['current to a set that is not whole', '1=B.1 2=A*', { kind: 'point-current', set: setOf('b'), slot: 1 }, 'state-changed'],
    ['current to names that are another set\'s', '1=B 2=A*', { kind: 'point-current', set: setOf('b'), slot: 2 }, 'state-changed'],
    ['binding what is another set now', 'i=B 1=C*', begin('A'), 'state-changed'],
    ['binding what is foreign', 'i=?.0 i=A.1', begin('A'), 'state-changed'],
    ['binding an image that has a number as well', 'i=A 3=A.1', begin('A'), 'state-changed'],
    ['binding what current leads to', 'i=A*', begin('A'), 'state-changed'],
    ['allocating where something is', 'i=A.0', { kind: 'allocate', set: setOf('z'), disk: 'd0', bytes: 1 }, 'exists'],
    ['resizing what is not bound to the set', 'i=A', { kind: 'resize', set: setOf('z'), disk: 'd0', bytes: 1 }, 'state-changed'],
    ['removing another set\'s image', '1=B* 4=A', { kind: 'remove', set: setOf('b'), disk: 'd0', slot: 4 }, 'state-changed'],
    ['removing what current leads to', '1=B 4=A*', { kind: 'remove', set: setOf('a'), disk: 'd0', slot: 4 }, 'state-changed'],
    ['removing an image that has another name', '1=B* 3=A 4=A', { kind: 'remove', set: setOf('a'), disk: 'd0', slot: 4 }, 'state-changed'],
  ];
  for (const [what, found, step, code] of cases) {
    it(what, async () => {
      const target = new MemoryTarget('files', parseWorld(found, 2, 'files'));
      await assert.rejects(rotate(target, SERVER, [step]), (error) => error instanceof DrError && error.code === code);
      assert.equal(printWorld(target.world, 2), printWorld(parseWorld(found, 2, 'files'), 2));
      assert.equal(target.world.intents.has(setOf('z')), false);
    });
  }
});

describe('each step may be done again', () => {
  const copies = 2;
  for (const kind of ['files', 'volumes'] as const) {
    it(`${kind}: doing every step twice ends alike`, async () => {
      const target = new MemoryTarget(kind, parseWorld('1=C* 2=B 3=A', 2, kind));
      const look = (): ServerOnTarget => target.observe(SERVER, { uuid: UUID, anvil: ANVIL, disks: diskNames(2), copies });
      const twice = async (plan: RotationPlan): Promise<void> => {
        assert.equal(plan.kind, 'plan');
        for (const step of plan.kind === 'plan' ? plan.steps : []) await rotate(target, SERVER, [step, step]);
      };
      await twice(planBegin(look(), { intent: intentOf(setOf('z'), 26, diskNames(2)), copies, overwriteOnlyCopy: false, freeBytes: 0 }));
      await target.write(setOf('z'));
      await twice(planComplete(look(), setOf('z'), copies));
      assert.equal(printWorld(target.world, 2), '1=Z* 2=C');
      assert.deepEqual([...target.world.intents.keys()].sort(), [setOf('a'), setOf('c'), setOf('z')].sort(), 'a pruned set is forgotten, a recycled one is left to tidying');
    });
  }
});

describe('what a run needs', () => {
  const plan = (found: string, wanted: Readonly<Record<string, number>>, kept: Readonly<Record<string, number>> = {}, generation = 26): RotationPlan => {
    let world = parseWorld(found, 2, 'files');
    for (const [key, bytes] of Object.entries(kept)) {
      const image = world.images.get(key);
      if (image !== undefined) world = { ...world, images: put(world.images, key, { ...image, bytes }) };
    }
    const target = new MemoryTarget('files', world);
    const disks = Object.entries(wanted).map(([disk, bytes]) => ({ disk, target: disk, bytes }));
    return planBegin(target.observe(SERVER, { uuid: UUID, anvil: ANVIL, disks: Object.keys(wanted), copies: 3 }),
      { intent: { ...intentOf(setOf('z'), generation, []), disks }, copies: 3, overwriteOnlyCopy: false, freeBytes: 0 });
  };
  const needs = (...args: Parameters<typeof plan>): number => {
    const planned = plan(...args);
    return planned.kind === 'plan' ? planned.needsBytes : -1;
  };

  it('a new set in full', () => { assert.equal(needs('1=A*', { d0: 1000, d1: 500 }), 1500); });
  it('nothing when images of the same size are recycled', () => { assert.equal(needs('1=C* 2=B 3=A', { d0: 1024, d1: 1024 }), 0); });
  it('the growth of a disk', () => { assert.equal(needs('1=C* 2=B 3=A', { d0: 5024, d1: 1024 }), 4000); });
  it('nothing back for a disk that shrank', () => { assert.equal(needs('1=C* 2=B 3=A', { d0: 24, d1: 1034 }), 10); });
  it('a disk that appeared in full, less one that went away before', () => { assert.equal(needs('1=C* 2=B 3=A', { d0: 1024, d2: 3000 }), 3000 - 1024); });
  it('what a recycled image lacks, not what it was', () => { assert.equal(needs('i=d 2=B* 3=A', { d0: 1024, d1: 1024 }, { kdd0: 24 }), 1000); });

  it('resizes, removes and allocates after the intent, in this order', () => {
    const planned = plan('1=C* 2=B 3=A', { d0: 2048, d2: 3000 });
    assert.deepEqual(planned.kind === 'plan' ? planned.steps.filter(({ kind }) => kind !== 'move').map((step) => step.kind === 'begin' ? step.recycle : step) : [], [
      [{ disk: 'd0', set: setOf('a') }],
      { kind: 'remove', set: setOf('a'), disk: 'd1', slot: 'incomplete' },
      { kind: 'resize', set: setOf('z'), disk: 'd0', bytes: 2048 },
      { kind: 'allocate', set: setOf('z'), disk: 'd2', bytes: 3000 },
    ]);
  });

  it('a generation above all before', () => {
    const planned = plan('1=C* 2=B 3=A', { d0: 1024, d1: 1024 }, {}, 3);
    assert.equal(planned.kind === 'refusal' ? planned.code : planned.kind, 'state-changed');
  });
});

describe('a refusal', () => {
  const refusal = (found: string): string => {
    const target = new MemoryTarget('files', parseWorld(found, 1, 'files'));
    const planned = planBegin(target.observe(SERVER, { uuid: UUID, anvil: ANVIL, disks: ['d0'], copies: 1 }),
      { intent: intentOf(setOf('z'), 26, ['d0'], 2 ** 30), copies: 1, overwriteOnlyCopy: false, freeBytes: 2 ** 29 });
    return planned.kind === 'refusal' ? `${planned.reason} | ${planned.remedy}` : planned.kind;
  };
  const safe = 'None of Web01\'s images was touched; the newest proven copy is of 2026-01-01T00:00:02Z.';
  const texts: readonly (readonly [string, string])[] = [
    ['1=B* 2=A!', `Web01_d0_2 was booted or changed since its proof (booted by hand). ${safe} | Keep what you need from it, then run: dr release Web01`],
    ['1=B* 2=A~', `Web01_d0_2 is in use (qemu-system-x86 (4711)). ${safe} | End what uses it, then run the job again.`],
    ['1=B* 2=?', `Web01_d0_2 is not one of ours (it was not made by dr-engine). ${safe} | Move it out of the store or give it another name, or keep this server in another store.`],
    ['1=B* @', `Web01 was booted from its copies (by dr-activate). ${safe} | When its copies may be overwritten again, run: dr release Web01`],
    ['1=B*', `the store has 0.5 GiB free and a second set of Web01 takes up to 1.0 GiB, so its only copy would be overwritten before the new one is proven. ${safe} | Free space or enlarge the store, give the target a cache drive, or set overwrite_only_copy: true in the job.`],
  ];
  for (const [found, text] of texts) {
    it(`of ${found} says what, why, what is still safe and what to do`, () => { assert.equal(refusal(found), text); });
  }
});
