import type { ChildProcess } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { DrError } from '../model/errors.js';
import { ourselves, runLean, start } from './run.js';

/** Starting our own program on another host: ssh(1), so that people's ssh configuration holds, or a child process for `local`. */

/** A word that no remote shell changes; everything we send is made of these. */
const PLAIN_WORD = /^[A-Za-z0-9_./=:@%+,-]+$/;

const OPTIONS = [
  '-T', '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=10', '-o', 'ServerAliveInterval=3', '-o', 'ServerAliveCountMax=3',
  '-o', 'LogLevel=ERROR',
];

/** Throws `config-invalid` for a destination or word that could mean something else to ssh or to a shell. */
export function checkWords(host: string, words: readonly string[]): void {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.@:-]*$/.test(host)) {
    throw new DrError('config-invalid', `${JSON.stringify(host)} is not an ssh destination`, 'Use a host name, user@host, or an alias from ~/.ssh/config.');
  }
  const odd = words.find((word) => !PLAIN_WORD.test(word));
  if (odd !== undefined) {
    throw new DrError('config-invalid', `${JSON.stringify(odd)} can't be part of a command on ${host}: a remote shell could change it`, 'Use plain words, or put the command into a script there.');
  }
}

/** Where processors have instructions for AES these leave the others far behind. */
const FAST_CIPHERS = ['aes128-gcm@openssh.com', 'aes256-gcm@openssh.com'];

/**
 * Options of ssh for a connection that disks go through: the fastest cipher, unless a person or the distribution has chosen some (ssh_config(5)), or this processor
 * has no AES instructions.
 */
export async function bulkOptions(host: string): Promise<readonly string[]> {
  if (host === 'local') return [];
  checkWords(host, []);
  const flags = await readFile('/proc/cpuinfo', 'utf8').catch(() => ''); // no word of AES then
  if (!/^(flags|Features)\s*:.*\baes\b/m.test(flags)) return [];
  const ciphers = async (...args: readonly string[]): Promise<string | undefined> => {
    const said = await runLean('ssh', ['-G', ...args, host], { timeoutMs: 10_000 }).catch(() => undefined); // ssh itself will say what is wrong
    return /^ciphers (.*)$/m.exec(said?.stdout ?? '')?.[1];
  };
  const [chosen, builtIn] = await Promise.all([ciphers(), ciphers('-F', 'none')]);
  if (chosen === undefined || chosen !== builtIn) return [];
  const offered = chosen.split(',');
  // All others after them, for a far end that has neither.
  return ['-o', `Ciphers=${[...FAST_CIPHERS.filter((cipher) => offered.includes(cipher)), ...offered.filter((cipher) => !FAST_CIPHERS.includes(cipher))].join(',')}`];
}

/** The command line that runs our program with `args` on a host; `options` are ssh's. */
export function remoteCommand(host: string, agentCommand: readonly string[], args: readonly string[], options: readonly string[] = []): { readonly program: string; readonly args: readonly string[] } {
  if (host === 'local') {
    const [node, main] = ourselves();
    return { program: node, args: [main, ...args] };
  }
  checkWords(host, [...agentCommand, ...args]);
  return { program: 'ssh', args: [...OPTIONS, ...options, host, '--', ...agentCommand, ...args] };
}

/**
 * Starts our program on a host with its standard streams as pipes (standard input may be a descriptor instead), in a process group of its own so that Ctrl-C in a terminal reaches
 * us and not the connection.
 */
export function startThere(host: string, agentCommand: readonly string[], args: readonly string[], options: readonly string[] = [], stdin: 'pipe' | number = 'pipe'): ChildProcess {
  const command = remoteCommand(host, agentCommand, args, options);
  return start(command.program, command.args, { stdio: [stdin, 'pipe', 'pipe'], detached: true });
}
