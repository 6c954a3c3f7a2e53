/**
 * Large answers, spread over turns of the event loop: those that are asked for together would hold up everything else,
 * one after the other in one turn. Sockets have their own turns (rounds.ts).
 */

/** Answers that are begun in one turn take about this many bytes, one at least. */
const TURN_BYTES = 1024 * 1024

/** Answers that were made in this turn, and their bytes. */
let answers = 0
let made = 0
/** Bytes of one, as they were in the last turn with any. */
let usual = TURN_BYTES
const waiting: (() => void)[] = []
let isSet = false

function set(): void {
  if (isSet) return
  isSet = true
  setImmediate(turn)
}

function turn(): void {
  isSet = false
  if (answers > 0) usual = Math.max(made / answers, 1)
  answers = 0
  made = 0
  // What they come to is known when they are made.
  const next = waiting.splice(0, Math.max(Math.floor(TURN_BYTES / usual), 1))
  if (waiting.length > 0) set()
  for (const begin of next) begin()
}

/** An answer was made. */
export function madeAnswer(bytes: number): void {
  answers++
  made += bytes
  set()
}

/** Begins at once, or, where much was made in this turn or others wait already, in one of the next. */
export function inTurn(begin: () => void): void {
  if (made < TURN_BYTES && waiting.length === 0) {
    begin()
    return
  }
  waiting.push(begin)
  set()
}
