import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { imageName } from '../../src/model/names.js';
import type { RotationStep } from '../../src/model/rotation.js';
import { planBegin, planComplete } from '../../src/rotation/plan.js';
import { rotate } from '../../src/rotation/rotate.js';
import { EMPTY, type World } from '../support/memory-store.js';
import { goodSets, isMarked, Violation } from '../support/rotation-laws.js';
import { adminActs, checkRun, explore, PLANNER, released, type Model } from '../support/rotation-model.js';
import { describeWorld, diskNames, parseWorld } from '../support/rotation-notation.js';
import { SOAK } from '../support/skip.js';

/** `make soak`: more damage at a time, more samples, another seed each time (fast-check prints it when something is found). */
const MORE = SOAK ? 1 : 0;

const EVERY: readonly Model[] = (['files', 'volumes'] as const).flatMap((kind) => [
  { kind, disks: 1, copies: [1, 2, 3], damaged: 1 + MORE },
  { kind, disks: 2, copies: [1], damaged: 1 + MORE },
  { kind, disks: 2, copies: [2], damaged: 1 + MORE },
  { kind, disks: 2, copies: [3], damaged: 1 + MORE },
  { kind, disks: 2, copies: [1, 2, 3], damaged: MORE },
]);

describe('rotation model: every reachable state', function () {
  this.timeout(SOAK ? 3_600_000 : 120_000);
  for (const model of EVERY) {
    const copies = model.copies.length === 1 ? `copies ${String(model.copies[0])}` : `copies changing among ${model.copies.join(', ')}`;
    it(`${model.kind}, ${String(model.disks)} disk(s), ${copies}, up to ${String(model.damaged)} set(s) damaged by hand at a time`, async function () {
      const { states, forbidden, runs, deaths } = await explore(model);
      if (this.test !== undefined) this.test.title += ` — ${String(states)} states, ${String(forbidden)} to be left alone, ${String(runs)} runs, ${String(deaths)} deaths`;
      assert.ok(states > 20 && deaths > states, 'the model got nowhere');
    });
  }
});

describe('rotation model: N failures in a row lose no more than one', () => {
  for (const kind of ['files', 'volumes'] as const) {
    for (const [copies, full] of [[1, '1=A*'], [2, '1=B* 2=A'], [3, '1=C* 2=B 3=A'], [4, '1=D* 2=C 3=B 4=A']] as const) {
      it(`${kind}, copies ${String(copies)}, dying at each change, five times over`, async () => {
        const policy = { copies, roomy: true, overwrite: false };
        const start = parseWorld(full, 2, kind);
        const { way } = await checkRun(start, policy, { kind, disks: 2 });
        for (let change = 0; change < way.length; change += 1) {
          let world = start;
          for (let failure = 0; failure < 5; failure += 1) {
            const run = await checkRun(world, policy, { kind, disks: 2 });
            world = run.way[Math.min(change, run.way.length - 1)] ?? world;
            assert.ok(goodSets(world).length >= Math.max(1, copies - 1), describeWorld(world, 2));
          }
        }
      });
    }
  }
});

describe('rotation model: sampled beyond', () => {
  const disks = 4;
  const command = fc.oneof(
    { weight: 6, arbitrary: fc.record({
      kind: fc.constant('run' as const), copies: fc.integer({ min: 1, max: 6 }), roomy: fc.boolean(), overwrite: fc.boolean(),
      captured: fc.record({ disks: fc.subarray(diskNames(disks), { minLength: 1 }), bytes: fc.constantFrom(512, 1024, 4096) }),
      dies: fc.option(fc.double({ min: 0, max: 1, noNaN: true })),
    }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('act' as const), which: fc.nat(1000) }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('release' as const) }) },
  );

  for (const kind of ['files', 'volumes'] as const) {
    it(`${kind}, up to 6 copies of up to 4 disks that come, go and change their size, any number of acts by hand`, async function () {
      this.timeout(SOAK ? 3_600_000 : 60_000);
      await fc.assert(fc.asyncProperty(fc.array(command, { minLength: 1, maxLength: 25 }), async (commands) => {
        let world: World = EMPTY;
        for (const next of commands) {
          if (next.kind === 'release') {
            world = released(world);
          } else if (next.kind === 'act') {
            const acts = adminActs(world, { disks, damaged: Infinity });
            world = acts[next.which % acts.length]?.world ?? world;
          } else {
            const run = await checkRun(world, next, { kind, disks });
            world = (next.dies === null ? undefined : run.way[Math.floor(next.dies * run.way.length)]) ?? run.end;
          }
        }
        if (!isMarked(world)) await checkRun(world, { copies: 3, roomy: true, overwrite: false }, { kind, disks });
      }), SOAK ? { numRuns: 50_000 } : { numRuns: 800, seed: 20261120 });
    });
  }
});

