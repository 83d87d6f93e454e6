/** Who is on the ground of the kill tests, and where the store is if it is a file system. */
export const NODE = 'node01';
export const SPARE = 'node02';
export const TARGET = 'dr01';
export const HEAD = 'head01';
export const SERVER = 'Db01';
export const STORE = '/srv/dr';
