/**
 * When sockets get their turn. One write costs the same whatever it carries, so the more events a write carries, the
 * more sockets are served: live events go out at once when the server is idle, and collect while it is busy.
 */
import { performance } from 'node:perf_hooks'

/** Something that reads and writes when its turn comes. */
export interface Turn {
  turn(): void
}

/** Members get turns for this long at least before input and output of others are looked at, ms. */
const SLICE_MS = 1
/** A long round of much goes out in this many slices: that often others are looked at in it, however long it takes. */
const SLICES = 8
/** Turns between two looks at the clock. */
const CLOCK_TURNS = 8
/** A round that took less than this is no load: the next one begins at once. ms */
const LOAD_FROM_MS = 0.5
/** Shortest and longest rest between two rounds, ms. */
const REST_MIN_MS = 3
const REST_MAX_MS = 20
/** Turns that give so much are much: their bytes cost more than their writes, and waiting saves nothing. */
const MUCH_BYTES = 64 * 1024

/**
 * Live delivery in rounds. Whoever has something new joins; a round begins in the next turn of the event loop, so
 * that the answers to its appends go out first.
 *
 * A round goes out in slices, and between them appends are taken: who has its turn late in a round gets what came
 * meanwhile. A round that took a while is followed by a rest as long as itself, within REST_MIN_MS and REST_MAX_MS, in
 * which more is taken: writes of little take half of the time at most, and after a short round there is no rest. Where
 * waiting saves nothing, for turns give much already or one event each all the same, the rest is shorter or none and
 * the slices are fewer: whoever appends can't outrun who reads.
 */
export class Rounds {
  #joined: Turn[] = []
  #isIdle = true
  /** The round that goes out: its members, how many had their turn, the time that took, ms, and what they got. */
  #round: Turn[] = []
  #had = 0
  #took = 0
  #events = 0
  #bytes = 0
  /** How long slices of this round are, ms. */
  #sliceMs = SLICE_MS

  join(member: Turn): void {
    this.#joined.push(member)
    if (!this.#isIdle) return
    this.#isIdle = false
    setImmediate(this.#begin)
  }

  /** A turn gave this. */
  gave(events: number, bytes: number): void {
    this.#events += events
    this.#bytes += bytes
  }

  readonly #begin = (): void => {
    this.#round = this.#joined
    this.#joined = []
    this.#had = 0
    this.#took = 0
    this.#events = 0
    this.#bytes = 0
    if (this.#round.length === 0) this.#isIdle = true
    else this.#slice()
  }

  readonly #slice = (): void => {
    const round = this.#round
    const started = performance.now()
    let spent = 0
    while (this.#had < round.length && spent < this.#sliceMs) {
      const end = Math.min(this.#had + CLOCK_TURNS, round.length)
      while (this.#had < end) round[this.#had++]!.turn()
      spent = performance.now() - started
    }
    this.#took += spent
    if (this.#had < round.length) setImmediate(this.#slice)
    else this.#end()
  }

  #end(): void {
    const turns = this.#round.length
    const much = Math.min(this.#bytes / turns / MUCH_BYTES, 1) ** 2
    const alone = Math.max(2 - this.#events / turns, 0)
    // From 0 to 1: how little is saved by waiting.
    const vain = Math.min(Math.max(much, alone), 1)
    const rest = Math.min(Math.max(this.#took, REST_MIN_MS), REST_MAX_MS) * (1 - vain)
    this.#sliceMs = Math.max((this.#took * vain) / SLICES, SLICE_MS)
    this.#round = []
    if (this.#took < LOAD_FROM_MS || rest < 1) setImmediate(this.#begin)
    else setTimeout(this.#begin, rest)
  }
}

/** Those who are behind get turns for this long at least before input and output of others are looked at, ms. */
const BEHIND_SLICE_MS = 2
/**
 * After a slice that took all its time others have so many turns of the event loop to themselves: an event needs several
 * from its append to its reader, and would meet a slice in each.
 */
const TURNS_BETWEEN = 3

/**
 * Those who are behind, in turn: one page each, in slices, and between two slices the event loop has its turns. A slice
 * is a matter of time: a page takes from microseconds to milliseconds, and live events and appends wait for its end.
 */
export class Queue {
  #waiting: Turn[] = []
  #had = 0
  #isIdle = true
  /** Turns of the event loop that belong to others before the next slice. */
  #others = 0

  join(member: Turn): void {
    this.#waiting.push(member)
    if (!this.#isIdle) return
    this.#isIdle = false
    setImmediate(this.#run)
  }

  readonly #run = (): void => {
    if (this.#others > 0) this.#others--
    else if (this.#waiting.length > 0) this.#slice()
    this.#isIdle = this.#others === 0 && this.#waiting.length === 0
    if (!this.#isIdle) setImmediate(this.#run)
  }

  #slice(): void {
    const started = performance.now()
    let spent = 0
    do {
      this.#waiting[this.#had++]!.turn()
      spent = performance.now() - started
    } while (this.#had < this.#waiting.length && spent < BEHIND_SLICE_MS)
    if (spent >= BEHIND_SLICE_MS) this.#others = TURNS_BETWEEN
    // Those who had their turn are let go of together, when they are as many as those who wait.
    if (this.#had * 2 >= this.#waiting.length) {
      this.#waiting = this.#waiting.slice(this.#had)
      this.#had = 0
    }
  }
}
