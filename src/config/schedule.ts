import { Cron } from 'croner';

const NICKNAMES = ['@hourly', '@daily', '@weekly', '@monthly', '@yearly'] as const;

/** Why a schedule can't be used; undefined if it can. Five cron fields, or a nickname such as `@daily`. */
export function scheduleProblem(schedule: string, now: Date): string | undefined {
  const fields = schedule.trim().split(/\s+/);
  if (fields.length === 1 && !(NICKNAMES as readonly string[]).includes(schedule)) {
    return `expected five cron fields (minute hour day month weekday) or one of ${NICKNAMES.join(' ')}, found ${JSON.stringify(schedule)}`;
  }
  if (fields.length !== 1 && fields.length !== 5) {
    return `expected five cron fields (minute hour day month weekday), found ${String(fields.length)} in ${JSON.stringify(schedule)}`;
  }
  try {
    return nextRun(schedule, now) === undefined ? `${JSON.stringify(schedule)} never happens` : undefined;
  } catch (error) {
    const why = (error instanceof Error ? error.message : String(error)).replace(/^CronPattern:\s*/, '');
    return `${JSON.stringify(schedule)} is no valid cron schedule: ${why}`;
  }
}

/** The next moment after `now` that a valid schedule names, in this host's time zone; undefined if there is none. */
export function nextRun(schedule: string, now: Date): Date | undefined {
  return new Cron(schedule).nextRun(now) ?? undefined;
}
