import { AGENT_DEAD_MS, runGuard } from '../../src/capture/guard.js';

/** A guard as `dr agent --guard` runs it, with a shorter deadline if GUARD_DEAD_MS says so. */
await runGuard(process.argv[2] ?? '', Number(process.env['GUARD_DEAD_MS'] ?? AGENT_DEAD_MS));
