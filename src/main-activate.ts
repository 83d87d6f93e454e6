import { drActivate } from './commands/activate.js';
import { interruptible } from './commands/interruptible.js';

/** `dr-activate`: argv to exit status. */
process.exitCode = await interruptible((surroundings) => drActivate(process.argv.slice(2), surroundings));
