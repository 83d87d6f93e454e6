import { createHash } from 'node:crypto';
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Worker, isMainThread, workerData } from 'node:worker_threads';
import { alignedBuffer } from '../../src/system/aligned.js';

/**
 * Reads a file past the page cache and hashes it, a MiB at a time, on all cores, and does nothing else: `read-and-hash FILE BYTES`. Without a file
 * (`-`) it hashes only. Prints the seconds it took, without the start of the program.
 */

interface Share {
  readonly file: string;
  readonly bytes: number;
  readonly first: number;
  readonly step: number;
}

const BLOCK = 2 ** 20;

if (isMainThread) {
  const [file = '-', bytes = '0'] = process.argv.slice(2);
  const step = availableParallelism();
  const began = performance.now();
  await Promise.all(Array.from({ length: step }, (_, first) => new Promise((resolve, reject) => {
    new Worker(new URL(import.meta.url), { workerData: { file, bytes: Number(bytes), first, step } satisfies Share }).once('error', reject).once('exit', resolve);
  })));
  process.stdout.write(`${String((performance.now() - began) / 1000)}\n`);
} else {
  work(workerData as Share);
}

function work({ file, bytes, first, step }: Share): void {
  const block = alignedBuffer(BLOCK);
  const fd = file === '-' ? undefined : openSync(file, constants.O_RDONLY | constants.O_DIRECT);
  for (let at = first * BLOCK; at < bytes; at += step * BLOCK) {
    if (fd !== undefined) readSync(fd, block, 0, BLOCK, at);
    createHash('sha256').update(block).digest();
  }
  if (fd !== undefined) closeSync(fd);
}
