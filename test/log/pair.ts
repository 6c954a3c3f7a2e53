/**
 * A log under test beside the model of it: steps of any history, each taken by both, and what they say compared. An
 * engine's test throws the steps, and opens the log.
 */
import { setTimeout as delay, setImmediate } from 'node:timers/promises'
import { expect, vi } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import type { Event } from '../../src/event.ts'
import { compactChannel } from '../../src/log/compact.ts'
import { Keeper } from '../../src/log/keeper.ts'
import type { Append, Appended, Log, Page, Place, ReadLimits } from '../../src/log/log.ts'
import { readRetentionRule } from '../../src/retention.ts'
import { event } from '../parts.ts'
import { Model, type Send, shown } from './model.ts'
import { eventsOf, list, readAll, valueIn, watched } from './reading.ts'
import { CLIENTS, type Planned, type Step, type Where } from './steps.ts'

/** Long enough that a wait which is to resolve over a network has, ms. */
const SOON_MS = 20_000
/** What retention drops is dropped within this, ms, amid troubles too. */
const KEPT_MS = 60_000

/** Limits that both see alike: of bytes, one that is never reached, so that they are counted all the same. */
const RULE = readRetentionRule('a/**: events=5, bytes=1GiB')
const keeperOf = (log: Log): Keeper => new Keeper(log, { rules: [RULE], pace: { restTimes: 0, grace: 0 } })

/** How a log under test is, beyond what it promises. */
export interface Habits {
  /** Its `changed` asks others before it resolves. */
  readonly isRemote?: boolean
  /** It is troubled meanwhile: what is sent together is sent again in any order. */
  readonly isTroubled?: boolean
}

/** A log under test and what it should be. */
export class Pair {
  readonly model = new Model()
  readonly #open: () => Promise<Log>
  readonly #habits: Habits
  /** Where the last read came to, in the history that it knew. */
  #reader: { channel: string; place: Place; limits: ReadLimits } | undefined
  #sends = 0
  #keeper: Keeper
  log: Log

  /** @param open opens the log anew, as it was left */
  constructor(log: Log, open: () => Promise<Log>, habits: Habits = {}) {
    this.#open = open
    this.#habits = habits
    this.log = log
    this.#keeper = keeperOf(log)
  }

