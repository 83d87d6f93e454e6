import type { ChildProcess } from 'node:child_process';
import { DrError } from '../model/errors.js';
import { ourselves, start } from './run.js';

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

/** The command line that runs our program with `args` on a host. */
export function remoteCommand(host: string, agentCommand: readonly string[], args: readonly string[]): { readonly program: string; readonly args: readonly string[] } {
  if (host === 'local') {
    const [node, main] = ourselves();
    return { program: node, args: [main, ...args] };
  }
  checkWords(host, [...agentCommand, ...args]);
  return { program: 'ssh', args: [...OPTIONS, host, '--', ...agentCommand, ...args] };
}

/**
 * Starts our program on a host with its standard streams as pipes, in a process group of its own so that Ctrl-C in a terminal reaches
 * us and not the connection.
 */
export function startThere(host: string, agentCommand: readonly string[], args: readonly string[]): ChildProcess {
  const command = remoteCommand(host, agentCommand, args);
  return start(command.program, command.args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
}
