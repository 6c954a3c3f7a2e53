/**
 * Appends as jobs of their lanes. Those of one channel that wait together become one block, as in the level engine; one
 * with an idempotency key is a message of its own, because NATS knows ids of messages.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { sealBlock } from '../../block.ts'
import type { Body } from '../../body.ts'
import { TidemarkError } from '../../errors.ts'
import { APPEND_EVENTS_MAX } from '../../event.ts'
import { nameArrives } from '../arrival.ts'
import { crcOf, MERGE_BYTES, sizeOf } from '../entries.ts'
import type { Append, Appended, AppendOptions } from '../log.ts'
import type { Channels } from './channels.ts'
import { isSameInBatch, isSameOnItsWay } from './failures.ts'
import type { Done, Job } from './lanes.ts'
import type { Link } from './link.ts'
import { type ChannelRecord, decodeReceipt, epochOf, isArriving, type Known, type Receipt, token } from './record.ts'
import type { Stored } from './stored.ts'
import { ASK_LEADER, type Plan, type Refusal, type Writer } from './writer.ts'

/** The same append of several channels, on its way through another gateway, is waited for so long, ms. */
const SAME_MS = 5_000
const AGAIN_MS = 50

/** What appends are made with. */
export interface Means {
  readonly link: Link
  readonly channels: Channels
  readonly writer: Writer
}

export interface Told {
  readonly appended: (answers: readonly Appended[]) => void
  readonly failed: (error: unknown) => void
}

type Answer = Omit<Appended, 'head'>

/** A channel that begins. */
export const newRecord = ({ seq }: Known): ChannelRecord => ({
  ...{ life: randomBytes(5).toString('hex'), base: seq, head: 0, trimmed: 0, time: 0, settings: {} },
})

/** All of one append, to one channel or to several. */
export class Appending implements Job {
  readonly names: readonly string[]
  readonly bytes: number
  readonly #means: Means
  readonly #entries: readonly Append[]
  readonly #key: string | undefined
  readonly #create: boolean
  readonly #told: Told

  /** @throws bad-request, too-large, not-supported */
  constructor(means: Means, entries: readonly Append[], { idempotencyKey, create = true }: AppendOptions, told: Told) {
    this.bytes = sizeOf(entries)
    this.names = entries.map(({ channel }) => channel)
    if (entries.length > 1 && !means.link.canBatch)
      throw new TidemarkError('not-supported', 'This nats-server appends to one channel at a time')
    this.#means = means
    this.#entries = entries
    this.#key = idempotencyKey
    this.#create = create
    this.#told = told
  }

