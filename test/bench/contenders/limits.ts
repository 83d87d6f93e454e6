import { remoteCommand } from '../../../src/system/ssh.js';
import { CHECKOUT } from '../../lab/layout.js';
import { MIB, STORE, type Disk, type Ground } from '../ground.js';
import type { Contender } from './contender.js';

/** The parts of the work, each alone: what nobody can beat who does all of it. */
export function limits(ground: Ground, sshOptions: readonly string[]): readonly Contender[] {
  const nothing = (): Promise<void> => Promise.resolve();
  const part = (name: string, run: (disk: Disk) => Promise<number | undefined>): Contender => ({ name, kind: 'limit', forget: nothing, run });
  const readAndHash = async (file: string, bytes: number): Promise<number> =>
    Number(await ground.processes.run(ground.node, process.execPath, [`${CHECKOUT}/build/test/bench/read-and-hash.js`, file, String(bytes)]));
  const ssh = remoteCommand('dr01', ['dd'], ['of=/dev/null', 'bs=1M', 'status=none'], sshOptions);
  const written = `${STORE}/written.raw`;
  return [
    part('reading alone', async ({ path }) => void await ground.processes.run(ground.node, 'dd', [`if=${path}`, 'of=/dev/null', 'bs=1M', 'iflag=direct', 'status=none'])),
    part('hashing alone', ({ bytes }) => readAndHash('-', bytes)),
    part('reading and hashing', ({ path, bytes }) => readAndHash(path, bytes)),
    part('ssh alone', async ({ bytes }) => void await ground.processes.run(ground.node, 'sh',
      ['-c', 'dd if=/dev/zero bs=1M count="$1" status=none | { shift; "$@"; }', 'sh', String(bytes / MIB), ssh.program, ...ssh.args])),
    {
      ...part('writing alone', async ({ bytes }) => void await ground.processes.run(ground.target, 'dd',
        ['if=/dev/zero', `of=${written}`, 'bs=1M', `count=${String(bytes / MIB)}`, 'oflag=direct', 'conv=fsync', 'status=none'])),
      forget: async () => { await ground.target.run('rm', ['-f', '--', written]); },
    },
  ];
}
