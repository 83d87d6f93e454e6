import type { Debt, Debts } from '../model/obligation.js';

/** What captures need of the ledger of obligations. */
export interface Owing extends Debts {
  /** Puts what is known by now in the debt's place. */
  amend(id: string, debt: Debt): Promise<void>;
}

/** A domain on this node: commands go to its UUID, messages name the server. */
export interface DomainRef {
  readonly uri: string;
  readonly server: string;
  readonly uuid: string;
}
