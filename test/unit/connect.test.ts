import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from '../../src/agent/connect.js';
import { PROTOCOL } from '../../src/agent/protocol.js';
import { DrError } from '../../src/model/errors.js';

/** The head's end of a connection, with an `ssh` on the PATH that behaves badly. */
describe('connecting to a host', () => {
  const path = process.env['PATH'] ?? '';
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'dr-connect-'));
    process.env['PATH'] = `${directory}:${path}`;
  });
  afterEach(async () => {
    process.env['PATH'] = path;
    await rm(directory, { recursive: true });
  });

  const failure = async (ssh: string): Promise<DrError> => {
    await writeFile(join(directory, 'ssh'), `#!/bin/sh\n${ssh}\n`);
    await chmod(join(directory, 'ssh'), 0o755);
    const connecting = connect({ host: 'an-a01n01', agentCommand: ['dr'] }, 'test').then(() => undefined, (error: unknown) => error);
    // As if this host were busy: whatever ssh does at once it has done before the first word is written to it.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
    const thrown = await connecting;
    assert.ok(thrown instanceof DrError);
    return thrown;
  };

  it('survives a connection that ends before anything could be written to it', async () => {
    const uncaught: unknown[] = [];
    const note = (reason: unknown): void => { uncaught.push(reason); };
    process.on('unhandledRejection', note);
    const { code, message } = await failure('echo "ssh: no route to host" >&2; exec 0<&-; sleep 1; exit 255');
    assert.equal(code, 'unreachable');
    assert.match(message, /an-a01n01 can't be reached: ssh: no route to host\. Nothing was touched/);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
    process.off('unhandledRejection', note);
    assert.deepEqual(uncaught, [], 'outside of tests this ends the process');
  });

  it('says of an agent that speaks another protocol that it does', async () => {
    const answer = JSON.stringify({ jsonrpc: '2.0', id: 0, result: { protocol: 9999, version: '99.0.0', hostname: 'x', bootId: 'x' } });
    const { code, message } = await failure(`dd bs=1 count=1 > /dev/null 2>&1; printf 'Content-Length: ${String(answer.length)}\\r\\n\\r\\n%s' '${answer}'; cat > /dev/null`);
    assert.equal(code, 'protocol-version');
    assert.match(message, /an-a01n01 speaks protocol 9999 \(version 99\.0\.0\), this host \d+\. Nothing was touched/);
  });

  it('waits for an agent to let go of everything, also when its last words are overtaken by the end of the connection', async () => {
    const answer = JSON.stringify({ jsonrpc: '2.0', id: 0, result: { protocol: PROTOCOL, version: '1', hostname: 'x', bootId: 'x' } });
    await writeFile(join(directory, 'ssh'), `#!/bin/sh\nprintf 'Content-Length: ${String(answer.length)}\\r\\n\\r\\n%s' '${answer}'; cat > /dev/null; sleep 1\n`);
    await chmod(join(directory, 'ssh'), 0o755);
    const agent = await connect({ host: 'an-a01n01', agentCommand: ['dr'] }, 'test');
    const began = performance.now();
    const unanswered = agent.call('owed', {}).catch((error: unknown) => error); // on its way when the connection is closed
    await agent.close();
    assert.ok(performance.now() - began >= 900, 'the agent was not waited for');
    assert.ok(await unanswered instanceof DrError);
  });
});
