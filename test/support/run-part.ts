import Mocha from 'mocha';
import SuiteReporter from './suite-reporter.js';

/** Runs the test files named as arguments in this process; started by run-suites. The exit status says whether all passed. */
const mocha = new Mocha({ reporter: SuiteReporter, timeout: 20_000, color: false });
for (const file of process.argv.slice(2)) mocha.addFile(file);
await mocha.loadFilesAsync();
const failures = await new Promise<number>((resolve) => { mocha.run(resolve); });
process.exitCode = failures === 0 ? 0 : 1;

// Whatever a test left open must not hold up the others; it is named, and what it left on the machine is found at the end.
setTimeout(() => {
  process.stdout.write(`  still open after the last test: ${[...new Set(process.getActiveResourcesInfo())].join(', ')}\n`);
  process.exit();
}, 3000).unref();
