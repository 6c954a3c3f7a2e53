/** What the sessions of one server share, and what they tell it. */
import type { Doors } from '../doors/doors.ts'
import type { Queue, Rounds } from '../doors/rounds.ts'
import type { Watches } from '../doors/watches.ts'
import type { Following } from './following.ts'
import type { Backlog } from './outlet.ts'
import type { Session } from './session.ts'

export interface StreamLimits {
  /** A socket without another frame for this long gets a `heartbeat`; each gets a PING this often. ms */
  readonly heartbeat: number
  /** Time for the `hello`, ms. */
  readonly helloMs: number
  /** A socket that takes no byte for this long while some wait is closed, ms. */
  readonly stalledMs: number
  /** Most channels of one socket. */
  readonly subscriptions: number
}

export interface Host {
  readonly doors: Doors
  readonly limits: StreamLimits
  readonly backlog: Backlog
  readonly watches: Watches
  readonly rounds: Rounds
  readonly queue: Queue
  delivered(events: number, bytes: number): void
  /** Calls `flushCommits` within a second. */
  commitSoon(following: Following): void
  /** Work that goes on when the socket is gone. */
  background(work: Promise<void>): void
  /** `retry=1234`, random within the server's window. */
  retryReason(): string
  gone(session: Session): void
}
