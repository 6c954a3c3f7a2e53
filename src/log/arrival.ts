/**
 * A history that was kept elsewhere, on its way into a log. It comes piece by piece, in order, with its seqs and times;
 * until its end came nobody else sees any of it, and its name is not taken by anybody else. What came stays over
 * restarts: whoever brings it asks how far it came, and goes on from there.
 */
import type { Cursor, Settings } from './log.ts'

export interface ArrivalPiece {
  /** Epoch of the history where it comes from, with its run. Another one begins another arrival. */
  readonly from: string
  /** How far it goes there; it may grow meanwhile. */
  readonly head: number
  /** What was trimmed there: it begins behind that, and of what came before, that goes. */
  readonly trimmed: number
  /**
   * Its epoch here is the one that it has there. Only for a history that ends there: else two would go on under one
   * epoch, and a reader of both would not be told. Default: a new one.
   */
  readonly sameEpoch?: boolean
  /** Whole blocks that chain from how far it came. Those that came already are passed over. */
  readonly blocks?: readonly Uint8Array[]
  /** The events behind how far it came, up to this one, are lost there: reading them is `data-loss` here, too. */
  readonly lostUpTo?: number
  /** With the epochs that they are to have here. */
  readonly cursors?: readonly Omit<Cursor, 'channel'>[]
  /** All of it came: the channel is there, with this. @param time of its newest event, ms */
  readonly end?: { readonly settings: Settings; readonly time: number }
  /** It does not come after all: what came so far goes. A channel that is there stays. */
  readonly drop?: true
}

export interface Arrived {
  readonly channel: string
  /** The epoch that it has here. */
  readonly epoch: string
  /** How far it came. */
  readonly head: number
  readonly trimmed: number
  /** The channel is there, and holds all of it. */
  readonly isWhole: boolean
}
