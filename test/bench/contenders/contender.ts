import type { Disk } from '../ground.js';

/** A piece of a disk: where it begins, and its length, in bytes. */
export type Part = readonly [offset: number, length: number];

/** Who is measured: us, another program that makes the same copy, or a part of the work alone. */
export interface Contender {
  readonly name: string;
  readonly kind: 'limit' | 'ours' | 'peer';
  /** What must be on the PATH of both hosts. */
  readonly needs?: string;
  /** Where its copy is on the receiving host, if it is a plain file that can be compared. */
  readonly copy?: string;
  /** What a reader of the table should know of it. */
  readonly note?: string;
  /** Removes what it has copied before: the next copy is a first one. */
  forget(disk: Disk): Promise<void>;
  /** What was overwritten since the last copy, for who has a disk of his own. */
  changed?(parts: readonly Part[]): Promise<void>;
  /** Copies the disk, durably; gives seconds if it knows better than who waits for it. */
  run(disk: Disk): Promise<number | undefined>;
}
