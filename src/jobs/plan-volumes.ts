import type { TargetConfig } from '../model/config.js';
import { DrError } from '../model/errors.js';
import type { SpacePart } from '../model/host.js';
import { imageName } from '../model/names.js';
import type { RotationStep, ServerOnTarget } from '../model/rotation.js';
import { volumeProblem } from '../model/volume-names.js';
import { meet, parsePlaces, type Demand } from '../stores/volume-choice.js';
import type { LocatedServer } from './locate.js';

/** What planning asks of stores that are volume groups. Pure. */

/** Throws `name-invalid`: a name that LVM refuses would else be found out when the oldest copy has been given up for the new one. */
export function checkImageNames(at: LocatedServer, target: TargetConfig): void {
  if (!target.store.startsWith('vg:')) return;
  for (const { vg } of parsePlaces(target.store)) {
    for (const { disk, target: device } of at.disks) {
      const name = imageName(at.server, disk, 'incomplete');
      const problem = volumeProblem(vg, name);
      if (problem === undefined) continue;
      throw new DrError('name-invalid', `cannot image ${at.server} to ${target.name}: the image of its disk ${device} would be the logical volume ${name} in ${vg}: ${problem}. Nothing was touched.`,
        `Give the disk another name in the job: disk_names: {${at.server}/${device}: another-name}; or keep this server in another store.`);
    }
  }
}

/** What the parts of a store have left after the steps and the writing; `lacking`: bytes of the first image that finds no room in any one of them. */
export function roomIn(parts: readonly SpacePart[], steps: readonly RotationStep[], { images }: ServerOnTarget): { readonly left: readonly SpacePart[]; readonly lacking?: number } {
  const wanted = new Map(steps.flatMap((step) => step.kind === 'begin' ? step.intent.disks.map(({ disk, bytes }) => [disk, bytes] as const) : []));
  const imageOf = (set: string, disk: string) => images.find((image) => image.identity?.set === set && image.disk === disk);
  const demands = steps.flatMap((step): Demand[] => {
    if (step.kind === 'allocate') return [{ kind: 'allocate', bytes: step.bytes }];
    if (step.kind === 'remove') {
      const image = imageOf(step.set, step.disk);
      return image === undefined ? [] : [{ kind: 'remove', part: image.part ?? '', has: image.allocatedBytes }];
    }
    return step.kind !== 'begin' ? [] : step.recycle.flatMap(({ set, disk }) => {
      const image = imageOf(set, disk);
      return image === undefined ? [] : [{ kind: 'resize', part: image.part ?? '', has: image.allocatedBytes, bytes: wanted.get(disk) ?? image.bytes }];
    });
  });
  const { left, lacking } = meet(parts, [...demands.filter(({ kind }) => kind === 'remove'), ...demands.filter(({ kind }) => kind !== 'remove')]);
  return lacking === undefined || lacking.kind === 'remove' ? { left } : { left, lacking: lacking.bytes };
}
