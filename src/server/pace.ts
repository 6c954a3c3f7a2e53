/**
 * Large answers, spread over turns of the event loop: those that are asked for together would hold up everything else,
 * one after the other in one turn. Sockets have their own turns (rounds.ts).
 */

/** Answers made in one turn take this many bytes, and one answer more: what comes then waits for a turn of its own. */
const TURN_BYTES = 1024 * 1024

/** Bytes of answers that were made in this turn. */
let made = 0
const waiting: (() => void)[] = []
let isSet = false

function set(): void {
  if (isSet) return
  isSet = true
  setImmediate(turn)
}

function turn(): void {
  isSet = false
  made = 0
  const next = waiting.shift()
  if (waiting.length > 0) set()
  next?.()
}

/** An answer was made. */
export function madeAnswer(bytes: number): void {
  made += bytes
  set()
}

/** Begins at once, or, where much was made in this turn or others wait already, in a turn of its own. */
export function inTurn(begin: () => void): void {
  if (made < TURN_BYTES && waiting.length === 0) {
    begin()
    return
  }
  waiting.push(begin)
  set()
}
