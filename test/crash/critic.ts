/** Holds a log that was opened again against the scene that was played on it, as far as it was played. */
import { decodeBlock } from '../../src/block.ts'
import { TidemarkError } from '../../src/errors.ts'
import type { ChannelInfo, Log } from '../../src/log/log.ts'
import { bodyOf, CHANNELS, CLIENTS, dataOf, type Entry, type Step } from './scene.ts'
import type { Tally } from './tally.ts'
import { openAnyway } from './verdict.ts'

/** How far a scene came: steps that were asked for, and those that were answered. */
export interface Played {
  readonly asked: ReadonlySet<number>
  readonly done: ReadonlySet<number>
}

export interface Review extends Tally {
  /** What was found wrong, in words. */
  readonly wrong: string[]
  readonly refused: boolean
}

/** What the lines of a player say. */
export function playedOf(lines: readonly string[]): Played {
  const asked = new Set<number>()
  const done = new Set<number>()
  for (const line of lines) {
    const said = JSON.parse(line)
    if ('ask' in said) asked.add(said.ask)
    else if ('done' in said) done.add(said.done)
    else throw new Error(`The player says ${line}`)
  }
  return { asked, done }
}

const eventsIn = ({ first, last }: Entry): number => last - first + 1

/** Opens what is left of a log, and says what of the scene is in it. */
export async function reviewLeft(dir: string, scene: readonly Step[], played: Played): Promise<Review> {
  const { log, refused } = await openOrNothing(dir)
  const critic = new Critic(log, scene, played)
  try {
    for (const channel of CHANNELS) await critic.channel(channel)
    critic.wholeAppends()
    if (!refused) await critic.retry()
  } finally {
    await log?.close()
  }
  const { acknowledged, lost, duplicated, holes, wrong } = critic
  const falseAlarms = refused && lost + holes === 0 ? 1 : 0
  const said = refused ? [`refused: ${refused.message}`, ...wrong] : wrong
  return { cycles: 1, acknowledged, lost, duplicated, holes, falseAlarms, wrong: said, refused: refused !== undefined }
}

/** What does not open, even with every loss accepted, holds nothing. */
async function openOrNothing(dir: string): Promise<{ log?: Log; refused?: TidemarkError }> {
  try {
    return await openAnyway({ dir })
  } catch (error) {
    if (error instanceof TidemarkError && error.code === 'data-loss') return { refused: error }
    throw error
  }
}

class Critic {
  acknowledged = 0
  lost = 0
  duplicated = 0
  holes = 0
  readonly wrong: string[] = []
  readonly #log: Log | undefined
  readonly #asked: readonly Step[]
  readonly #done: ReadonlySet<number>
  /** Places at which an append is, and where it is not though nothing took it away; by its number. */
  readonly #there = new Map<number, { found: number; missing: number }>()

  constructor(log: Log | undefined, scene: readonly Step[], { asked, done }: Played) {
    this.#log = log
    this.#asked = scene.filter(({ n }) => asked.has(n))
    this.#done = done
    for (const step of this.#asked)
      if (step.do === 'append' && done.has(step.n))
        for (const entry of step.entries) this.acknowledged += eventsIn(entry)
  }

  /** A channel that can not be read to its end is a hole of its own. */
  async channel(name: string): Promise<void> {
    try {
      await this.#judgeChannel(name)
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error
      this.#hole(`${name} can not be read: ${error.code}: ${error.message}`)
    }
  }

  async #judgeChannel(name: string): Promise<void> {
    const info = await this.#infoOf(name)
    const deletes = this.#asked.filter((step) => step.do === 'delete' && step.channel === name)
    const deleted = deletes.filter(({ n }) => this.#done.has(n)).length
    const events = info ? await this.#read(info) : new Map<number, Buffer>()
    const life = this.#lifeOf(events, deleted)
    if (life < deleted) return this.#hole(`${name} is back after it was deleted`)
    // A delete that was asked for may have been done.
    const isGone = deletes.length > deleted && (!info || life > deleted)
    const lives = isGone ? life : deleted
    let head = 0
    for (const step of this.#asked) {
      if (step.do !== 'append') continue
      for (const entry of step.entries) {
        if (entry.channel !== name || entry.life !== lives || (isGone && !info)) continue
        if (this.#done.has(step.n)) head = entry.last
        this.#judgeEntry(step.n, entry, events, info?.trimmed ?? 0)
      }
    }
    if (events.size > 0) this.#hole(`${name} holds events that nobody appended: ${[...events.keys()].slice(0, 5)}`)
    if (!info) return
    if (info.head < head) this.#lose(head - info.head, `the head of ${name} is ${info.head}, not ${head}`)
    this.#judgeTrim(info, lives)
    for (const client of CLIENTS) await this.#judgeCursor(client, info, lives)
  }

  /** Appends are there whole or not at all. */
  wholeAppends(): void {
    for (const [n, { found, missing }] of this.#there)
      if (found > 0 && missing > 0) this.#hole(`append ${n} is there in part: ${found} events, not ${missing}`)
  }

  /** The newest answered append with a key is answered again, with the same seqs. */
  async retry(): Promise<void> {
    const step = this.#asked.findLast(
      (one) => one.do === 'append' && one.key !== undefined && this.#done.has(one.n) && !this.#mayBeGone(one.entries),
    )
    if (step?.do !== 'append' || this.lost > 0) return
    const entries = step.entries.map((entry) => ({ channel: entry.channel, body: bodyOf(step.n, entry) }))
    const [again] = await this.#log!.append(entries, { idempotencyKey: step.key! })
    if (again!.duplicate && again!.first === step.entries[0]!.first) return
    this.duplicated += entries.length
    this.wrong.push(`append ${step.n} was taken twice under its key`)
  }

  /** A receipt goes with its channel. */
  #mayBeGone(entries: readonly Entry[]): boolean {
    return this.#asked.some((step) => step.do === 'delete' && entries.some(({ channel }) => channel === step.channel))
  }

  async #infoOf(name: string): Promise<ChannelInfo | undefined> {
    try {
      return await this.#log?.info(name)
    } catch (error) {
      if (error instanceof TidemarkError && error.code === 'no-channel') return undefined
      throw error
    }
  }

