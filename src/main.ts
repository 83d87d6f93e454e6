import { DrError } from './model/errors.js';

/** `dr`: argv to exit status. This file and main-activate.ts are the only ones that set it. */

const argv = process.argv.slice(2);

if (argv[0] === 'agent') {
  // The far end of ssh: nothing of the rest is loaded.
  const { agent } = await import('./commands/agent.js');
  try {
    process.exitCode = await agent(argv.slice(1));
  } catch (thrown) {
    const error = DrError.from(thrown);
    process.stderr.write(`dr agent: ${error.message}\n`);
    process.exitCode = error.exitStatus;
  }
} else {
  const { dr } = await import('./commands/dr.js');
  const { interruptible } = await import('./commands/interruptible.js');
  process.exitCode = await interruptible((surroundings) => dr(argv, surroundings));
}
