import type { Debt, Debts } from '../model/obligation.js';

/** What captures need of the ledger of obligations. */
export interface Owing extends Debts {
  /** Names the session that owes, as what it makes is marked with; never used again. */
  readonly session: string;
  /** Puts what is known by now in the debt's place. */
  amend(id: string, debt: Debt): Promise<void>;
}

/** A domain on this node: commands go to its UUID, messages name the server. */
export interface DomainRef {
  readonly uri: string;
  readonly server: string;
  readonly uuid: string;
}
