import { join } from 'node:path';

/** Where this host keeps what dr-engine must remember: obligations, locks, tickets. Durable, 0700. */
export function stateDirectory(...parts: readonly string[]): string {
  return join(process.env['DR_STATE_DIR'] ?? '/var/lib/dr-engine', ...parts);
}
