import assert from 'node:assert/strict';
import { describe, it } from 'mocha';
import type { RotationPlan } from '../../src/model/rotation.js';
import { planBegin, planComplete, planRepair } from '../../src/rotation/plan.js';
import { rotate } from '../../src/rotation/rotate.js';
import { MemoryTarget, type MemoryKind } from '../support/memory-store.js';
import { ANVIL, DISK_BYTES, diskNames, generationOf, intentOf, parseWorld, printWorld, SERVER, setOf, UUID } from '../support/rotation-notation.js';

/**
 * What a run makes of what it finds, in the notation of rotation-notation.ts:
 * `copies×disks: found → when the first byte is written → when the set Z is complete`, or a refusal's code for either.
 */
const RUNS = `
fewer sets than copies: a new incomplete is allocated
  3×1: nothing                              → i=z                        → 1=Z*
  3×2: nothing                              → i=z                        → 1=Z*
  3×1: 1=A*                                 → i=z 2=A*                   → 1=Z* 2=A
  3×2: 1=B* 2=A                             → i=z 2=B* 3=A               → 1=Z* 2=B 3=A
  2×1: 1=A*                                 → i=z 2=A*                   → 1=Z* 2=A

as many sets as copies: the oldest is recycled
  3×1: 1=C* 2=B 3=A                         → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: 1=C* 2=B 3=A                         → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  2×2: 1=B* 2=A                             → i=z 2=B*                   → 1=Z* 2=B
  5×1: 1=E* 2=D 3=C 4=B 5=A                 → i=z 2=E* 3=D 4=C 5=B       → 1=Z* 2=E 3=D 4=C 5=B

a run died while writing: incomplete is reused, nothing is shifted again
  3×1: i=d 2=C* 3=B                         → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=d 2=C* 3=B                         → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=d 2=C*                             → i=z 2=C*                   → 1=Z* 2=C
  3×2: i=b                                  → i=z                        → 1=Z*
  3×2: i=d.0 2=C* 3=B                       → i=z 2=C* 3=B               → 1=Z* 2=C 3=B

a run died between the proof and the rename: that set is finished first
  3×1: i=D 2=C* 3=B                         → i=z 2=D* 3=C               → 1=Z* 2=D 3=C
  3×2: i=D 2=C* 3=B                         → i=z 2=D* 3=C               → 1=Z* 2=D 3=C
  3×2: i=A                                  → i=z 2=A*                   → 1=Z* 2=A
  3×2: i=D.01 1=D.0 2=C* 3=B                → i=z 2=D* 3=C               → 1=Z* 2=D 3=C
  3×2: i=D.1 1=D.0 2=C* 3=B                 → i=z 2=D* 3=C               → 1=Z* 2=D 3=C
  3×2: i=D.1 1=D 2=C* 3=B                   → i=z 2=D* 3=C               → 1=Z* 2=D 3=C
  3×2: 1=D 2=C* 3=B                         → i=z 2=D* 3=C               → 1=Z* 2=D 3=C

a run died while the oldest was on its way to incomplete
  3×2: i=A.0 1=C* 2=B 3=A                   → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A.0 1=C* 2=B 3=A.1                 → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A.01 1=C* 2=B 3=A.1                → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A 1=C* 2=B                         → i=z 2=C* 3=B               → 1=Z* 2=C 3=B

a run died while the others were shifted, disk by disk
  3×2: i=A 1=C* 2=B 3=B.0                   → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A 1=C* 2=B.1 3=B.0                 → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A 1=C* 3=B                         → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A 1=C* 2=C.0 3=B                   → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A 1=C.1 2=C* 3=B                   → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A 1=C.1 2=C.0 3=B *1C              → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=A 2=C* 3=B                         → i=z 2=C* 3=B               → 1=Z* 2=C 3=B

a run died while incomplete was bound to it
  3×2: i=D.0 i=a.1 2=C* 3=B                 → i=z 2=C* 3=B               → 1=Z* 2=C 3=B
  3×2: i=d.0 i=A.1 2=C* 3=B                 → i=z 2=C* 3=B               → 1=Z* 2=C 3=B

sets without a proof go first
  3×1: 1=C* 2=b 3=A                         → i=z 2=C* 3=A               → 1=Z* 2=C 3=A
  3×2: 1=C* 2=B.0 3=A                       → i=z 2=C* 3=A               → 1=Z* 2=C 3=A
  2×1: 1=b 2=A*                             → i=z 2=A*                   → 1=Z* 2=A
  3×1: 1=c 2=b 3=a                          → i=z 2=c 3=b                → 1=Z* 2=c 3=b
  1×1: 1=b 2=A*                             → i=z 2=A*                   → 1=Z*

copies was lowered: surplus is pruned after the new set is complete, oldest first
  2×2: 1=C* 2=B 3=A                         → i=z 2=C* 3=B               → 1=Z* 2=C
  2×1: 1=E* 2=D 3=C 4=B 5=A                 → i=z 2=E* 3=D 4=C 5=B       → 1=Z* 2=E
  2×1: i=e 2=D* 3=C 4=B                     → i=z 2=D* 3=C 4=B           → 1=Z* 2=D
  3×1: i=e 1=D* 2=C 3=B                     → i=z 2=D* 3=C 4=B           → 1=Z* 2=D 3=C
  3×1: 1=D* 2=C 3=B 4=a                     → i=z 2=D* 3=C 4=B           → 1=Z* 2=D 3=C

copies was raised
  5×1: 1=C* 2=B 3=A                         → i=z 2=C* 3=B 4=A           → 1=Z* 2=C 3=B 4=A
  3×2: i=A 1=B*                             → i=z 2=B* 3=A               → 1=Z* 2=B 3=A
  3×1: i=A 2=B*                             → i=z 2=B* 3=A               → 1=Z* 2=B 3=A

an admin removed images: gaps close as sets move up
  3×1: 1=C* 3=A                             → i=z 2=C* 3=A               → 1=Z* 2=C 3=A
  3×1: 2=B* 3=A                             → i=z 2=B* 3=A               → 1=Z* 2=B 3=A
  3×1: 3=A*                                 → i=z 3=A*                   → 1=Z* 3=A
  3×2: 1=C.0 2=B 3=A *1C                    → i=z 2=B* 3=A               → 1=Z* 2=B 3=A

a disk appeared, or went away
  3×2: 1=C[0]* 2=B[0] 3=A[0]                → i=z 2=C[0]* 3=B[0]         → 1=Z* 2=C[0] 3=B[0]
  3×1: 1=C[01]* 2=B[01] 3=A[01]             → i=z 2=C[01]* 3=B[01]       → 1=Z* 2=C[01] 3=B[01]
  2×1: 1=B[1]* 2=A[1]                       → i=z 2=B[1]*                → 1=Z* 2=B[1]

copies 1: the only set keeps its name until the new one is proven
  1×2: nothing                              → i=z                        → 1=Z*
  1×2: 1=A*                                 → i=z 1=A*                   → 1=Z*
  1×2: i=b 1=A*                             → i=z 1=A*                   → 1=Z*
  1×2: i=B 1=A*                             → i=z 1=B*                   → 1=Z*
  1×2: i=B.1 1=B.0 2=A*                     → i=z 1=B*                   → 1=Z*
  1×2: 1=B* 2=A                             → i=z 1=B*                   → 1=Z*
  1×2: 1=A 2=A.0 *1A                        → i=z 2=A*                   → 1=Z*
  1×2 tight: 1=A*                           → only-copy
  1×2 tight: 1=A.0 *1A                      → i=z                        → 1=Z*
  1×2 tight: 1=B* 2=A                       → i=z 1=B*                   → 1=Z*
  1×2 tight overwrite: 1=A*                 → i=z                        → 1=Z*
  1×2 tight overwrite: i=A                  → i=z                        → 1=Z*
  1×2 overwrite: 1=A*                       → i=z 1=A*                   → 1=Z*

current leads to the newest proven set
  3×1: 1=B 2=A                              → i=z 2=B* 3=A               → 1=Z* 2=B 3=A
  3×1: 1=B 2=A*                             → i=z 2=B* 3=A               → 1=Z* 2=B 3=A
  3×1: 1=B 2=A *3C                          → i=z 2=B* 3=A               → 1=Z* 2=B 3=A
  3×1: 1=b* 2=A                             → i=z 2=b 3=A*               → 1=Z* 2=b 3=A
  3×1: 1=a*                                 → i=z 2=a*                   → 1=Z* 2=a
  3×1: *1A                                  → i=z                        → 1=Z*

what is not ours or not untouched is left alone
  3×2: 1=C* 2=B! 3=A                        → image-modified
  3×2: 1=C* 2=B 3=A.0! 3=A.1                → image-modified
  3×2: 1=C~* 2=B 3=A                        → image-in-use
  3×2: i=d~ 2=B* 3=A                        → image-in-use
  3×2: 1=C* 2=B 3=A @                       → image-in-use
  3×2: 1=C* 2=B 3=?                         → foreign-image
  3×2: i=?.0 1=C* 2=B                       → foreign-image
  3×1: 1=? 2=B* 3=A                         → foreign-image
  1×1: 1=A!* 2=?                            → foreign-image

names that only hands can make are left alone
  3×2: 1=C.0 1=B.1 2=B.0 2=C.1              → state-changed
  3×2: 1=C.0 2=C.1 3=C.0 *1C                → state-changed
`;

