/**
 * Every point at which a death would be interesting has a name here. `system/steps.ts` announces them; the
 * fault tests stop a process at each and kill something. A name exists exactly once in the code.
 */
export const STEPS = [
  'obligation-before-write', 'obligation-after-write', 'obligation-before-pay', 'obligation-after-pay',
  'shutdown-before-request', 'shutdown-after-off', 'start-before', 'start-after',
  'freeze-before', 'freeze-after', 'backup-before-begin', 'backup-after-begin', 'thaw-after',
  'suspend-after', 'snapshot-before-create', 'snapshot-after-create', 'base-after-tag',
  'export-before', 'export-after', 'release-before', 'release-after', 'capture-before-close', 'capture-after-close',
  'mount-before', 'mount-after', 'cache-image-before-remove', 'cache-image-after-remove',
  'intent-before', 'intent-after', 'bind-before', 'bind-after',
  'name-before-give', 'name-after-give', 'name-before-take', 'name-after-take',
  'allocate-before', 'allocate-after', 'resize-after',
  'current-before-switch', 'current-after-switch',
  'receive-before-first-write', 'receive-after-block', 'receive-before-proof', 'receive-after-proof', 'send-after-block',
  'manifest-before', 'manifest-after',
  'definition-before-publish', 'definition-after-publish',
  'prune-before', 'prune-after',
  'batch-before-capture', 'batch-after-capture', 'deliver-before', 'deliver-after',
] as const;

export type StepName = (typeof STEPS)[number];
