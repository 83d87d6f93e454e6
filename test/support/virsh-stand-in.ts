import { chmod, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * A tiny real program named virsh that keeps domains as directories of files, placed first on PATH where only its answers and the calls made
 * to it matter. The lab has the real one.
 */
const SCRIPT = `#!/bin/sh
shift 3 # --quiet --connect URI
command=$1; shift
echo "$command $*" >> "$STAND_IN/log"
if test -e "$STAND_IN/unreachable"; then echo "error: failed to connect to the hypervisor" >&2; exit 1; fi
for word in "$@"; do case $word in --domain=*) domain=\${word#--domain=};; esac; done
at=$STAND_IN/domains/$domain
case $command in
  create) at=$STAND_IN/domains/$(sed -n 's:.*<uuid>\\(.*\\)</uuid>.*:\\1:p' "$1"); mkdir -p "$at"; echo running > "$at/state"; cp "$1" "$at/created"; exit 0;;
  list) exit 0;;
esac
if ! test -e "$at/state"; then echo "error: failed to get domain '$domain'" >&2; exit 1; fi
state=$(cat "$at/state")
running() { if test "$state" = 'shut off'; then echo 'error: Requested operation is not valid: domain is not running' >&2; exit 1; fi; }
case $command in
  dominfo) printf 'Name:           %s\\nUUID:           %s\\nState:          %s\\nPersistent:     yes\\nManaged save:   no\\n' "$(cat "$at/name")" "$(cat "$at/uuid")" "$state";;
  domstate) echo "$state ($(cat "$at/reason" 2>/dev/null || echo user))";;
  start) if test "$state" != 'shut off'; then echo 'error: Domain is already active' >&2; exit 1; fi
    if test -e "$at/no-start"; then echo 'error: no memory for it' >&2; exit 1; fi; echo running > "$at/state";;
  resume) running; echo running > "$at/state"; rm -f "$at/reason";;
  qemu-agent-command) running
    if test -e "$at/silent"; then echo 'error: Guest agent is not responding: timeout' >&2; exit 1; fi
    case $* in *thaw*) rm -f "$at/frozen";; esac; echo '{"return":0}';;
  backup-dumpxml) running; if test -e "$at/backup"; then cat "$at/backup"; else echo 'error: Domain backup job id not found: no domain backup job present' >&2; exit 1; fi;;
  domjobabort) running; if test -e "$at/no-abort"; then echo 'error: internal error' >&2; exit 1; fi; rm -f "$at/backup" "$at/job";;
  domjobinfo) running; if test -e "$at/job"; then printf 'Job type:         Unbounded\\nOperation:        %s\\n' "$(cat "$at/job")"; else echo 'Job type:         None'; fi;;
  *) echo "error: unknown command $command" >&2; exit 1;;
esac
`;

/** The same for ssh: answers what the file `peers/<host>` says, or fails to connect. */
const SSH = `#!/bin/sh
while test "$1" != --; do host=$1; shift; done
echo "ssh $host $*" >> "$STAND_IN/log"
if test -e "$STAND_IN/peers/$host"; then cat "$STAND_IN/peers/$host"; else echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255; fi
`;

export class VirshStandIn {
  readonly #directory: string;
  readonly #path = process.env['PATH'];

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** Puts the programs first on PATH; `remove` takes them off again. */
  static async install(directory: string): Promise<VirshStandIn> {
    await mkdir(join(directory, 'bin'), { recursive: true });
    await mkdir(join(directory, 'domains'));
    await mkdir(join(directory, 'peers'));
    for (const [name, script] of [['virsh', SCRIPT], ['ssh', SSH]] as const) {
      await writeFile(join(directory, 'bin', name), script);
      await chmod(join(directory, 'bin', name), 0o755);
    }
    process.env['PATH'] = `${join(directory, 'bin')}:${process.env['PATH'] ?? ''}`;
    process.env['STAND_IN'] = directory;
    return new VirshStandIn(directory);
  }

  async domain(name: string, uuid: string, state: 'running' | 'paused' | 'shut off'): Promise<void> {
    await mkdir(join(this.#directory, 'domains', uuid));
    await symlink(uuid, join(this.#directory, 'domains', name));
    for (const [file, text] of [['name', name], ['uuid', uuid], ['state', state]] as const) await this.set(uuid, file, text);
  }

  async undefine(name: string, uuid: string): Promise<void> {
    for (const entry of [name, uuid]) await rm(join(this.#directory, 'domains', entry), { recursive: true, force: true });
  }

  /** Where one of the files is that a domain is kept in. */
  file(uuid: string, file: string): string {
    return join(this.#directory, 'domains', uuid, file);
  }

  async set(uuid: string, file: string, text: string): Promise<void> {
    await writeFile(this.file(uuid, file), text);
  }

  async unset(uuid: string, file: string): Promise<void> {
    await rm(join(this.#directory, 'domains', uuid, file), { force: true });
  }

  async get(uuid: string, file: string): Promise<string | undefined> {
    return (await readFile(join(this.#directory, 'domains', uuid, file), 'utf8').catch(() => undefined))?.trim();
  }

  /** What a peer answers when it is asked whether a server runs there; undefined: it can't be reached. */
  async peer(host: string, answer: object | undefined): Promise<void> {
    if (answer === undefined) await rm(join(this.#directory, 'peers', host), { force: true });
    else await writeFile(join(this.#directory, 'peers', host), JSON.stringify(answer));
  }

  async reachable(yes: boolean): Promise<void> {
    if (yes) await rm(join(this.#directory, 'unreachable'), { force: true });
    else await writeFile(join(this.#directory, 'unreachable'), '');
  }

  /** The commands that were run, without their arguments. */
  async calls(): Promise<string[]> {
    const log = await readFile(join(this.#directory, 'log'), 'utf8').catch(() => '');
    return log.split('\n').filter((line) => line !== '').map((line) => line.split(' ')[0] ?? '');
  }

  remove(): void {
    process.env['PATH'] = this.#path;
    delete process.env['STAND_IN'];
  }
}
