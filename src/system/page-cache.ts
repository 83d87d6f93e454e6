import { runLean } from './run.js';

/** How many bytes of a file are in the page cache now, through fincore(1). */
export async function residentBytes(path: string): Promise<number> {
  const { stdout } = await runLean('fincore', ['--bytes', '--noheadings', '--output', 'RES', '--', path]);
  return Number(stdout.trim() === '' ? '0' : stdout.trim());
}