  async run(queue: readonly Job[]): Promise<Done> {
    if (this.names.length > 1) return this.#runAll()
    const group: Appending[] = [this]
    if (this.#key === undefined)
      for (const job of queue.slice(1, APPEND_EVENTS_MAX)) {
        if (!(job instanceof Appending) || job.names.length > 1 || job.#key !== undefined) break
        group.push(job)
      }
    return this.#runGroup(group)
  }

  reject(error: unknown): void {
    this.#told.failed(error)
  }

  /** Appends to one channel, as many as fit a block; those that are refused are told so, and count. */
  async #runGroup(group: readonly Appending[]): Promise<Done> {
    const name = this.names[0]!
    let planned: GroupPlan | undefined
    try {
      const outcome = await this.#means.writer.write(name, (known, isFresh) => {
        planned = this.#planGroup(group, known)
        if (planned.refused.size > 0 && !isFresh) return ASK_LEADER
        const refusal = planned.refused.get(this)
        if (refusal && this.#key !== undefined) return { refused: refusal, messageId: this.#messageId(known.record) }
        return planned.plan
      })
      const { refused, answers } = planned!
      const earlier = outcome?.earlier
      return {
        jobs: refused.size + answers.size,
        tell: () => (earlier ? this.#tellAgain(earlier) : this.#tell(planned!)),
      }
    } catch (error) {
      const failed = planned ? [...planned.refused.keys(), ...planned.answers.keys()] : group
      // Those that the plan refuses, too: for what stood before them in it, or on the word of a leader that may be none.
      const tell = (): void => {
        for (const job of failed) job.reject(error)
      }
      return { jobs: failed.length, tell, failed: error }
    }
  }

  #planGroup(group: readonly Appending[], known: Known): GroupPlan {
    const refused = new Map<Appending, TidemarkError>()
    const answers = new Map<Appending, Answer>()
    const bodies: Body[] = []
    let bytes = 0
    let { record } = known
    const start = record ?? newRecord(known)
    for (const job of group) {
      const entry = job.#entries[0]!
      const { body } = entry
      const refusal = job.#refusal(entry, record)
      if (refusal) {
        refused.set(job, refusal)
        continue
      }
      const events = (record?.head ?? 0) - start.head
      if (bodies.length > 0 && (bytes + body.bytes.length > MERGE_BYTES || events + body.count > APPEND_EVENTS_MAX))
        break
      bodies.push(body)
      bytes += body.bytes.length
      record = appended(record ?? start, body)
      answers.set(job, this.#answer(entry.channel, record, body))
    }
    if (record === undefined || bodies.length === 0) return { refused, answers, plan: undefined }
    const block = sealBlock(known.name, bodies, { after: start.head, time: record.time }, crc32)
    return { refused, answers, plan: { record, block, ...this.#receipt(record, [...answers.values()]) } }
  }

  #tell({ refused, answers }: GroupPlan): void {
    for (const [job, error] of refused) job.reject(error)
    for (const [job, answer] of answers) job.#told.appended(this.#withHeads([answer]))
  }

  async #runAll(): Promise<Done> {
    for (const until = performance.now() + SAME_MS; ; ) {
      let answers: Answer[] = []
      try {
        const earlier = await this.#earlier()
        if (earlier) return { jobs: 1, tell: () => this.#tellAgain(earlier) }
        await this.#means.writer.writeAll(this.names, (known, isFresh) => {
          const planned = this.#planAll(known)
          if ('refused' in planned) return isFresh ? planned : ASK_LEADER
          answers = planned.answers
          return planned.plans
        })
        return { jobs: 1, tell: () => this.#told.appended(this.#withHeads(answers)) }
      } catch (error) {
        // Another gateway was given the same append, and was faster: it has the answer, or soon will.
        if (isSameOnItsWay(error) && performance.now() < until) await delay(AGAIN_MS)
        else if (!isSameInBatch(error)) throw error
      }
    }
  }

  #planAll(known: readonly Known[]): { plans: readonly Plan[]; answers: Answer[] } | Refusal {
    for (const [i, entry] of this.#entries.entries()) {
      const refused = this.#refusal(entry, known[i]!.record)
      if (refused) return { refused }
    }
    const made = this.#entries.map(({ channel, body }, i) => {
      const before = known[i]!.record ?? newRecord(known[i]!)
      const record = appended(before, body)
      const block = sealBlock(channel, [body], { after: before.head, time: record.time }, crc32)
      return { plan: { record, block }, answer: this.#answer(channel, record, body) }
    })
    const answers = made.map(({ answer }) => answer)
    return { plans: made.map(({ plan }) => ({ ...plan, ...this.#receipt(plan.record, answers) })), answers }
  }

  /** The message of one of its channels that answers for an append under the same key. */
  async #earlier(): Promise<Stored | undefined> {
    if (this.#key === undefined) return undefined
    const { channels, link, writer } = this.#means
    // All of them, for the heads that are told.
    const known = await Promise.all(this.names.map((name) => channels.freshKnown(name)))
    for (const { name, record } of known) {
      const earlier = record && (await writer.earlier(link.subjectOf(name), this.#messageId(record)!))
      if (earlier) return earlier
    }
    return undefined
  }

  #refusal(
    { channel, expectedSeq }: Omit<Append, 'body'>,
    record: ChannelRecord | undefined,
  ): TidemarkError | undefined {
    if (isArriving(record)) return nameArrives(channel)
    if (!this.#create && !record) return new TidemarkError('no-channel', `There is no channel ${channel}`, { channel })
    const head = record?.head ?? 0
    if (expectedSeq === undefined || expectedSeq === head) return undefined
    return new TidemarkError('seq-conflict', `The head of ${channel} is ${head}, not ${expectedSeq}`, {
      ...{ channel, head, trimmed: record?.trimmed ?? 0, epoch: record ? this.#epoch(record) : null },
    })
  }

  #answer(channel: string, record: ChannelRecord, { count }: Body): Answer {
    return { channel, epoch: this.#epoch(record), first: record.head - count + 1, last: record.head }
  }

  #epoch(record: ChannelRecord): string {
    return epochOf(this.#means.link.facts.life, record)
  }

  /** Of this key in one history of a channel. */
  #messageId(record: ChannelRecord | undefined): string | undefined {
    return this.#key === undefined || record === undefined ? undefined : `${record.life}.${token(this.#key)}`
  }

  #receipt(record: ChannelRecord, answers: Receipt['answers']): { receipt?: Receipt; messageId?: string | undefined } {
    if (this.#key === undefined) return {}
    return { receipt: { crc: crcOf(this.#entries), answers }, messageId: this.#messageId(record) }
  }

  /** Answered as the first time, with the heads of now. */
  #tellAgain({ receipt }: Stored): void {
    const { crc, answers } = decodeReceipt(receipt)
    if (crc === crcOf(this.#entries))
      this.#told.appended(this.#withHeads(answers).map((answer) => ({ ...answer, duplicate: true as const })))
    else this.reject(new TidemarkError('key-reused', 'This idempotency key was used for another append'))
  }

  #withHeads(answers: readonly Answer[]): readonly Appended[] {
    return answers.map((answer) => {
      const now = this.#means.channels.known(answer.channel)?.record
      const isSame = now !== undefined && this.#epoch(now) === answer.epoch
      return { ...answer, head: Math.max(answer.last, isSame ? now.head : 0) }
    })
  }
}

interface GroupPlan {
  readonly refused: ReadonlyMap<Appending, TidemarkError>
  readonly answers: ReadonlyMap<Appending, Answer>
  readonly plan: Plan | undefined
}

const appended = (record: ChannelRecord, { count }: Body): ChannelRecord => ({
  ...record,
  head: record.head + count,
  time: Math.max(record.time, Date.now()),
})