/** What happens to a set that was proven while somebody did something by hand: `copies×disks: found → after completion`. */
const COMPLETIONS = `
a set in use is no hindrance and is not pruned
  3×2: i=Z 2=D* 3=C~ 4=B                    → 1=Z* 2=D 3=C~ 4=B
  2×2: i=Z 2=D* 3=C~ 4=B                    → 1=Z* 2=D 3=C~
  2×2: i=Z 2=D* 3=C 4=B!                    → 1=Z* 2=D 4=B!
  1×1: i=Z 2=A!  *2A                        → image-modified
the link stays where somebody boots from it
  3×2: i=Z 2=D~* 3=C                        → image-in-use
  3×2: i=Z 2=D!* 3=C                        → image-modified
  3×2: i=Z 2=D* 3=C @                       → image-in-use
what has to move must be untouched
  1×1: i=Z 1=A~ 2=B*                        → image-in-use
  3×1: i=Z! 2=D*                            → image-modified
  3×1: i=Z 1=? 2=D*                         → foreign-image
doing it again changes nothing
  3×2: 1=Z* 2=D 3=C                         → 1=Z* 2=D 3=C
  3×2: 1=Z 2=D* 3=C                         → 1=Z* 2=D 3=C
  2×2: 1=Z* 2=D 3=C.1                       → 1=Z* 2=D
a set that is not proven is not completed
  3×2: i=z 2=D* 3=C                         → state-changed
  3×2: i=Z.0 2=D* 3=C                       → state-changed
`;

