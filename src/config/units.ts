/** Sizes and durations as people write them. A number without a unit is never guessed at. */

/** A value that was read, or a better way to write it if one can be seen. */
export type Reading<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly suggestion?: string };

const SIZES: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40,
  kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12,
};

const DURATIONS: Readonly<Record<string, number>> = { s: 1, min: 60, h: 3600, d: 86_400 };

/** What people write for a duration's unit, and the word that is read. */
const DURATION_WORDS: Readonly<Record<string, string>> = {
  '': 's', sec: 's', secs: 's', second: 's', seconds: 's', m: 'min', mins: 'min', minute: 'min', minutes: 'min',
  hr: 'h', hrs: 'h', hour: 'h', hours: 'h', day: 'd', days: 'd', S: 's', M: 'min', MIN: 'min', H: 'h', D: 'd',
};

/** `10GiB` → bytes. Units: B, KiB, MiB, GiB, TiB (powers of 1024), kB, MB, GB, TB (powers of 1000). */
export function readSize(value: unknown): Reading<number> {
  const { amount, unit } = split(value);
  if (amount === undefined) return { ok: false };
  const factor = Object.hasOwn(SIZES, unit) ? SIZES[unit] : undefined;
  if (factor !== undefined) return { ok: true, value: Math.round(amount * factor) };
  const prefix = /^([kmgt])(i?b?|bytes?)?(\/s)?$/i.exec(unit)?.[1];
  if (prefix !== undefined) return { ok: false, suggestion: `${String(amount)}${prefix.toUpperCase()}iB` };
  return unit === '' ? { ok: false, suggestion: `${String(amount)}MiB` } : { ok: false };
}

/** `40MiB/s` → bytes per second. */
export function readRate(value: unknown): Reading<number> {
  const { amount, unit } = split(value);
  if (amount === undefined) return { ok: false };
  const size = readSize(`${String(amount)}${unit.replace(/\/s$/, '')}`);
  if (!size.ok) return size.suggestion === undefined ? size : { ok: false, suggestion: `${size.suggestion}/s` };
  return unit.endsWith('/s') ? size : { ok: false, suggestion: `${String(amount)}${unit}/s` };
}

/** `90s`, `5min`, `6h`, `30d`, `1h30min` → seconds. */
export function readDuration(value: unknown): Reading<number> {
  if (typeof value === 'string' && /^(\d+(\.\d+)?\s*(s|min|h|d)\s*)+$/.test(value)) {
    let seconds = 0;
    for (const [, amount, unit] of value.matchAll(/(\d+(?:\.\d+)?)\s*(s|min|h|d)/g)) seconds += Number(amount) * (DURATIONS[unit ?? ''] ?? 0);
    return { ok: true, value: Math.round(seconds) };
  }
  const { amount, unit } = split(value);
  if (amount === undefined) return { ok: false };
  const word = Object.hasOwn(DURATION_WORDS, unit) ? DURATION_WORDS[unit] : undefined;
  return word === undefined ? { ok: false } : { ok: false, suggestion: `${String(amount)}${word}` };
}

/** `08:00` → minutes after midnight; `24:00` is the end of the day. */
export function readTimeOfDay(value: unknown): Reading<number> {
  const match = typeof value === 'string' ? /^(\d\d):(\d\d)$/.exec(value) : null;
  const minute = Number(match?.[1]) * 60 + Number(match?.[2]);
  if (match !== null && Number(match[2]) < 60 && minute <= 24 * 60) return { ok: true, value: minute };
  const [, hour = '', minutes = '00', half] = /^(\d{1,2})(?:[:.h](\d\d))? ?(am|pm)?$/i.exec(typeof value === 'number' || typeof value === 'string' ? String(value) : '') ?? [];
  const meant = half === undefined ? Number(hour) : Number(hour) % 12 + (half.toLowerCase() === 'pm' ? 12 : 0);
  return hour === '' || meant * 60 + Number(minutes) > 24 * 60 || Number(minutes) > 59 ? { ok: false } : { ok: false, suggestion: `${String(meant).padStart(2, '0')}:${minutes}` };
}

function split(value: unknown): { readonly amount: number | undefined; readonly unit: string } {
  if (typeof value === 'number' && value >= 0) return { amount: value, unit: '' };
  const match = typeof value === 'string' ? /^(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z/]*)$/.exec(value.trim()) : null;
  return match === null ? { amount: undefined, unit: '' } : { amount: Number(match[1]), unit: match[2] ?? '' };
}
