import type { SnapshotSize } from '../model/config.js';
import type { ErrorData } from '../model/errors.js';
import type { CacheDrive, DataSource, Finding, Space } from '../model/host.js';
import type { Manifest, SetId, SetIntent } from '../model/image-set.js';
import type { Obligation } from '../model/obligation.js';
import type { RotationStep, ServerOnTarget } from '../model/rotation.js';
import type { DomainState, ServerSeen } from '../model/server.js';
import type { Verified } from '../model/views.js';
import type { LimitStep } from '../transfer/throttle.js';
import type { Start } from '../transfer/ticket.js';

/** The typed requests between head and hands: JSON-RPC 2.0 over the standard streams of `dr agent`. */

/** Head and agent must be of the same version; raised with every change of a request's meaning. */
export const PROTOCOL = 4;

export const HEARTBEAT_MS = 3_000;
export const DEAD_AFTER_MS = 10_000;

/** How an agent of another host is started: ssh(1) destination (or `local`) and the command there. */
export interface Route {
  readonly host: string;
  readonly agentCommand: readonly string[];
}

export interface StoreRef {
  /** `fs:/srv/dr` or `vg:a,b` */
  readonly store: string;
  readonly allocation: 'sparse' | 'full';
  /** Where the `current` links live, e.g. `/shared/dr/current`. */
  readonly current: string;
  /** Where definitions live, e.g. `/shared/definitions`. */
  readonly definitions: string;
}

export interface CaptureDisk {
  readonly target: string;
  readonly path: string;
  readonly format: string;
  readonly bytes: number;
}

/** An open capture: one instant of all disks of a server, readable until it is closed. */
export interface Capture {
  readonly id: string;
  readonly capturedAt: string;
  readonly consistency: SetIntent['consistency'];
  readonly frozenMs: number;
  /** By disk target (`vda`). */
  readonly sources: Readonly<Record<string, DataSource>>;
  /** The definition of that moment, and small state that belongs to the set, base64. */
  readonly xml: string;
  readonly nvram?: string;
  readonly tpm?: string;
}

export interface SendResult {
  readonly digest: string;
  readonly bytesRead: number;
  /** On the wire, framing included. */
  readonly bytesSent: number;
  /** What a person should know of it. */
  readonly note?: string;
}

export interface ReceiveResult {
  readonly digest: string;
  readonly bytesWritten: number;
  readonly proof: 'device' | 'cached';
  /** RFC 3339; when the oldest block was last proven. */
  readonly provenSince: string;
}

export interface DefinitionSeen {
  readonly server: string;
  readonly path: string;
  readonly xml: string;
}

/** method → [parameters, result] */
export interface Requests {
  // every host
  'hello': [{ protocol: number; run: string }, { protocol: number; version: string; hostname: string; bootId: string }];
  /** Held until released or the connection ends. Throws `locked`. */
  'lock': [{ name: string; what: string }, { lock: string }];
  'unlock': [{ lock: string }, Record<string, never>];
  'owed': [Record<string, never>, { obligations: Obligation[] }];
  'check': [{ role: 'node' | 'target'; uri: string; store?: StoreRef; scratch?: string; signature?: string; peers?: Route[] }, { findings: Finding[] }];

  // nodes
  /** `snapshotSize`: it is asked, too, whether the running ones could be captured by LVM snapshots of that size. */
  'node.servers': [{ uri: string; names: string[]; definitions?: string; snapshotSize?: SnapshotSize }, { servers: ServerSeen[] }];
  'node.states': [{ uri: string; names: string[] }, { states: Record<string, { state: DomainState; uuid: string }> }];
  /** `uri`: the libvirt whose guests' disks are never looked into; default `qemu:///system`. */
  'node.cacheDrives': [{ signature: string; uri?: string }, { drives: CacheDrive[] }];
  'capture.shutDown': [{
    uri: string; server: string; uuid: string; timeoutSeconds: number; onTimeout: 'fail' | 'force-off'; lateWatchSeconds: number;
    peers: Route[]; shutdownCommand?: string[]; startCommand?: string[];
  }, { downAt: string }];
  /** Pays the start debt; throws `start-owed` when it can't be known that the server runs nowhere else. */
  'capture.bootAgain': [{ server: string; uuid: string }, { upAt: string }];
  'capture.openCold': [{ uri: string; server: string; uuid: string; xml: string; disks: CaptureDisk[]; nvram?: string; tpm: boolean }, Capture];
  'capture.openLive': [{
    uri: string; server: string; uuid: string; xml: string; disks: CaptureDisk[]; nvram?: string; tpm: boolean;
    scratch: string; scratchReserveBytes: number; maxSeconds: number; keepBase?: boolean;
    /** The cache drives' signature file, `.dr_cache` if absent: scratch never lies on a drive that has it. */
    signature?: string;
  }, Capture];
  /** Like `capture.openLive`, by LVM snapshots of all disks. */
  'capture.openSnapshots': [{
    uri: string; server: string; uuid: string; xml: string; disks: CaptureDisk[]; nvram?: string; tpm: boolean;
    snapshotSize: SnapshotSize; maxSeconds: number; keepBase?: boolean;
  }, Capture];
  /** Lets go of everything the capture held. A cold capture during which the server may have run is void. */
  'capture.close': [{ id: string }, { verdict: 'valid' } | { verdict: 'void'; reason: string; error?: ErrorData }];
  /** Mounts the drive if need be. */
  'cache.open': [{ device: string; signature: string; uri?: string }, { root: string; freeBytes: number }];
  'cache.close': [{ device: string }, Record<string, never>];
  /** A new file's path on an open drive; its removal is owed from here on. `expectedBytes`: how much of it will be written, as far as can be told; all of it if absent. */
  'cache.allocate': [{ device: string; run: string; name: string; bytes: number; expectedBytes?: number }, { path: string }];
  /** Adds block digests (base64) to a file beside one that was allocated, and says where that is. */
  'cache.without': [{ path: string; digests: string }, { without: string }];
  'cache.remove': [{ path: string }, Record<string, never>];

