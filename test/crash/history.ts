/**
 * A history is what concurrent clients asked and were told, each call with the moments between which it happened; the
 * checker says which promises it breaks, held against the log as it is in the end. It knows nothing of servers.
 */

/** Where an append was put. */
export interface Place {
  readonly channel: string
  readonly epoch: string
  readonly first: number
  readonly last: number
}

export interface AppendCall {
  readonly op: 'append'
  readonly who: string
  /** The same for each time that the same append was sent under its idempotency key. */
  readonly id: string
  readonly start: number
  /** Absent when there was never an answer. */
  readonly end?: number
  /** `texts`: the data of its events, each one of its own. */
  readonly entries: readonly {
    readonly channel: string
    readonly texts: readonly string[]
    readonly expected?: number
  }[]
  readonly outcome: 'answered' | 'refused' | 'unknown'
  readonly placed?: readonly Place[]
  /** The head that a conflict told. */
  readonly head?: number
}

/** Events as [seq, text]. */
export type Seen = readonly (readonly [seq: number, text: string])[]

export interface ReadCall {
  readonly op: 'read'
  readonly who: string
  readonly channel: string
  readonly start: number
  readonly end: number
  readonly epoch: string
  readonly after: number
  readonly head: number
  readonly events: Seen
}

/** What came on a stream: it goes on where the one before it, of the same follower, ended. */
export interface FollowCall {
  readonly op: 'follow'
  readonly who: string
  readonly channel: string
  readonly end: number
  readonly epoch: string
  readonly events: Seen
}

/** A commit, or a look at a cursor when nothing is asked. */
export interface CursorCall {
  readonly op: 'cursor'
  readonly who: string
  readonly channel: string
  readonly start: number
  readonly end?: number
  readonly asked?: number
  /** As it was told to stand; −1: there is none. */
  readonly seq?: number
}

export type Call = AppendCall | ReadCall | FollowCall | CursorCall

export interface Final {
  readonly epoch: string
  /** Texts of the events from seq 1. */
  readonly events: readonly string[]
  /** By client. */
  readonly cursors: ReadonlyMap<string, number>
}

export type Broken =
  | 'lost'
  | 'duplicated'
  | 'misplaced'
  | 'torn'
  | 'refused-but-there'
  | 'answered-twice'
  | 'order'
  | 'expected'
  | 'taken-back'
  | 'went-back'
  | 'hole'
  | 'cursor-behind'
  | 'cursor-ahead'
  | 'epoch'

export interface Violation {
  readonly broken: Broken
  readonly what: string
}

/** Something that rises in real time: what was reached at `end` must be reached by all that start later. */
interface Reached {
  readonly end: number
  readonly value: number
}

/** Every promise that this history breaks; empty when it breaks none. */
export function check(calls: readonly Call[], final: ReadonlyMap<string, Final>): Violation[] {
  const found: Violation[] = []
  const tell = (broken: Broken, what: string): void => {
    found.push({ broken, what })
  }
  const appends = calls.filter((call) => call.op === 'append')
  checkAppends(appends, final, tell)
  checkOrder(appends, tell)
  checkExpected(appends, tell)
  checkSeen(calls, final, tell)
  checkHeads(calls, tell)
  checkCursors(
    calls.filter((call) => call.op === 'cursor'),
    final,
    tell,
  )
  return found
}

type Tell = (broken: Broken, what: string) => void

