import { DrError } from '../model/errors.js';
import type { Activation, Head } from './head.js';

/** The real head behind the commands. Each part is loaded when it is asked for, so that `dr --help` loads none. */

const notYet = (what: string) => (): Promise<never> =>
  Promise.reject(new DrError('internal', `${what} is not part of this version`, 'Use another command.'));

export const head: Head = {
  runJob: async (...args) => (await import('../jobs/run-job.js')).runJob(...args),
  planJobView: notYet('dr plan'),
  checkAll: notYet('dr check'),
  listImages: notYet('dr images'),
  verifyImages: notYet('dr verify'),
  definitionsReport: notYet('dr definitions'),
  previewDefinition: notYet('dr definitions preview'),
  statusReport: notYet('dr status'),
  cancelJob: notYet('dr cancel'),
  releaseServer: notYet('dr release'),
};

export const activation: Activation = {
  activate: notYet('dr-activate'),
};
