import assert from 'node:assert/strict';
import type { Capture } from '../../src/agent/protocol.js';
import type { ServerSeen } from '../../src/model/server.js';
import type { Guest } from '../lab/guest.js';
import type { Host } from '../lab/host.js';
import type { Lab } from '../lab/lab.js';
import { Hands } from './hands.js';
import { coldParams, digest, diskDigest, eventually, leftovers, nodeOrSkip, see, shutdownParams } from './node.js';

describe('shutting down and cold capture, with real guests', function () {
  this.timeout(60_000);
  let lab: Lab;
  let host: Host;
  let hands: Hands;
  let guest: Guest;
  let server: ServerSeen;

  before(async function () {
    ({ lab, host } = await nodeOrSkip(this, 'capture-cold'));
    guest = await lab.addGuest('node01', { name: 'Web01', disks: [{}, { format: 'qcow2', backing: true }, { sizeMiB: 4 }] });
    await guest.beats(1);
  });
  after(async () => { await (lab as Lab | undefined)?.down(); }); // not up if it was skipped
  beforeEach(async () => {
    hands = await Hands.start(host);
    server = await see(hands, 'Web01');
  });
  afterEach(async function () {
    if ((this as { test?: unknown }).test === undefined) return;
    await hands.end();
    assert.equal(await leftovers(host), '', 'something was left behind');
    if (await guest.state() !== 'running') await guest.start();
  });

  const forceOff = (): Promise<unknown> => hands.call('capture.shutDown', shutdownParams(server, { timeoutSeconds: 1, onTimeout: 'force-off' }));
  const path = (capture: Capture, target: string): string => capture.sources[target]?.path ?? assert.fail(target);
  const close = (capture: Capture): Promise<unknown> => hands.call('capture.close', { id: capture.id });

  it('reads a server that was forced off, and boots it again', async () => {
    await forceOff();
    assert.equal(await guest.state(), 'shut off');
    const [start] = await hands.call('test.owed');
    assert.ok(start?.debt.kind === 'start' && start.debt.wentDown && start.debt.xml.includes('<name>Web01</name>'));
    const capture = await hands.call('capture.openCold', coldParams(server));
    assert.equal(capture.consistency, 'clean');
    assert.equal(path(capture, 'vda'), server.disks[0]?.path, 'a raw file is read where it is');
    for (const disk of server.disks) assert.equal(await digest(host, path(capture, disk.target)), await diskDigest(host, disk.path ?? '', disk.format));
    assert.deepEqual(await close(capture), { verdict: 'valid' });
    await hands.call('capture.bootAgain', { server: 'Web01', uuid: server.uuid });
    assert.equal(await guest.state(), 'running');
    assert.deepEqual(await hands.call('test.owed'), []);
    await hands.call('capture.bootAgain', { server: 'Web01', uuid: server.uuid }); // twice is fine
  });

  it('is void when the server is started while it is read, which nothing keeps it from', async () => {
    await guest.destroy();
    const capture = await hands.call('capture.openCold', coldParams(server));
    await guest.start();
    const verdict = await hands.call('capture.close', { id: capture.id });
    assert.ok(verdict.verdict === 'void' && verdict.reason.includes('was started'), JSON.stringify(verdict));
  });

  it('is void when the server ran in between and is off again', async () => {
    await guest.destroy();
    const capture = await hands.call('capture.openCold', coldParams(server));
    await guest.start();
    await guest.beats(1);
    await guest.destroy();
    const verdict = await hands.call('capture.close', { id: capture.id });
    assert.ok(verdict.verdict === 'void' && verdict.reason.includes('was written to'), JSON.stringify(verdict));
  });

  it('refuses and voids what another process writes to, and suffers readers', async () => {
    await guest.destroy();
    const file = server.disks[0]?.path ?? '';
    const writer = await host.spawn('sh', ['-c', 'exec 3<> "$1"; exec sleep 60', 'sh', file]);
    await eventually('a writer', 5, () => hands.call('capture.openCold', coldParams(server)).then(close, (error: unknown) => error), (error) =>
      error instanceof Error && 'code' in error && error.code === 'state-changed' && error.message.includes('open for writing'));
    await writer.kill('SIGKILL');
    await writer.exit;
    const reader = await host.spawn('sh', ['-c', 'exec 3< "$1"; exec sleep 60', 'sh', file]);
    const capture = await hands.call('capture.openCold', coldParams(server));
    assert.deepEqual(await close(capture), { verdict: 'valid' });
    await reader.kill('SIGKILL');
    const second = await hands.call('capture.openCold', coldParams(server));
    await host.run('touch', [file]);
    assert.equal((await hands.call('capture.close', { id: second.id })).verdict, 'void');
  });

  it('times out when the guest ignores the request, and starts it when it goes down after all', async () => {
    await assert.rejects(hands.call('capture.shutDown', shutdownParams(server, { timeoutSeconds: 1 })), { code: 'shutdown-timeout', message: /It runs on/ });
    assert.equal(await guest.state(), 'running');
    await hands.call('capture.bootAgain', { server: 'Web01', uuid: server.uuid });
    const [watch] = await hands.call('test.owed');
    assert.ok(watch?.debt.kind === 'start' && !watch.debt.wentDown, 'it goes on being watched');
    await hands.started.kill('SIGKILL');
    await new Promise((resolve) => { setTimeout(resolve, 500); });
    await guest.destroy();
    await eventually('the start', 30, () => guest.state(), (state) => state === 'running');
    await eventually('payment', 10, () => leftovers(host), (left) => left === '');
  });

  it('brings a server back when its session ends without a word', async () => {
    await forceOff();
    await hands.call('capture.openCold', coldParams(server));
    await hands.started.kill('SIGKILL');
    await eventually('the start', 30, () => guest.state(), (state) => state === 'running');
    await eventually('payment', 10, () => leftovers(host), (left) => left === '');
  });

  it('refuses a server that is off, gone or busy, and owes nothing then', async () => {
    await guest.destroy();
    await assert.rejects(hands.call('capture.shutDown', shutdownParams(server)), { code: 'state-changed', message: /is off already/ });
    await assert.rejects(hands.call('capture.shutDown', shutdownParams({ ...server, uuid: '00000000-0000-4000-8000-000000000000' })), { code: 'server-unknown' });
    assert.deepEqual(await hands.call('test.owed'), []);
    await hands.call('capture.bootAgain', { server: 'Web01', uuid: server.uuid });
    assert.equal(await guest.state(), 'shut off', 'what was off stays off');
  });

  it('uses the commands that replace virsh, and watches a server whose command failed', async () => {
    await hands.call('capture.shutDown', shutdownParams(server, { shutdownCommand: ['virsh', 'destroy', '{server}'], startCommand: ['sh', '-c', 'virsh start "$1" && touch /tmp/by-command', 'sh', '{server}'] }));
    assert.equal(await guest.state(), 'shut off');
    await hands.call('capture.bootAgain', { server: 'Web01', uuid: server.uuid });
    assert.ok(await host.exists('/tmp/by-command'));
    await assert.rejects(hands.call('capture.shutDown', shutdownParams(server, { shutdownCommand: ['false'], lateWatchSeconds: 0, timeoutSeconds: 1 })), { code: 'capture-failed' });
    assert.equal((await hands.call('test.owed')).length, 1);
    await eventually('the end of the watch', 10, async () => { await hands.call('capture.bootAgain', { server: 'Web01', uuid: server.uuid }); return hands.call('test.owed'); }, (owed) => owed.length === 0);
  });

  it('recreates a transient domain, which vanishes with its shutdown', async () => {
    const other = await lab.addGuest('node01', { name: 'Temp01', persistent: false });
    const seen = await see(hands, 'Temp01');
    await hands.call('capture.shutDown', shutdownParams(seen, { timeoutSeconds: 1, onTimeout: 'force-off' }));
    assert.equal(await other.state(), 'absent');
    const capture = await hands.call('capture.openCold', coldParams(seen));
    assert.deepEqual(await close(capture), { verdict: 'valid' });
    await hands.call('capture.bootAgain', { server: 'Temp01', uuid: seen.uuid });
    assert.equal(await other.state(), 'running');
    await other.destroy();
  });

  it('shuts a guest down by its power button', async () => {
    const linux = await lab.addGuest('node01', { name: 'Db01', kind: 'linux' });
    await linux.last();
    const seen = await see(hands, 'Db01');
    await hands.call('capture.shutDown', shutdownParams(seen));
    const capture = await hands.call('capture.openCold', coldParams(seen));
    await host.run('e2fsck', ['-fn', path(capture, 'vdb')]);
    assert.deepEqual(await close(capture), { verdict: 'valid' });
    await hands.call('capture.bootAgain', { server: 'Db01', uuid: seen.uuid });
    assert.equal(await linux.state(), 'running');
    await linux.destroy();
  });

  it('stops waiting when it is cancelled; the server is watched', async () => {
    const shutting = hands.call('capture.shutDown', shutdownParams(server, { lateWatchSeconds: 0, timeoutSeconds: 2 }));
    setTimeout(() => { hands.cancel(hands.last); }, 500);
    await assert.rejects(shutting, { code: 'cancelled' });
    await eventually('the end of the watch', 10, async () => { await hands.call('capture.bootAgain', { server: 'Web01', uuid: server.uuid }); return hands.call('test.owed'); }, (owed) => owed.length === 0);
  });

  it('brings UEFI variables and TPM state along', async () => {
    await guest.destroy();
    await host.run('sh', ['-c', 'mkdir -p "/var/lib/libvirt/swtpm/$1/tpm2" && echo secret > "/var/lib/libvirt/swtpm/$1/tpm2/tpm2-00.permall" && printf vars > /var/lib/libvirt/vars.fd', 'sh', server.uuid]);
    const capture = await hands.call('capture.openCold', { ...coldParams(server), tpm: true, nvram: '/var/lib/libvirt/vars.fd' });
    assert.equal(Buffer.from(capture.nvram ?? '', 'base64').toString(), 'vars');
    const { stdout } = await host.run('sh', ['-c', 'base64 -d | tar -xOf - ./tpm2/tpm2-00.permall'], { input: capture.tpm ?? '' });
    assert.equal(stdout, 'secret\n');
    await close(capture);
    const without = await hands.call('capture.openCold', { ...coldParams(server), uuid: server.uuid, nvram: '/var/lib/libvirt/never-started.fd' });
    assert.equal(without.nvram, undefined);
    await close(without);
  });

  it('says that a server with a managed save was not at rest', async () => {
    await host.run('virsh', ['managedsave', 'Web01']);
    const capture = await hands.call('capture.openCold', coldParams(server));
    assert.equal(capture.consistency, 'crash');
    assert.deepEqual(await close(capture), { verdict: 'valid' });
  });
});