/** Planners and executors with a mistake: the laws must notice each, or they prove nothing. */
describe('rotation model: notices', function () {
  this.timeout(60_000);
  const model: Model = { kind: 'files', disks: 2, copies: [2, 3], damaged: 0 };
  const found = async (mutant: Partial<Model>, law: RegExp): Promise<void> => {
    await assert.rejects(explore({ ...model, ...mutant }), (error) => error instanceof Violation && law.test(error.message));
  };
  const removal = (image: { readonly identity?: { readonly set: string }; readonly disk: string; readonly slot: 'incomplete' | number }): RotationStep =>
    ({ kind: 'remove', set: image.identity?.set ?? '', disk: image.disk, slot: image.slot });

  it('a planner that shifts again though an incomplete is there', async () => {
    const begin: typeof planBegin = (seen, wanted) => {
      const left = seen.images.filter(({ slot, state }) => slot === 'incomplete' && state !== 'proven');
      const numbered = new Set(seen.images.map(({ slot }) => slot)).size - 1;
      if (left.length === 0 || numbered < 2) return planBegin(seen, wanted);
      const plan = planBegin({ ...seen, images: seen.images.filter((image) => !left.includes(image)) }, { ...wanted, copies: Math.min(wanted.copies, numbered) });
      return plan.kind === 'refusal' ? plan : { ...plan, steps: [...left.map(removal), ...plan.steps] };
    };
    await found({ planner: { ...PLANNER, begin } }, /^P1: 1 good sets are left of 2/);
  });

  it('a planner that prunes before the new set is complete', async () => {
    const begin: typeof planBegin = (seen, wanted) => {
      const settled = new Set(seen.images.map(({ key }) => key)).size === seen.images.length && seen.current?.slot === 1;
      if (!settled || planBegin(seen, wanted).kind === 'refusal') return planBegin(seen, wanted);
      const surplus = seen.images.filter(({ slot }) => slot !== 'incomplete' && slot > 1 && slot >= wanted.copies);
      const gone = new Set(surplus.map(({ identity }) => identity?.set));
      const plan = planBegin({ ...seen, images: seen.images.filter(({ identity }) => !gone.has(identity?.set)) }, wanted);
      return plan.kind === 'refusal' ? plan : { ...plan, steps: [...surplus.map(removal), ...plan.steps] };
    };
    await found({ planner: { ...PLANNER, begin } }, /^P1: /);
  });

  it('an executor that gives names without looking, in a store that overwrites, shifting in the wrong order', async () => {
    const begin: typeof planBegin = (seen, wanted) => {
      const plan = planBegin(seen, wanted);
      if (plan.kind === 'refusal') return plan;
      const moves = plan.steps.filter((step) => step.kind === 'move');
      if (new Set(moves.map(({ set }) => set)).size < moves.length) return plan;
      return { ...plan, steps: plan.steps.map((step) => step.kind === 'move' ? moves.pop() ?? step : step) };
    };
    const execute: typeof rotate = async (places, server, steps) => {
      for (const step of steps) {
        const before = await places.store.list();
        const images = step.kind !== 'move' ? [] : step.disks.flatMap((disk) => before.find(({ name }) => name === imageName(server, disk, step.from)) ?? []);
        if (step.kind !== 'move' || images.length < step.disks.length) {
          await rotate(places, server, [step]);
          continue;
        }
        for (const image of images) await places.store.giveName(image, `${image.base}_${String(step.to)}`);
        if ((await places.current.read(server))?.set === step.set) await rotate(places, server, [{ kind: 'point-current', set: step.set, slot: step.to }]);
        for (const image of images) await places.store.takeName(image, image.name);
      }
    };
    await found({ planner: { ...PLANNER, begin }, execute, mistakes: { giveOverwrites: true } }, /^a name was overwritten/);
  });

  it('a planner that takes the name incomplete for evidence', async () => {
    const begin: typeof planBegin = (seen, wanted) => planBegin({
      ...seen, images: seen.images.map((image) => image.slot === 'incomplete' ? { ...image, state: 'partial' } : image),
    }, wanted);
    await found({ planner: { ...PLANNER, begin } }, /good sets|good set/);
  });

  it('a planner that does not switch current', async () => {
    const complete: typeof planComplete = (...args) => {
      const plan = planComplete(...args);
      return plan.kind === 'refusal' ? plan : { ...plan, steps: plan.steps.filter((step) => step.kind !== 'point-current') };
    };
    await found({ planner: { ...PLANNER, complete } }, /^current does not lead/);
  });

  it('a planner that goes on though an image was changed by hand', async () => {
    const begin: typeof planBegin = (seen, wanted) => planBegin({ ...seen, images: seen.images.map((image) => image.state === 'modified' ? { ...image, state: 'unproven' } : image) }, wanted);
    await found({ damaged: 1, planner: { ...PLANNER, begin } }, /^images that somebody uses or changed were not left alone/);
  });

  it('an executor that takes the old names first', async () => {
    const execute: typeof rotate = async (places, server, steps) => {
      const hasty = { ...places.store, takeName: async () => { await Promise.resolve(); }, giveName: async (...[image, name]: Parameters<typeof places.store.giveName>) => {
        await places.store.giveName(image, name);
        if (image.name !== name) await places.store.takeName(image, image.name);
      } };
      await rotate({ ...places, store: hasty }, server, steps);
    };
    await found({ execute }, /^current/);
  });
});
