/**
 * What a node owes: written durably before the act that creates the debt, removed when paid. Each is safe to pay
 * twice, late, and when somebody else has meanwhile done it. See docs/architecture.md, "Owe before you act".
 */
export type Debt =
  /** Start a server that we shut down. The definition is kept here because a transient domain loses its own. */
  | { readonly kind: 'start'; readonly uri: string; readonly server: string; readonly uuid: string; readonly persistent: boolean;
      readonly xml: string;
      /** The other nodes of the Anvil, as this node's ssh reaches them; each is asked before the server is started. */
      readonly peers: readonly string[]; readonly agentCommand: readonly string[];
      /** Replaces `virsh start` where a cluster manager owns the servers: program and arguments, `{server}` filled in. */
      readonly startCommand?: readonly string[];
      /** RFC 3339: until then a server that ignored the shutdown request is watched, and started if it goes down after all. */
      readonly watchUntil: string;
      /** True once it was seen off; before that the debt is only a watch. */
      readonly wentDown: boolean }
  /** Thaw frozen file systems; paid by the guard even while the agent lives once `dueAt` has passed. */
  | { readonly kind: 'thaw'; readonly uri: string; readonly server: string; readonly uuid: string; readonly dueAt: string }
  /** Let a guest run on that we suspended, unless its QEMU process has ended since. Paid by the guard once `dueAt` has passed, like a thaw. */
  | { readonly kind: 'resume'; readonly uri: string; readonly server: string; readonly uuid: string;
      readonly pid: number; readonly startTime: string; readonly bootId: string; readonly dueAt: string }
  /** Abort our backup job, known by its NBD socket, and resume a guest that our scratch place paused. */
  | { readonly kind: 'backup'; readonly uri: string; readonly server: string; readonly uuid: string; readonly socket: string;
      /** RFC 3339: a backup job blocks migration and save, so it never outlives this. */
      readonly dueAt: string }
  /** Remove a snapshot volume: exactly the one of that name that carries our tag and `dr.owner=<owner>`. */
  | { readonly kind: 'snapshot'; readonly uri: string; readonly server: string; readonly uuid: string;
      readonly vg: string; readonly name: string; readonly owner: string;
      /** It shares a pool with the guest's disks: a guest that was paused because that ran full is resumed. */
      readonly thin: boolean;
      /** RFC 3339: a snapshot slows its server down and may run full, so it never outlives this. */
      readonly dueAt: string }
  /** Kill a process of ours (storage daemon, data process), known by PID, start time and boot. */
  | { readonly kind: 'kill'; readonly pid: number; readonly startTime: string; readonly bootId: string; readonly what: string }
  /** Unmount what we mounted (cache drive, FUSE export), known by mount point and source. */
  | { readonly kind: 'unmount'; readonly mountPoint: string; readonly source: string }
  /** Remove a file or directory tree that we made: scratch, sockets, cache images of this run. */
  | { readonly kind: 'remove'; readonly path: string };

export interface Obligation {
  readonly id: string;
  readonly createdAt: string;
  /** Why it is still owed, after a payment was tried and could not be made. From then on the guard tries too, even while the agent lives. */
  readonly stuck?: string;
  readonly debt: Debt;
}

/** Where debts are written down; what folders beside `capture/` need to know of the ledger. */
export interface Debts {
  /** Durable before it resolves: only then may the act be done that creates the debt. */
  owe(debt: Debt): Promise<Obligation>;
  /** Undoes the act and forgets the debt. What can't be undone now throws, and is left to the guard. */
  pay(id: string): Promise<'paid' | 'watching'>;
  /** Forgets a debt whose act was properly undone, or never done. */
  settled(id: string): Promise<void>;
}
