import { appendFileSync } from 'node:fs';
import mocha from 'mocha';
import { REASON } from './skip.js';

/** Mocha's usual output, and one line of JSON per test for run-suites, as soon as the test has ended: a killed run's results count too. */

export type TestEvent =
  | { readonly kind: 'begin'; readonly title: string }
  | { readonly kind: 'pass'; readonly title: string }
  | { readonly kind: 'fail'; readonly title: string; readonly error: string }
  | { readonly kind: 'skip'; readonly title: string; readonly reason: string }
  | { readonly kind: 'end' };

const { EVENT_RUN_END, EVENT_TEST_BEGIN, EVENT_TEST_FAIL, EVENT_TEST_PASS, EVENT_TEST_PENDING } = mocha.Runner.constants;

export default class SuiteReporter extends mocha.reporters.Spec {
  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    const file = process.env['DR_SUITE_EVENTS'];
    if (file === undefined) return;
    const tell = (event: TestEvent): void => { appendFileSync(file, `${JSON.stringify(event)}\n`); };
    runner.on(EVENT_TEST_BEGIN, (test) => { tell({ kind: 'begin', title: test.fullTitle() }); });
    runner.on(EVENT_TEST_PASS, (test) => { tell({ kind: 'pass', title: test.fullTitle() }); });
    runner.on(EVENT_TEST_FAIL, (test, error: Error) => { tell({ kind: 'fail', title: test.fullTitle(), error: error.message }); });
    runner.on(EVENT_TEST_PENDING, (test) => { tell({ kind: 'skip', title: test.fullTitle(), reason: reasonOf(test) }); });
    runner.on(EVENT_RUN_END, () => { tell({ kind: 'end' }); });
  }
}

/** What skipBecause left on the test or on a suite around it. */
function reasonOf(test: Mocha.Test): string {
  for (let place: Mocha.Test | Mocha.Suite | undefined = test; place !== undefined; place = place.parent) {
    const reason: unknown = Reflect.get(place, REASON);
    if (typeof reason === 'string') return reason;
  }
  return 'see its output';
}
