import type { Command } from 'commander';
import { addCancel } from './cancel.js';
import { addCheck } from './check.js';
import { addDefinitions } from './definitions.js';
import { addImages } from './images.js';
import { perform, rootCommand, type Surroundings, type Wrap } from './invocation.js';
import { addPlan } from './plan.js';
import { addRelease } from './release.js';
import { addRun } from './run.js';
import { addStatus } from './status.js';
import { addVerify } from './verify.js';
import type { Terminal } from './terminal.js';

/** The whole of `dr` but `dr agent`: arguments to exit status. Never throws for what people do wrong. */
export function dr(argv: readonly string[], surroundings: Surroundings): Promise<number> {
  return perform(argv, surroundings, (wrap) => program(surroundings.terminal, wrap));
}

function program(terminal: Terminal, wrap: Wrap): Command {
  const root = rootCommand('dr', 'Disaster-recovery images of libvirt servers.', terminal)
    .option('-c, --config <file>', 'the configuration (else $DR_CONFIG, else /etc/dr/dr.yaml)')
    .addHelpText('after', `
Examples:
  dr check                 is everything there that a run needs?
  dr plan web              what would happen
  dr run web               do it
  dr images                what is on the targets

On the day of the disaster, on the target: dr-activate`);
  for (const add of [addCheck, addPlan, addRun, addImages, addVerify, addDefinitions, addStatus, addCancel, addRelease]) add(root, wrap);
  return root;
}