function checkAppends(appends: readonly AppendCall[], final: ReadonlyMap<string, Final>, tell: Tell): void {
  const seqs = new Map<string, number[]>()
  for (const [channel, { events }] of final)
    for (const [i, text] of events.entries()) {
      const key = `${channel}\n${text}`
      seqs.set(key, [...(seqs.get(key) ?? []), i + 1])
    }
  for (const sent of groupBy(appends, ({ id }) => id).values()) {
    const { id, entries } = sent[0]!
    const answers = sent.filter(({ outcome }) => outcome === 'answered')
    const all = entries.flatMap(({ channel, texts }) => texts.map((text) => seqs.get(`${channel}\n${text}`) ?? []))
    const there = all.filter((at) => at.length > 0).length
    if (all.some((at) => at.length > 1)) tell('duplicated', `${id} stands at ${JSON.stringify(all)}`)
    if (there > 0 && there < all.length) tell('torn', `${id}: ${there} of ${all.length} events`)
    if (answers.length === 0) {
      // After a conflict no other try of it can win: a head never comes back to what was expected.
      const refused = sent.every(({ outcome }) => outcome === 'refused') || sent.some(({ head }) => head !== undefined)
      if (there > 0 && refused) tell('refused-but-there', id)
      continue
    }
    const [first, ...others] = answers.map(({ placed }) => placed!)
    for (const other of others)
      if (JSON.stringify(other) !== JSON.stringify(first))
        tell('answered-twice', `${id}: ${JSON.stringify(first)}, then ${JSON.stringify(other)}`)
    if (there === 0) tell('lost', `${id}, answered as ${JSON.stringify(first)}`)
    else
      for (const { channel, epoch, first: from } of first!) {
        const texts = entries.find((entry) => entry.channel === channel)?.texts
        const known = final.get(channel)
        if (texts === undefined) tell('misplaced', `${id}: told ${from} of ${channel}, where it was not sent`)
        else if (known?.epoch !== epoch) tell('epoch', `${id}: ${epoch}, in the end ${known?.epoch}`)
        else if (texts.some((text, i) => known.events[from - 1 + i] !== text))
          tell('misplaced', `${id}: not at ${from} of ${channel}`)
      }
  }
}

/** What one producer appended one after the other stands in that order. */
function checkOrder(appends: readonly AppendCall[], tell: Tell): void {
  for (const mine of groupBy(firstAnswers(appends), ({ who }) => who).values()) {
    const last = new Map<string, number>()
    for (const { id, placed } of mine)
      for (const { channel, first, last: end } of placed!) {
        if (first <= (last.get(channel) ?? 0))
          tell('order', `${id}: ${first} of ${channel}, after ${last.get(channel)}`)
        last.set(channel, end)
      }
  }
}

/** Whoever expected a head and won stands right behind it, and stands there alone. */
function checkExpected(appends: readonly AppendCall[], tell: Tell): void {
  const winners = new Map<string, string>()
  for (const { id, entries, placed } of firstAnswers(appends))
    for (const { channel, expected } of entries) {
      if (expected === undefined) continue
      const place = placed!.find((it) => it.channel === channel)
      // Of an answer that names another channel is told elsewhere.
      if (!place) continue
      if (place.first !== expected + 1) tell('expected', `${id}: expected ${expected}, stands at ${place.first}`)
      const key = `${channel} ${place.epoch} ${expected}`
      if (winners.has(key)) tell('expected', `${id} and ${winners.get(key)} both won ${key}`)
      winners.set(key, id)
    }
  for (const { id, entries, outcome, head } of appends)
    if (outcome === 'refused' && head !== undefined && entries[0]!.expected === head)
      tell('expected', `${id}: a conflict though the head was ${head}`)
}

/** What anybody saw stands there in the end; followers miss nothing and get nothing twice. */
function checkSeen(calls: readonly Call[], final: ReadonlyMap<string, Final>, tell: Tell): void {
  const places = new Map<string, number>()
  for (const call of calls) {
    if (call.op !== 'read' && call.op !== 'follow') continue
    const { who, channel, epoch, events } = call
    const known = final.get(channel)
    if (known?.epoch !== epoch) tell('epoch', `${who} saw ${epoch} of ${channel}, in the end ${known?.epoch}`)
    const follower = `${who} ${channel}`
    let place = call.op === 'read' ? call.after : (places.get(follower) ?? 0)
    for (const [seq, text] of events) {
      if (seq !== place + 1) tell('hole', `${who} got ${seq} of ${channel} behind ${place}`)
      if (known && known.events[seq - 1] !== text) tell('taken-back', `${who} saw ${text} at ${seq} of ${channel}`)
      place = seq
    }
    if (call.op === 'follow') places.set(follower, place)
  }
}

