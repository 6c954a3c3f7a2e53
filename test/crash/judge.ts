/**
 * Holds what killed processes had said (actor.ts) against what their log holds. A judge stays with one directory over
 * all its kills, and reads on from where it was.
 */
import { decodeBlock } from '../../src/block.ts'
import { hasCode } from '../../src/errors.ts'
import { infoOrNone } from '../../src/log/follow.ts'
import type { ChannelInfo, Log } from '../../src/log/log.ts'
import type { Ledger, Placed, Told } from './actor.ts'
import { bodyOf, CHANNELS, CLIENTS, type Deed, dataOf, deedOf, FOLLOWED, KEPT, REBORN, TRIMMED } from './script.ts'
import { retries } from './tally.ts'

export interface Verdict {
  readonly lost: string[]
  readonly duplicated: string[]
  /** Holes, wrong bytes, torn appends, things taken back or come back. */
  readonly broken: string[]
}

interface Found {
  readonly epoch: string
  readonly first: number
  count: number
  readonly of: number
}

/** Answered appends of each life that are sent again; those without an answer all are. */
const RETRIED = 60

export class Judge {
  readonly #ledger: Ledger
  /** How far each channel was read. */
  readonly #places = new Map<string, { epoch: string; after: number; time: number }>()
  /** By deed and channel. */
  readonly #found = new Map<string, Found>()
  readonly #retried = new Set<number>()

  constructor(ledger: Ledger) {
    this.#ledger = ledger
  }

  async examine(log: Log): Promise<Verdict> {
    const verdict: Verdict = { lost: [], duplicated: [], broken: [] }
    verdict.broken.push(...this.#ledger.wrong.map((wrong) => JSON.stringify(wrong)))
    await this.#cursors(log, verdict)
    await this.#retry(log, verdict)
    const infos = new Map<string, ChannelInfo>()
    for (const channel of CHANNELS) {
      const info = await infoOrNone(log, channel)
      if (!info) continue
      infos.set(channel, info)
      await this.#read(log, info, verdict)
      const seen = this.#ledger.saw.get(channel)?.get(info.epoch) ?? 0
      if (seen > info.head) verdict.broken.push(`${channel}: a reader saw ${seen}, the head is ${info.head}`)
    }
    this.#trims(infos.get(TRIMMED), verdict)
    this.#deletes(infos.get(REBORN), verdict)
    for (const told of this.#ledger.deeds.values()) this.#settle(told, deedOf(told.n), infos, verdict)
    return verdict
  }

  /** A cursor is never behind what was answered, nor ahead of what was asked. */
  async #cursors(log: Log, verdict: Verdict): Promise<void> {
    for (const channel of FOLLOWED) {
      const info = await infoOrNone(log, channel)
      if (!info) continue
      for (const client of CLIENTS) {
        const commits = [...this.#ledger.deeds.values()].filter(({ n, epoch }) => {
          const deed = deedOf(n)
          return deed.do === 'commit' && deed.channel === channel && deed.client === client && epoch === info.epoch
        })
        const cursor = await log.cursor(client, channel)
        const answered = Math.max(-1, ...commits.map(({ answer }) => (answer as number | undefined) ?? -1))
        const asked = Math.max(-1, ...commits.map(({ seq, refused }) => (refused === undefined ? seq! : -1)))
        if ((cursor?.seq ?? -1) < answered)
          verdict.lost.push(`cursor ${client} in ${channel}: ${answered} answered, ${cursor?.seq} there`)
        if ((cursor?.seq ?? -1) > Math.min(asked, info.head))
          verdict.broken.push(`cursor ${client} in ${channel}: ${asked} asked, head ${info.head}, ${cursor?.seq} there`)
      }
    }
  }

