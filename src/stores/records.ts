import { z } from 'zod';
import { DrError } from '../model/errors.js';
import { SET_ID, type Manifest, type SetIntent } from '../model/image-set.js';
import { checkNamePart } from '../model/names.js';

/** The JSON of intents and manifests, checked when it is read: a record that does not hold together proves nothing. */

const part = (kind: 'server' | 'disk'): z.ZodString => z.string().check((context) => {
  try {
    checkNamePart(kind, context.value);
  } catch (error) {
    context.issues.push({ code: 'custom', message: DrError.from(error).message, input: context.value });
  }
});
const bytes = z.number().int().nonnegative();
const time = z.iso.datetime();

const about = {
  version: z.literal(1),
  set: z.string().regex(SET_ID),
  generation: z.number().int().positive(),
  anvil: z.string(),
  job: z.string(),
  server: part('server'),
  uuid: z.string(),
  node: z.string(),
  nodes: z.array(z.string()).optional(),
  capture: z.enum(['cold', 'live']),
  consistency: z.enum(['clean', 'frozen', 'crash']),
  capturedAt: time,
};

const intentSchema = z.object({
  ...about,
  disks: z.array(z.object({ disk: part('disk'), target: z.string(), bytes })).min(1),
});

const manifestSchema = z.object({
  ...about,
  completedAt: time,
  disks: z.array(z.object({
    disk: part('disk'), target: z.string(), bytes,
    digest: z.string().regex(/^sha256-[0-9A-Za-z]+:[0-9a-f]{64}$/),
    proof: z.enum(['device', 'cached']),
    provenSince: time,
    touched: z.union([
      z.object({ inode: z.string(), bytes, mtime: z.string() }),
      z.object({ volume: z.string(), bytes, counted: z.object({ boot: z.string(), device: z.string(), writes: z.string() }).optional() }),
    ]),
  })).min(1),
  attachments: z.record(z.string(), z.string()),
});

/** Throws `manifest-damaged` with the place in the record that is wrong. */
export function parseIntent(value: unknown, path: string): SetIntent {
  return parse(intentSchema, value, path);
}

/** Throws `manifest-damaged` with the place in the record that is wrong. */
export function parseManifest(value: unknown, path: string): Manifest {
  return parse(manifestSchema, value, path);
}

function parse<T>(schema: z.ZodType<T>, value: unknown, path: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new DrError('manifest-damaged', `${path} is damaged: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not what was written'}`,
    'The images are untouched but no longer count as proven; run dr verify, and the job again.');
}