/** Heads rise in real time: what one call was told, every call that starts later is told too. */
function checkHeads(calls: readonly Call[], tell: Tell): void {
  const reached = new Map<string, Reached[]>()
  const begun: { channel: string; start: number; value: number; who: string }[] = []
  const reach = (channel: string, end: number, value: number): void => {
    const list = reached.get(channel)
    if (list) list.push({ end, value })
    else reached.set(channel, [{ end, value }])
  }
  const starts = new Map<string, number>()
  for (const call of calls) {
    if (call.op === 'read') {
      const { channel, start, end, head: value, who } = call
      reach(channel, end, value)
      begun.push({ channel, start, value, who })
    } else if (call.op === 'follow') {
      reach(call.channel, call.end, call.events.at(-1)?.[0] ?? 0)
    } else if (call.op === 'append') {
      const { who, id, start, end, entries, placed, head } = call
      starts.set(id, Math.min(start, starts.get(id) ?? start))
      for (const { channel, first, last } of placed ?? []) {
        reach(channel, end!, last)
        // It happened at some time since it was first sent.
        begun.push({ channel, start: starts.get(id)!, value: first - 1, who: `${who} (${id})` })
      }
      if (head !== undefined) {
        reach(entries[0]!.channel, end!, head)
        begun.push({ channel: entries[0]!.channel, start, value: head, who: `${who} (${id})` })
      }
    }
  }
  const rising = new Map([...reached].map(([channel, list]) => [channel, risingOf(list)]))
  for (const { channel, start, value, who } of begun) {
    const before = at(rising.get(channel) ?? [], start)
    if (value < before) tell('went-back', `${who}: head ${value} of ${channel}, ${before} was told before`)
  }
}

/** A cursor only rises, is never behind what was answered, nor ahead of what was asked. */
function checkCursors(calls: readonly CursorCall[], final: ReadonlyMap<string, Final>, tell: Tell): void {
  for (const mine of groupBy(calls, ({ who, channel }) => `${who}\n${channel}`).values()) {
    const { who, channel } = mine[0]!
    const told = mine.flatMap(({ end, seq }) => (end === undefined || seq === undefined ? [] : [{ end, value: seq }]))
    const rising = risingOf(told)
    const last = { start: Number.POSITIVE_INFINITY, end: Number.POSITIVE_INFINITY }
    for (const { start, end, asked, seq } of [
      ...mine,
      { ...last, seq: final.get(channel)?.cursors.get(who) ?? -1 } as CursorCall,
    ]) {
      if (seq === undefined || end === undefined) continue
      const least = Math.max(at(rising, start, -1), asked ?? -1)
      const most = Math.max(-1, ...mine.filter((call) => call.start < end).map((call) => call.asked ?? -1))
      if (seq < least) tell('cursor-behind', `${who} in ${channel}: ${seq}, ${least} was told`)
      if (seq > most) tell('cursor-ahead', `${who} in ${channel}: ${seq}, ${most} was asked`)
    }
  }
}

/** Answered appends in the order in which they were sent, each once. */
function firstAnswers(appends: readonly AppendCall[]): AppendCall[] {
  const answered = new Map<string, AppendCall>()
  for (const call of appends) if (call.outcome === 'answered' && !answered.has(call.id)) answered.set(call.id, call)
  return [...answered.values()].sort((a, b) => a.start - b.start)
}

/** By `end`, each with the most that was reached until then. */
function risingOf(list: readonly Reached[]): Reached[] {
  let most = -1
  return [...list]
    .sort((a, b) => a.end - b.end)
    .map(({ end, value }) => {
      most = Math.max(most, value)
      return { end, value: most }
    })
}

/** What was reached before a moment. */
function at(rising: readonly Reached[], moment: number, none = 0): number {
  let [low, high] = [0, rising.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if (rising[middle]!.end < moment) low = middle + 1
    else high = middle
  }
  return low === 0 ? none : rising[low - 1]!.value
}

function groupBy<T>(list: readonly T[], keyOf: (it: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const it of list) {
    const key = keyOf(it)
    const group = groups.get(key)
    if (group) group.push(it)
    else groups.set(key, [it])
  }
  return groups
}