  /** The same append under the same key gives the first answer; one that was not answered happens now, or happened. */
  async #retry(log: Log, verdict: Verdict): Promise<void> {
    const keyed = [...this.#ledger.deeds.values()].filter(({ n }) => !this.#retried.has(n) && keyOf(n) !== undefined)
    for (const told of keyed) this.#retried.add(told.n)
    const answered = keyed.filter(({ answer }) => answer !== undefined)
    const open = keyed.filter(({ answer }) => answer === undefined)
    await Promise.all([...answered.slice(-RETRIED), ...open].map((told) => this.#sendAgain(log, told, verdict)))
  }

  async #sendAgain(log: Log, told: Told, verdict: Verdict): Promise<void> {
    const { n, seq, answer } = told
    const deed = deedOf(n) as Extract<Deed, { do: 'append' }>
    const entries = deed.entries.map(({ channel, count }) => ({
      ...{ channel, body: bodyOf(n, channel, count) },
      ...(seq !== undefined && { expectedSeq: seq }),
    }))
    try {
      const appended = await log.append(entries, { idempotencyKey: deed.key! })
      retries.answered++
      const now = appended.map(({ channel, epoch, first, last }) => [channel, epoch, first, last])
      if (answer === undefined) Object.assign(told, { answer: now, refused: undefined })
      else if (JSON.stringify(now) !== JSON.stringify(answer))
        verdict.broken.push(`${deed.key}: ${JSON.stringify(answer)}, then ${JSON.stringify(now)}`)
    } catch (error) {
      if (!hasCode(error, 'seq-conflict')) throw error
      // Asked for before, and not there: so it never was.
      if (answer === undefined) told.refused = 'seq-conflict'
      else verdict.lost.push(`${deed.key}: ${JSON.stringify(answer)}, then a conflict`)
    }
  }

  /** Reads on to the head: seqs rise by one, times never fall, and every event is, byte for byte, what was sent. */
  async #read(log: Log, { channel, epoch, head, trimmed }: ChannelInfo, verdict: Verdict): Promise<void> {
    const known = this.#places.get(channel)
    const place = known?.epoch === epoch ? known : { epoch, after: 0, time: 0 }
    this.#places.set(channel, place)
    place.after = Math.max(place.after, trimmed)
    const skipped = place.after
    const fresh = new Map<string, Found>()
    while (place.after < head) {
      const page = await log.read(channel, place, { events: 10_000, bytes: 1 << 20 })
      for (const block of page.blocks)
        for (const { seq, time, data } of decodeBlock(block, place.after)) {
          const { n, i, of } = JSON.parse(Buffer.from(data!).toString()) as { n: number; i: number; of: number }
          if (seq !== place.after + 1) verdict.broken.push(`${channel}: ${seq} stands behind ${place.after}`)
          if (time < place.time) verdict.broken.push(`${channel}: the time of ${seq} falls`)
          if (!dataOf(n, channel, i, of).equals(data!)) verdict.broken.push(`${channel}: ${seq} holds other bytes`)
          place.after = seq
          place.time = time
          const id = `${n} ${channel}`
          const found = this.#found.get(id)
          if (!found) {
            const it = { epoch, first: seq - i, count: 1, of }
            this.#found.set(id, it)
            fresh.set(id, it)
          } else if (found.epoch !== epoch || found.first !== seq - i)
            verdict.duplicated.push(`${id}: at ${found.first}, then at ${seq - i}`)
          else found.count++
        }
    }
    for (const [id, { first, count, of }] of fresh)
      if (count !== of - Math.max(0, skipped - first + 1)) verdict.broken.push(`${id}: ${count} events of ${of}`)
  }

  /** What was answered of a trim does not come back; nothing is trimmed that nobody asked for. */
  #trims(info: ChannelInfo | undefined, verdict: Verdict): void {
    const trims = [...this.#ledger.deeds.values()].filter(({ n }) => ['trim', 'keep'].includes(deedOf(n).do))
    const answered = Math.max(0, ...trims.map(({ answer }) => (answer as [string, number] | undefined)?.[1] ?? 0))
    const asked = Math.max(0, ...trims.map(({ seq }) => seq!))
    const trimmed = info?.trimmed ?? 0
    if (trimmed < answered || trimmed > asked)
      verdict.broken.push(`trimmed is ${trimmed}: ${asked} asked, ${answered} answered`)
  }

  /** A history that an answered delete ended does not come back; one that no delete can have ended is there. */
  #deletes(info: ChannelInfo | undefined, verdict: Verdict): void {
    const deletes = [...this.#ledger.deeds.values()].filter(({ n, refused }) => deedOf(n).do === 'delete' && !refused)
    const lives = new Map<string, { answered: number; asked: number }>()
    for (const { n, asked, done, answer } of this.#ledger.deeds.values()) {
      if (deedOf(n).do !== 'append' || done === undefined) continue
      for (const [channel, epoch] of answer as Placed[]) {
        if (channel !== REBORN) continue
        const life = lives.get(epoch)
        lives.set(epoch, { answered: Math.min(life?.answered ?? done, done), asked: Math.max(life?.asked ?? 0, asked) })
      }
    }
    for (const [epoch, life] of lives) {
      const ended = deletes.some(({ asked, done }) => done !== undefined && asked > life.answered)
      const mayHave = deletes.some(({ done }) => done === undefined || done > life.asked)
      if (ended && info?.epoch === epoch) verdict.broken.push(`${REBORN}: ${epoch} was deleted and is back`)
      if (!mayHave && info?.epoch !== epoch) verdict.lost.push(`${REBORN}: ${epoch} is gone, ${info?.epoch} there`)
    }
  }

  #settle(told: Told, deed: Deed, infos: ReadonlyMap<string, ChannelInfo>, verdict: Verdict): void {
    if (deed.do !== 'append') return
    const { n, seq, answer, refused } = told
    const there = deed.entries.filter(({ channel }) => this.#found.has(`${n} ${channel}`))
    if (answer !== undefined) {
      for (const [channel, epoch, first, last] of answer as Placed[]) {
        const info = infos.get(channel)
        if (seq !== undefined && first !== seq + 1) verdict.broken.push(`${n}: expected ${seq}, got ${first}`)
        const found = this.#found.get(`${n} ${channel}`)
        if (found?.epoch === epoch && found.first === first) continue
        if (found) verdict.broken.push(`${n}: answered ${first} of ${channel}, stands at ${found.first}`)
        else if (channel === REBORN && info?.epoch !== epoch) continue
        else if (!info || info.epoch !== epoch || last > info.trimmed) verdict.lost.push(`${n}: ${first} of ${channel}`)
      }
    } else if (refused !== undefined && there.length > 0) verdict.broken.push(`${n}: ${refused}, and is there`)
    // Of several channels, all or none; what was trimmed can't be asked any more.
    const kept = deed.entries.filter(({ channel }) => KEPT.includes(channel))
    const found = kept.filter(({ channel }) => this.#found.has(`${n} ${channel}`))
    if (found.length > 0 && found.length < kept.length)
      verdict.broken.push(`${n}: in ${found.length} of ${kept.length}`)
  }
}

function keyOf(n: number): string | undefined {
  const deed = deedOf(n)
  return deed.do === 'append' ? deed.key : undefined
}
