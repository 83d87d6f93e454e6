import { spawn } from 'node:child_process';
import { appendFileSync } from 'node:fs';

/**
 * Stands in for ssh(1) on the PATH: runs what follows `--` here, and writes down in $STAMPS when how many bytes passed towards it, one
 * `milliseconds bytes` per line.
 */
const words = process.argv.slice(2);
const [program = '', ...args] = words.slice(words.indexOf('--') + 1);
const child = spawn(program, args, { stdio: ['pipe', 'inherit', 'inherit'] });
const stamps: string[] = [];
process.stdin.on('data', (chunk: Buffer) => {
  stamps.push(`${performance.now().toFixed(1)} ${String(chunk.length)}`);
  if (!child.stdin.write(chunk)) {
    process.stdin.pause();
    child.stdin.once('drain', () => process.stdin.resume());
  }
});
process.stdin.once('end', () => { child.stdin.end(); });
child.stdin.on('error', () => undefined); // it ended: its status says why
child.once('exit', (code) => {
  appendFileSync(process.env['STAMPS'] ?? '/dev/null', `${stamps.join('\n')}\n`);
  process.exit(code ?? 1);
});