  async #read({ channel, trimmed, head }: ChannelInfo): Promise<Map<number, Buffer>> {
    const events = new Map<number, Buffer>()
    for (let after = trimmed; after < head; ) {
      const page = await this.#log!.read(channel, { after }, { events: 1_000, bytes: 1 << 20 })
      for (const block of page.blocks)
        for (const { seq, data } of decodeBlock(block, after)) if (seq > after) events.set(seq, Buffer.from(data!))
      after = page.last
    }
    return events
  }

  /** The life that events belong to; without any, the one that must be. */
  #lifeOf(events: ReadonlyMap<number, Buffer>, deleted: number): number {
    const [some] = events.values()
    if (!some) return deleted
    const { n, channel } = JSON.parse(some.toString()) as { n: number; channel: string }
    const step = this.#asked.find((one) => one.n === n)
    if (step?.do !== 'append') return deleted
    return step.entries.find((entry) => entry.channel === channel)?.life ?? deleted
  }

  #judgeEntry(n: number, entry: Entry, events: Map<number, Buffer>, trimmed: number): void {
    const at = this.#there.get(n) ?? { found: 0, missing: 0 }
    this.#there.set(n, at)
    let missing = 0
    for (let seq = Math.max(trimmed + 1, entry.first); seq <= entry.last; seq++) {
      const data = events.get(seq)
      if (data?.equals(dataOf(n, entry, seq))) {
        at.found++
        events.delete(seq)
      } else missing++
    }
    at.missing += missing
    if (missing > 0 && this.#done.has(n)) this.#lose(missing, `append ${n} is missing in ${entry.channel}`)
  }

  #judgeTrim({ channel, trimmed }: ChannelInfo, life: number): void {
    const { asked, done } = this.#bounds(
      (step) => step.do === 'trim' && step.at.channel === channel && step.at.life === life,
    )
    if (trimmed < done) this.#hole(`${channel} is trimmed up to ${trimmed}, not ${done}`)
    if (trimmed > asked)
      this.#lose(trimmed - asked, `${channel} is trimmed up to ${trimmed}; nobody asked beyond ${asked}`)
  }

  async #judgeCursor(client: string, { channel }: ChannelInfo, life: number): Promise<void> {
    const { asked, done } = this.#bounds(
      (step) => step.do === 'commit' && step.client === client && step.at.channel === channel && step.at.life === life,
    )
    const seq = (await this.#log!.cursor(client, channel))?.seq ?? 0
    if (seq < done || seq > asked) this.#hole(`${client} is at ${seq} of ${channel}, not in ${done}–${asked}`)
  }

  /** The furthest place of what was answered, and of what was asked for. */
  #bounds(which: (step: Step) => boolean): { asked: number; done: number } {
    const places = this.#asked.filter(which).map((step) => ({ n: step.n, last: 'at' in step ? step.at.last : 0 }))
    const done = places.filter(({ n }) => this.#done.has(n))
    return {
      asked: Math.max(0, ...places.map(({ last }) => last)),
      done: Math.max(0, ...done.map(({ last }) => last)),
    }
  }

  #lose(events: number, what: string): void {
    this.lost += events
    this.wrong.push(what)
  }

  #hole(what: string): void {
    this.holes++
    this.wrong.push(what)
  }
}
