/**
 * The rows of a state, a part of the port: the newest event of each key of a channel, kept by the engine beside the log,
 * with how far they go. They follow the log (state-writer.ts writes them), and whoever makes a state begins with them
 * (states.ts). There are some where a channel's settings ask for it, or a pattern of the configuration does, from the
 * write of the settings or of a new channel on. What erases events changes them in the same write: the row of an erased
 * event is taken out where all of its key are, else all rows are begun anew if it may be the newest of its key, since
 * only the log tells which one is then.
 */
import type { StateInForce } from '../retention.ts'
import type { Settings } from './log.ts'

/** How far the rows of a channel go. */
export interface StatePlace {
  /** Of these rows, from when they were begun on, or from when events were erased: others of the channel have another one. */
  readonly set: string
  /** The history that they are of, with its run. */
  readonly epoch: string
  /** They are what is true at this seq, but for those that are trimmed. */
  readonly at: number
  /** Up to here what is trimmed has no rows any more. */
  readonly trimmed: number
  /** How many there are. */
  readonly rows: number
}

/** The newest event of a key. */
export interface StateRow {
  /** UTF-8, each byte a character, as `event`. */
  readonly key: string
  readonly seq: number
  readonly time: number
  /** Its MessagePack array. */
  readonly event: string
}

/** Events of a key that are left out of their blocks; true: what is the newest then is not known of any key. */
export type ErasedEvents =
  | {
      /** As `StateRow.key`. */
      readonly key: string
      /** The one event that is left out, or the last seq up to which all of the key are, behind which its tombstone is in the log. */
      readonly upTo: number
      readonly isAll: boolean
    }
  | true

/** What brings rows from one place to another one. */
export interface StateChange extends Pick<StatePlace, 'epoch' | 'at' | 'trimmed'> {
  /** By key; undefined where there is none any more. */
  readonly rows: ReadonlyMap<string, StateRow | undefined>
}

export interface StateRows {
  /** Channels that have rows, those too whose rows are damaged. */
  channels(): AsyncIterable<string>

  /** Channels whose rows were begun since this was asked last; not all where these are many. */
  begun(): readonly string[]

  /** Whether a channel of these settings is to have rows, and who says so; undefined: nobody does. */
  asked(channel: string, settings: Settings): StateInForce | undefined

  /** Channels that are to have rows and have none, or have some and are not to: the configuration was another one. */
  unsettled(): AsyncIterable<string>

  /** Begins the rows of such a channel, or voids them. @throws no-channel */
  settle(channel: string): Promise<void>

  /** Undefined when the channel has none now. @throws no-channel, data-loss (then they are voided) */
  place(channel: string): Promise<StatePlace | undefined>

  /**
   * Gives all rows to `visit`, some at a time, as they were at the place that it resolves with; undefined when there are
   * none. `visit` ends it with false. Nothing that was given counts when it rejects.
   * @throws no-channel, data-loss: they are not what was written (then they are voided), unavailable
   */
  read(
    channel: string,
    visit: (rows: readonly StateRow[]) => boolean | Promise<boolean>,
  ): Promise<StatePlace | undefined>

  /**
   * Changes rows and place in one durable write. Undefined, and nothing is changed, when the rows are not at `from`, or
   * events were erased since: they may be among what was read.
   * @throws no-channel, data-loss (then they are voided), too-many, storage-full, unavailable
   */
  keep(channel: string, from: StatePlace, change: StateChange): Promise<StatePlace | undefined>

  /** The rows count no more; they are cleared in the background, and begun anew if the settings still ask for it. */
  drop(channel: string): Promise<void>

  /** Clears what counts no more, and gives the disk space back that it took. As Log.reclaim. */
  reclaim(channel: string): Promise<void>
}