  async take(step: Step): Promise<void> {
    const { log, model } = this
    switch (step.verb) {
      case 'append':
        return this.#append(step.sends.map((send) => () => this.#decide(send)))
      case 'retry': {
        const send = model.sent[step.which % Math.max(1, model.sent.length)]
        if (!send) return
        const [first, ...rest] = send.entries
        return this.#append([
          () => (step.changed ? { ...send, entries: [{ ...first!, values: [...first!.values, 7] }, ...rest] } : send),
        ])
      }
      case 'read':
        return this.#readAt(step.where, step.limits)
      case 'goOn':
        return this.#reader && this.#read(this.#reader.channel, this.#reader.place, this.#reader.limits)
      case 'changed':
        return this.#changed(step.where)
      case 'commit':
      case 'seek': {
        const { channel, after: seq, ...epoch } = this.#place(step.where)
        const expected = model.move(step.verb, step.client, channel, seq, epoch.epoch)
        const answer = await settled(log[step.verb](step.client, channel, { seq, ...epoch }))
        return expect(answer).toMatchObject(
          'code' in expected ? expected : { client: step.client, channel, ...expected },
        )
      }
      case 'forget':
        return expect(await settled(log.forget(step.client, step.channel))).toEqual(
          like(model.forget(step.client, step.channel)),
        )
      case 'trim': {
        const { channel, after } = this.#place(step.where)
        return expect(await settled(log.trim(channel, after))).toMatchObject(model.trim(channel, after))
      }
      case 'delete':
        return expect(await settled(log.delete(step.channel))).toEqual(like(model.delete(step.channel)))
      case 'configure':
        model.configure(step.channel, step.note, step.retention)
        this.#learn(
          step.channel,
          (
            await log.configure(step.channel, {
              note: step.note,
              ...(step.retention !== undefined && { retention: step.retention }),
            })
          ).epoch,
        )
        return
      case 'compact':
        return this.#compact(step.channel, step.tombstonesToo, step.merely)
      case 'keep':
        model.keep({ channel: 'a/b', retention: RULE.retention })
        // Amid troubles a look may end before its time: the next one does the rest.
        return this.#habits.isTroubled
          ? vi.waitFor(() => this.#look(), { timeout: KEPT_MS, interval: 20 })
          : this.#look()
      case 'reopen':
        await log.close()
        this.log = await this.#open()
        this.#keeper = keeperOf(this.log)
        return this.whole()
    }
  }

  /** What the keeper trims. */
  async #look(): Promise<void> {
    const { log, model } = this
    // Of several gateways one keeps retention, as soon as it is known which.
    while (log.isKeeper === false) await delay(20)
    await this.#keeper.look()
    for (const [channel, { trimmed }] of model.channels) expect(await log.info(channel)).toMatchObject({ trimmed })
  }

  /** Everything, held against the model. */
  async whole(): Promise<void> {
    const { log, model } = this
    const names = [...model.channels.keys()].sort()
    expect(
      (await list(log.channels(''))).map(({ channel, epoch, head, trimmed, settings }) => ({
        channel,
        epoch,
        head,
        trimmed,
        note: settings.note,
      })),
    ).toEqual(
      names.map((channel) => {
        const { trimmed, values, note } = model.channels.get(channel)!
        return { channel, epoch: model.epoch(channel), head: values.length, trimmed, note }
      }),
    )
    for (const channel of names) {
      const { trimmed, values, cursors } = model.channels.get(channel)!
      const events = await readAll(log, channel, { epoch: model.epoch(channel)!, after: trimmed })
      this.#hold(channel, { after: trimmed, last: values.length }, events)
      const times = events.map(({ time }) => time)
      expect(times).toEqual([...times].sort((a, b) => a - b))
      expect((await list(log.cursors({ channel }))).map(({ client, seq, epoch }) => [client, seq, epoch])).toEqual(
        [...cursors].map(([client, { seq, epoch }]) => [client, seq, epoch]).sort(),
      )
    }
    for (const client of CLIENTS)
      expect((await list(log.cursors({ client }))).map(({ channel, seq }) => [channel, seq])).toEqual(
        names.flatMap((channel) => {
          const cursor = model.channels.get(channel)!.cursors.get(client)
          return cursor ? [[channel, cursor.seq]] : []
        }),
      )
  }

  /** Sent together, unawaited: the log takes them in the order in which they were sent. */
  async #append(sends: readonly (() => Send)[]): Promise<void> {
    const { log, model } = this
    // Who is told `unavailable` comes again, behind those that were sent later.
    if (this.#habits.isTroubled && sends.length > 1) {
      for (const send of sends) await this.#append([send])
      return
    }
    const outcomes = sends.map((decide) => {
      const send = decide()
      model.sent.push(send)
      const entries = send.entries.map(({ values, ...entry }) => ({ ...entry, body: bodyOf(values) }))
      const one = entries.length === 1 && this.#sends++ % 2 === 0 ? entries[0] : undefined
      const answer = settled(
        one
          ? submitted(log, one, send.key)
          : log.append(entries, send.key === undefined ? {} : { idempotencyKey: send.key }),
      )
      return { expected: model.append(send), answer }
    })
    for (const { expected, answer } of outcomes) {
      const answers = await answer
      if ('code' in expected) {
        expect(answers).toMatchObject(expected)
        continue
      }
      const told = answers as {
        channel: string
        epoch: string
        first: number
        last: number
        head: number
        duplicate?: true
      }[]
      expect(told.map(({ channel, first, last }) => ({ channel, first, last }))).toEqual(expected.answers)
      for (const { channel, epoch, last, head, duplicate } of told) {
        expect(duplicate ?? false).toBe(expected.duplicate)
        expect(head).toBeGreaterThanOrEqual(last)
        if (!expected.duplicate) this.#learn(channel, epoch)
      }
    }
  }

  #decide({ entries, key }: Planned): Send {
    return {
      entries: entries.map(({ expects, ...entry }) => {
        const head = this.model.head(entry.channel)
        return expects === 'any' ? entry : { ...entry, expectedSeq: expects === 'right' ? head : head + 1 }
      }),
      ...(key !== undefined && { key }),
    }
  }

  async #readAt(where: Where, limits: ReadLimits): Promise<void> {
    const { channel, ...place } = this.#place(where)
    await this.#read(channel, place, limits)
  }

  async #read(channel: string, place: Place, limits: ReadLimits): Promise<void> {
    // What is in memory is what is on disk, refusals too.
    const recent = await settled((async () => this.log.recent(channel, place, limits))())
    if (recent !== undefined) this.#judge(channel, place, recent)
    const page = await settled(this.log.read(channel, place, limits))
    this.#judge(channel, place, page)
    if ('code' in page) return
    this.#reader = { channel, place: { epoch: page.epoch, after: page.last }, limits }
  }

  #judge(channel: string, place: Place, page: Page | { code: string }): void {
    const refused = this.model.judge(channel, place.epoch, place.after)
    if (refused !== undefined) {
      expect(page).toMatchObject({ code: refused })
      return
    }
    const { values, trimmed } = this.model.channels.get(channel)!
    const epoch = this.model.epoch(channel)
    expect(page).toMatchObject({ channel, epoch, after: place.after, head: values.length, trimmed })
    if ('code' in page) return
    this.#hold(channel, page, eventsOf(page))
    expect(page.last > place.after || page.caughtUp).toBe(true)
  }

  /** Of a stretch: every event that stands in it, and no other. */
  #hold(channel: string, { after, last }: Pick<Page, 'after' | 'last'>, events: readonly Event[]): void {
    const { values } = this.model.channels.get(channel)!
    const seqs = this.model.standing(channel, after, last)
    expect(events.map(({ seq }) => seq)).toEqual(seqs)
    const found = events.map((it) => ({ key: it.key, data: it.data === null ? null : valueIn(it) }))
    expect(found).toEqual(seqs.map((seq) => shown(values[seq - 1]!)))
  }

  /** @param merely nothing is changed */
  async #compact(channel: string, tombstonesToo: boolean, dryRun: boolean): Promise<void> {
    const { log, model } = this
    const tombstoneAge = tombstonesToo ? -60_000 : 60_000
    if (!log.replace) return
    const run = () => settled(compactChannel(log, channel, { minLag: 0, tombstoneAge, restTimes: 0, dryRun }))
    const planned = dryRun ? await run() : undefined
    if (dryRun && model.channels.has(channel)) return expect(planned).toMatchObject({ complete: true })
    const report = planned ?? (await run())
    const expected = model.compact(channel, tombstonesToo)
    if ('code' in expected) return expect(report).toMatchObject(expected)
    const { tombstones, ...events } = expected
    expect(report).toMatchObject({ events, tombstones, complete: true, epoch: model.epoch(channel) })
  }

  async #changed(where: Where): Promise<void> {
    const { channel, ...place } = this.#place(where)
    const gone = new AbortController()
    const waits = watched(this.log.changed(channel, place, gone.signal))
    const atOnce = this.model.hasChanged(channel, place.epoch, place.after)
    const { isRemote } = this.#habits
    if (isRemote && atOnce) await Promise.race([waits.promise, delay(SOON_MS, undefined, { ref: false })])
    for (let turn = 0; turn < (atOnce ? 100 : 3) && !waits.settled; turn++) await setImmediate()
    // A gateway may know the channel as it was: who waits there is woken for nothing, reads, and waits again.
    if (!isRemote || atOnce) expect(waits.settled).toBe(atOnce)
    if (waits.settled) return waits.promise
    gone.abort('enough')
    await expect(waits.promise).rejects.toBe('enough')
  }

  #place({ channel, at, epoch }: Where): { channel: string; after: number; epoch?: string } {
    const after = Math.floor((at / 1_000) * (this.model.head(channel) + 2))
    const known = {
      none: undefined,
      now: this.model.epoch(channel),
      before: this.model.channels.get(channel)?.epoch,
      old: this.model.gone.get(channel)?.at(-1),
      unknown: 'unknown',
    }[epoch]
    return { channel, after, ...(known !== undefined && { epoch: known }) }
  }

  /** An epoch stays for a channel's whole life, and is no other's. */
  #learn(name: string, epoch: string): void {
    const channel = this.model.channels.get(name)!
    channel.epoch ??= epoch
    expect(epoch).toBe(this.model.epoch(name))
    const others = [...this.model.channels].filter(([other]) => other !== name).map(([, { epoch }]) => epoch)
    expect([...others, ...[...this.model.gone.values()].flat()]).not.toContain(epoch)
  }
}

const bodyOf = (values: readonly number[]) =>
  encodeBody(values.map(shown).map(({ key, data }) => event(data ?? undefined, { key })))

/** The answer, or code and details of the refusal. */
const settled = <T>(answer: Promise<T>): Promise<T | { code: string }> =>
  answer.catch((error) => ({ code: error.code, ...error.details }))

/** An append by way of `submit`, which must tell it once. */
function submitted(log: Log, { channel, body, expectedSeq }: Append, key: string | undefined): Promise<Appended[]> {
  return new Promise((resolve, reject) => {
    let told = 0
    const once = (): void => expect(++told).toBe(1)
    log.submit({
      ...{ channel, body, expectedSeq, idempotencyKey: key, create: true },
      appended: (answer) => {
        once()
        resolve([answer])
      },
      failed: (error) => {
        once()
        reject(error)
      },
    })
  })
}

/** A refusal by its code, anything else as it is. */
const like = (expected: unknown): unknown =>
  typeof expected === 'object' && expected !== null ? expect.objectContaining(expected) : expected
