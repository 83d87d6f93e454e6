import { DrError } from '../model/errors.js';

/**
 * `dr agent …`: what runs at the far end of ssh; not for people. It is started often, so it is reached without building the other commands,
 * and each mode loads only itself. Resolves with the exit status.
 */
export async function agent(args: readonly string[]): Promise<number> {
  const [mode, ...rest] = args;
  switch (mode) {
    case undefined: {
      const { serve } = await import('../agent/serve.js');
      await serve(process.stdin, process.stdout);
      return 0;
    }
    default:
      throw new DrError('usage', `dr agent does not know ${[mode, ...rest].join(' ')}`, 'dr agent is started by dr itself; people use the other commands.');
  }
}