interface Row {
  readonly title: string;
  readonly copies: number;
  readonly disks: number;
  readonly flags: string;
  readonly states: readonly string[];
}

function rows(table: string): Row[] {
  const found: Row[] = [];
  let title = '';
  for (const line of table.split('\n').filter((one) => one.trim() !== '')) {
    const [, copies, disks, flags, rest] = /^ {2}(\d)×(\d)((?: \w+)*): (.*)$/.exec(line) ?? [];
    if (copies === undefined) title = line;
    else found.push({ title, copies: Number(copies), disks: Number(disks), flags: flags ?? '', states: (rest ?? '').split('→').map((state) => state.trim().replace('nothing', '').replaceAll(/ +/g, ' ')) });
  }
  return found;
}

function observe(target: MemoryTarget, row: Row): ReturnType<MemoryTarget['observe']> {
  return target.observe(SERVER, { uuid: UUID, anvil: ANVIL, disks: diskNames(row.disks), copies: row.copies });
}

/** Executes a plan; says the refusal's code if it is one. */
async function follow(target: MemoryTarget, plan: RotationPlan): Promise<string | undefined> {
  if (plan.kind === 'refusal') return plan.code;
  await rotate(target, SERVER, plan.steps);
  return undefined;
}

for (const kind of ['files', 'volumes'] as const satisfies readonly MemoryKind[]) {
  const possible = (row: Row): boolean => {
    const keys = [...parseWorld(row.states[0] ?? '', row.disks, kind).names.values()];
    return kind === 'files' || new Set(keys).size === keys.length; // a logical volume never has two names
  };

  describe(`rotation tables, ${kind}`, () => {
    for (const row of rows(RUNS).filter(possible)) {
      it(`${row.title}: ${String(row.copies)}×${String(row.disks)}${row.flags}: ${row.states.join(' → ')}`, async () => {
        const [found = '', begun, done] = row.states;
        const before = parseWorld(found, row.disks, kind);
        const target = new MemoryTarget(kind, before);
        const plan = planBegin(observe(target, row), {
          intent: intentOf(setOf('z'), generationOf('z'), diskNames(row.disks)), copies: row.copies,
          overwriteOnlyCopy: row.flags.includes('overwrite'), freeBytes: row.flags.includes('tight') ? DISK_BYTES * row.disks - 1 : DISK_BYTES * row.disks,
        });
        const refused = await follow(target, plan);
        assert.equal(refused ?? printWorld(target.world, row.disks), begun);
        if (refused !== undefined) {
          assert.equal(target.world, before, 'a refusal touches nothing');
          return;
        }
        await target.write(setOf('z'));
        assert.equal(await follow(target, planComplete(observe(target, row), setOf('z'), row.copies)), undefined);
        assert.equal(printWorld(target.world, row.disks), done);
      });
    }

    for (const row of rows(COMPLETIONS).filter(possible)) {
      it(`completion: ${row.title}: ${String(row.copies)}×${String(row.disks)}: ${row.states.join(' → ')}`, async () => {
        const target = new MemoryTarget(kind, parseWorld(row.states[0] ?? '', row.disks, kind));
        const refused = await follow(target, planComplete(observe(target, row), setOf('z'), row.copies));
        assert.equal(refused ?? printWorld(target.world, row.disks), row.states[1]);
      });
    }

    it('repairs without beginning anything', async () => {
      const target = new MemoryTarget(kind, parseWorld('i=D 1=C 2=B 3=A *3A', 2, kind));
      assert.equal(await follow(target, planRepair(target.observe(SERVER, { uuid: UUID, anvil: ANVIL, disks: diskNames(2), copies: 3 }))), undefined);
      assert.equal(printWorld(target.world, 2), '1=D* 2=C 3=B 4=A');
    });
  });
}
