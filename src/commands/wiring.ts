import type { Activation, Head } from './head.js';

/** The real head behind the commands. Each part is loaded when it is asked for, so that `dr --help` loads none. */

export const head: Head = {
  runJob: async (...args) => (await import('../jobs/run-job.js')).runJob(...args),
  planJobView: async (...args) => (await import('../jobs/plan-view.js')).planJobView(...args),
  checkAll: async (config, job) => (await import('../jobs/check.js')).checkAll(config, job),
  listImages: async (...args) => (await import('../jobs/images.js')).listImages(...args),
  verifyImages: async (...args) => (await import('../jobs/images.js')).verifyImages(...args),
  definitionsReport: async (...args) => (await import('../jobs/definitions-report.js')).definitionsReport(...args),
  previewDefinition: async (...args) => (await import('../jobs/definitions-report.js')).previewDefinition(...args),
  statusReport: async (config) => (await import('../jobs/status.js')).statusReport(config),
  cancelJob: async (...args) => (await import('../jobs/status.js')).cancelJob(...args),
  releaseServer: async (...args) => (await import('../jobs/images.js')).releaseServer(...args),
};

export const activation: Activation = {
  activate: async (...args) => (await import('../activation/activate.js')).activate(...args),
};
