import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { run, start } from '../../src/system/run.js';
import { started, type GuestHost } from '../lab/host.js';

/** The host that the tests themselves run on, as the lab's guests and hands see a host. */
export const thisHost: GuestHost = {
  name: 'here',
  run,
  spawn: (program, args, { env, stdin = 'ignore' } = {}) => {
    const child = start(program, args, { stdio: [stdin, 'pipe', 'pipe'], ...(env === undefined ? {} : { env }) });
    return started(child, () => Promise.resolve(child.pid), (pid, signal) => {
      try {
        process.kill(pid, signal);
      } catch {
        // it has ended
      }
      return Promise.resolve();
    });
  },
  writeFile: async (path, content, mode = 0o644) => {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
    await chmod(path, mode);
  },
  readFile: (path) => readFile(path, 'utf8'),
};
