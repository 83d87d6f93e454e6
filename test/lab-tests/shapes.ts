import { z } from 'zod';

/** What the program prints with --json, exactly as it is documented: a key too many or too few is a failure. */

const Count = z.number().int().nonnegative();
const Time = z.iso.datetime({ precision: 3 }); // RFC 3339, UTC
const Digest = z.string().regex(/^sha256-1MiB:[0-9a-f]{64}$/);
const Set = z.string().regex(/^\d{8}T\d{6}Z-[0-9a-f]{16}$/);

export const ErrorShape = z.strictObject({ code: z.string().min(1), message: z.string().min(1), hint: z.string() });

export const RunShape = z.strictObject({
  job: z.string(),
  outcome: z.enum(['ok', 'partial', 'failed', 'refused', 'cancelled']),
  started_at: Time,
  finished_at: Time,
  servers: z.array(z.strictObject({
    name: z.string(),
    node: z.string().nullable(),
    outcome: z.enum(['ok', 'partial', 'failed', 'refused', 'cancelled', 'skipped']),
    capture: z.enum(['cold', 'live']).nullable(),
    down_ms: Count,
    frozen_ms: Count,
    error: ErrorShape.optional(),
    notes: z.array(z.string()).optional(),
    images: z.array(z.strictObject({
      target: z.string(), name: z.string(), disk: z.string(), bytes: Count, bytes_read: Count, bytes_sent: Count, bytes_written: Count, digest: Digest, cached: z.boolean(),
    })),
  })),
  error: ErrorShape.optional(),
});

export const ImagesShape = z.array(z.strictObject({
  target: z.string(),
  name: z.string(),
  server: z.string(),
  disk: z.string(),
  sequence: z.union([z.number().int().positive(), z.literal('incomplete')]),
  state: z.enum(['complete', 'incomplete', 'unproven', 'modified', 'damaged']),
  bytes: Count,
  set: Set.nullable(),
  captured_at: Time.nullable(),
  digest: Digest.nullable(),
  in_use: z.string().nullable(),
}));

export const ActivationShape = z.strictObject({
  outcome: z.enum(['ok', 'partial', 'failed', 'refused', 'cancelled', 'dry-run']),
  servers: z.array(z.strictObject({
    server: z.string(),
    outcome: z.enum(['booted', 'running', 'refused', 'failed', 'skipped', 'planned']),
    set: Set.nullable(),
    captured_at: Time.nullable(),
    error: ErrorShape.optional(),
  })),
  error: ErrorShape.optional(),
});

export const PlanShape = z.strictObject({
  job: z.string(),
  servers: z.array(z.strictObject({
    name: z.string(), node: z.string().nullable(), capture: z.enum(['cold', 'live']).nullable(),
    disks: z.array(z.strictObject({ disk: z.string(), bytes: Count })), refusal: ErrorShape.optional(),
  })),
  steps: z.array(z.strictObject({ server: z.string().nullable(), host: z.string(), text: z.string().min(1) })),
  notes: z.array(z.string()),
  refusal: ErrorShape.optional(),
});

export const FindingsShape = z.array(z.strictObject({ ok: z.boolean(), level: z.enum(['ok', 'warning', 'error']), host: z.string(), what: z.string().min(1), remedy: z.string() }));

export const VerifyShape = z.array(z.strictObject({
  target: z.string(), name: z.string(), server: z.string(), disk: z.string(), set: Set.nullable(),
  outcome: z.enum(['ok', 'damaged', 'unproven', 'in-use', 'modified']), detail: z.string(),
}));

export const DefinitionsShape = z.array(z.strictObject({
  target: z.string(), server: z.string(), path: z.string(), state: z.enum(['fits', 'drifted', 'missing', 'orphan', 'unknown']), difference: z.array(z.string()),
}));

export const StatusShape = z.strictObject({
  jobs: z.array(z.strictObject({
    job: z.string(),
    last: z.strictObject({ outcome: z.string(), started_at: Time, finished_at: Time }).nullable(),
    running: z.strictObject({ since: Time, host: z.string(), pid: Count }).nullable(),
    next: Time.nullable(),
  })),
  servers: z.array(z.strictObject({ server: z.string(), target: z.string(), captured_at: Time.nullable(), age_ms: Count.nullable(), complete_sets: Count, activated: z.string().nullable() })),
  owed: z.array(z.strictObject({ host: z.string(), what: z.string(), since: Time, stuck: z.string().nullable() })),
  problems: z.array(ErrorShape.extend({ host: z.string() })),
});

export type RunJson = z.infer<typeof RunShape>;
export type ServerJson = RunJson['servers'][number];
export type ImageJson = z.infer<typeof ImagesShape>[number];
