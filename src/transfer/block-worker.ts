import { parentPort, workerData } from 'node:worker_threads';
import { perform, type BlockJob, type WorkerPages } from './block-jobs.js';

/** The body of a worker thread. Messages are `[number, job]`; each is answered by `[number, outcome]`. */
const pages = workerData as WorkerPages;

parentPort?.on('message', ([id, job]: readonly [number, BlockJob]) => {
  parentPort?.postMessage([id, perform(job, pages)]);
});
