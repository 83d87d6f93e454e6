import { connect } from 'node:net';
import type { Readable, Writable } from 'node:stream';

/**
 * A long way to go: `delay HOST PORT MS`, as ssh's ProxyCommand, passes everything on, each way so many milliseconds late. Not every kernel has
 * netem, which would do it for all programs.
 */

const [host = '', port = '0', ms = '0'] = process.argv.slice(2);

const socket = connect({ host, port: Number(port), noDelay: true });
socket.once('error', () => process.exit(1)); // ssh says that the connection was closed
late(process.stdin, socket);
late(socket, process.stdout);

/** Timers of one length fire in the order they were set. */
function late(from: Readable, to: Writable): void {
  from.on('data', (chunk: Buffer) => setTimeout(() => {
    if (to.write(chunk)) return;
    from.pause();
    to.once('drain', () => from.resume());
  }, Number(ms)));
  from.once('end', () => setTimeout(() => to.end(), Number(ms)));
}
