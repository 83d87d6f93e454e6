import { remoteCommand } from '../../../src/system/ssh.js';
import { CHECKOUT } from '../../lab/layout.js';
import { MIB, STORE, type Disk, type Ground } from '../ground.js';
import type { Contender } from './contender.js';

/** The parts of the work, each alone, and those that have to share a machine at once: what nobody can beat who does all of it. */
export function limits(ground: Ground, sshOptions: readonly string[]): readonly Contender[] {
  const nothing = (): Promise<void> => Promise.resolve();
  const part = (name: string, run: (disk: Disk) => Promise<number | undefined>): Contender => ({ name, kind: 'limit', forget: nothing, run });
  const readAndHash = async (file: string, bytes: number): Promise<number> =>
    Number(await ground.processes.run(ground.node, process.execPath, [`${CHECKOUT}/build/test/bench/read-and-hash.js`, file, String(bytes)]));
  const ssh = remoteCommand('dr01', ['dd'], ['of=/dev/null', 'bs=1M', 'status=none'], sshOptions);
  const written = `${STORE}/written.raw`;
  const begin = {
    read: ({ path }: Disk) => ground.processes.run(ground.node, 'dd', [`if=${path}`, 'of=/dev/null', 'bs=1M', 'iflag=direct', 'status=none']),
    send: ({ bytes }: Disk) => ground.processes.run(ground.node, 'sh',
      ['-c', 'dd if=/dev/zero bs=1M count="$1" status=none | { shift; "$@"; }', 'sh', String(bytes / MIB), ssh.program, ...ssh.args]),
    write: ({ bytes }: Disk) => ground.processes.run(ground.target, 'dd',
      ['if=/dev/zero', `of=${written}`, 'bs=1M', `count=${String(bytes / MIB)}`, 'oflag=direct', 'conv=fsync', 'status=none']),
    look: ({ path, bytes }: Disk) => readAndHash(path, bytes),
  };
  const forget = async (): Promise<void> => { await ground.target.run('rm', ['-f', '--', written]); };
  return [
    part('reading alone', async (disk) => void await begin.read(disk)),
    part('hashing alone', ({ bytes }) => readAndHash('-', bytes)),
    part('reading and hashing', begin.look),
    part('that twice, at once', async (disk) => Math.max(...await Promise.all([begin.look(disk), begin.look(disk)]))), // the disk, and what is there of it
    part('ssh alone', async (disk) => void await begin.send(disk)),
    { ...part('writing alone', async (disk) => void await begin.write(disk)), forget },
    // Read and hashed here, sent, written there, read back and hashed.
    { ...part('all parts at once', async (disk) => void await Promise.all([begin.look(disk), begin.send(disk), begin.write(disk), begin.look(disk)])), forget },
  ];
}
