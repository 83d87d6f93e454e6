import { parseArgs } from 'node:util';
import { DrError } from '../model/errors.js';

/** How long the last words of an agent may take, in milliseconds. */
const LINGER_MS = 2_000;

/**
 * `dr agent …`: what runs at the far end of ssh; not for people. It is started often, so it is reached without building the other commands,
 * and each mode loads only itself. Resolves with the exit status.
 */
export async function agent(args: readonly string[]): Promise<number> {
  process.umask(0o077);
  const options = modeOf(args);
  if (options.guard !== undefined) await (await import('../capture/guard.js')).runGuard(options.guard);
  else if (options.pay === true) await atBoot();
  else if (options.send === true) return (await import('../transfer/sender.js')).runSender();
  else if (options.receive === true) return (await import('../transfer/receiver.js')).runReceiver();
  else if (options.join === true) return (await import('../transfer/joiner.js')).runJoiner();
  else if (options.running !== undefined) await (await import('../capture/pay-start.js')).printRunning(options.running, options.uuid ?? '', options.uri ?? 'qemu:///system');
  else {
    await (await import('../agent/serve.js')).serve(process.stdin, process.stdout);
    letGoOfStreams();
  }
  return 0;
}

/** Behind a cut link nobody closes our streams, and they would keep this process, which holds nothing any more, for hours. */
function letGoOfStreams(): void {
  process.stdin.destroy();
  setTimeout(() => { process.exit(); }, LINGER_MS).unref(); // what was still to be said can't be said
}

/** Pays what a power cut left owed, and puts right what a target's file systems may have forgotten; one does not wait for the other. */
async function atBoot(): Promise<void> {
  const [pay, hands] = await Promise.all([import('../capture/pay.js'), import('../agent/target-hands.js')]);
  const failed = (await Promise.allSettled([pay.payEverything(), hands.tidyRemembered()])).find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

function modeOf(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        /** Pays what one agent owes, in its place. */
        guard: { type: 'string' },
        /** Pays everything that nobody alive answers for; for boot. */
        pay: { type: 'boolean' },
        send: { type: 'boolean' },
        receive: { type: 'boolean' },
        /** Takes in a further stream for a receiver. */
        join: { type: 'boolean' },
        /** Prints whether a server runs here. */
        running: { type: 'string' },
        uuid: { type: 'string' },
        uri: { type: 'string' },
      },
    }).values;
  } catch (error) {
    throw new DrError('usage', `dr agent does not know ${args.join(' ')}`, 'dr agent is started by dr itself; people use the other commands.', { cause: error });
  }
}
