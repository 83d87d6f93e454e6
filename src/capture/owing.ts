import type { Debt, Obligation } from '../model/obligation.js';

/** What captures need of the ledger of obligations. */
export interface Owing {
  /** Durable when it resolves. */
  owe(debt: Debt): Promise<Obligation>;
  amend(id: string, debt: Debt): Promise<unknown>;
  /** Does what is owed and forgets it; throws, and keeps it, if that can't be done. */
  pay(id: string): Promise<unknown>;
  /** It was done properly: forgets it. */
  settled(id: string): Promise<unknown>;
}

/** A domain on this node: commands go to its UUID, messages name the server. */
export interface DomainRef {
  readonly uri: string;
  readonly server: string;
  readonly uuid: string;
}