  // data: destination, source, destination
  /** Prepares to receive into an existing file or device of `bytes`. */
  'transfer.offer': [{ path: string; bytes: number; start: Start; readBack: boolean }, { ticket: string; secret: string }];
  /** `streams`: over so many ssh connections from the beginning on; absent, over a further one as long as that helps. `whole`: blocks that differ are sent as they are. */
  'transfer.send': [{ source: DataSource; to: Route; ticket: string; secret: string; limit?: readonly LimitStep[]; streams?: number; whole?: boolean }, SendResult];
  'transfer.accept': [{ ticket: string }, ReceiveResult];
  'transfer.abort': [{ ticket: string }, Record<string, never>];

  // targets
  'store.space': [{ store: StoreRef }, { space: Space }];
  /** Throws `store-unusable` unless images can be kept there; writes a small file of its own to find out. */
  'store.check': [{ store: StoreRef }, Record<string, never>];
  'store.observe': [{ store: StoreRef; servers: { server: string; uuid: string; anvil: string; disks: string[]; copies: number }[] | 'all' }, { servers: ServerOnTarget[]; space: Space }];
  'store.execute': [{ store: StoreRef; server: string; steps: RotationStep[] }, Record<string, never>];
  /** Where the `incomplete` image of a set is written and what its old blocks are known to be. Throws `state-changed` if it is not bound to that set. */
  'store.incomplete': [{ store: StoreRef; server: string; disk: string; set: SetId; reproveAfterSeconds: number }, { path: string; bytes: number; start: Start }];
  /**
   * Block digests (base64) of an image that is going to be recycled, from the block `first` on, as many as fit an answer: none behind the last one, and where it is not known
   * without reading what the image holds. Changes nothing.
   */
  'store.digests': [{ store: StoreRef; set: SetId; disk: string; bytes: number; first: number; reproveAfterSeconds: number }, { digests: string }];
  /** Writes the manifest, once every disk's received digest equals the sent one. From here the set is complete. */
  'store.prove': [{ store: StoreRef; set: SetId; disks: Record<string, { ticket: string; digest: string }>; definition: string; nvram?: string; tpm?: string }, { manifest: Manifest }];
  /**
   * Removes records of sets without images, and rebuilds what can be rebuilt (links at boot). With `server` only that one, whose lock the caller holds;
   * without, all that nobody is at work on.
   */
  'store.tidy': [{ store: StoreRef; server?: string }, Record<string, never>];
  'store.verify': [{ store: StoreRef; server?: string; adopt: boolean }, { results: Verified[] }];
  /** Creates the definition if it is absent; says whether it did. */
  'definition.publish': [{ store: StoreRef; server: string; xml: string }, { created: boolean; path: string }];
  'definition.list': [{ store: StoreRef }, { definitions: DefinitionSeen[] }];
  'activated.release': [{ store: StoreRef; server: string }, { released: boolean }];
}

export type Method = keyof Requests;
export type Params<M extends Method> = Requests[M][0];
export type Result<M extends Method> = Requests[M][1];

/** What the hands implement. The signal is aborted when the head cancels or goes away. */
export type Handlers<M extends Method = Method> = {
  readonly [K in M]: (params: Params<K>, context: CallContext) => Promise<Result<K>>;
};

export interface CallContext {
  readonly signal: AbortSignal;
  /** Reports progress of this call to the head; called often, sent seldom. */
  readonly progress: (report: Progress) => void;
}

/** Bytes of the disk dealt with so far, of how many, and what crossed the wire. */
export interface Progress {
  readonly done: number;
  readonly total: number;
  readonly sent: number;
}

export type WireError = ErrorData;
