/**
 * When sockets get their turn. One write costs the same whatever it carries, so the more events a write carries, the
 * more sockets are served: live events go out at once when the server is idle, and collect while it is busy.
 */
import { performance } from 'node:perf_hooks'

/** Something that reads and writes when its turn comes. */
export interface Turn {
  turn(): void
}

/** A round that took less than this is no load: the next one begins at once. ms */
const REST_FROM_MS = 0.5
/** Longest rest between two rounds, ms. */
const REST_MAX_MS = 10
/** A rest is as long as the round before it at least, and at most so many times as long while the loop is busy. */
const REST_SHARE_MAX = 2
/** From one round to the next the event loop is to be busy for this part of the time: enough to do, and no queue. */
const BUSY_FROM = 0.6
const BUSY_TO = 0.8
/** How fast rests grow and shrink, from round to round. */
const REST_STEP = 1.5

/**
 * Live delivery in rounds. Whoever has something new joins; a round begins in the next turn of the event loop, so
 * that the answers to its appends go out first. A round that took a while is followed by a rest as long as itself, in
 * which appends are taken: they all go out together in the next one. A loop that has no time left by then rests
 * longer, until it has: what waits for a turn of a full loop waits longer than any rest.
 */
export class Rounds {
  #joined: Turn[] = []
  #isIdle = true
  /** Length of a rest, in lengths of the round before it. */
  #restShare = 1
  #used = performance.eventLoopUtilization()

  join(member: Turn): void {
    this.#joined.push(member)
    if (!this.#isIdle) return
    this.#isIdle = false
    setImmediate(this.#begin)
  }

  readonly #begin = (): void => {
    const members = this.#joined
    if (members.length === 0) {
      this.#isIdle = true
      return
    }
    this.#joined = []
    const started = performance.now()
    for (const member of members) member.turn()
    // Reads from memory end within microtasks, with their writes; what runs after all of those sees the round's cost.
    queueMicrotask(() => process.nextTick(this.#end, started))
  }

  readonly #end = (started: number): void => {
    const took = performance.now() - started
    if (took < REST_FROM_MS) {
      setImmediate(this.#begin)
      return
    }
    setTimeout(this.#begin, Math.min(took * this.#share(), REST_MAX_MS))
  }

  /** Looks at how busy the loop was since the last round. */
  #share(): number {
    const used = performance.eventLoopUtilization()
    const { utilization } = performance.eventLoopUtilization(used, this.#used)
    this.#used = used
    if (utilization > BUSY_TO) this.#restShare = Math.min(this.#restShare * REST_STEP, REST_SHARE_MAX)
    else if (utilization < BUSY_FROM) this.#restShare = Math.max(this.#restShare / REST_STEP, 1)
    return this.#restShare
  }
}

/** Most members that get a turn before input and output of others are looked at. */
const TURNS_AT_ONCE = 16

/** Those who are behind, in turn: one page each, then the event loop, then the next. */
export class Queue {
  #waiting: Turn[] = []

  join(member: Turn): void {
    this.#waiting.push(member)
    if (this.#waiting.length === 1) setImmediate(this.#run)
  }

  readonly #run = (): void => {
    const members = this.#waiting.splice(0, TURNS_AT_ONCE)
    if (this.#waiting.length > 0) setImmediate(this.#run)
    for (const member of members) member.turn()
  }
}
