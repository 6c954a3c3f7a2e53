/** One append's turn with the writer: all of its entries or none, under one idempotency key. */
import { TidemarkError } from '../../errors.ts'
import { sizeOf } from '../entries.ts'
import type { Append, Appended, AppendOptions, Submission } from '../log.ts'
import { type Channels, noChannel } from './channels.ts'
import type { Draft, Group } from './group.ts'
import type { Receipts } from './receipts.ts'
import type { Task } from './writer.ts'

type Answer = { -readonly [Field in keyof Appended]: Appended[Field] }

export interface Told {
  readonly appended: (answers: readonly Appended[]) => void
  readonly failed: (error: unknown) => void
}

export class Appending implements Task {
  readonly bytes: number
  readonly #channels: Channels
  readonly #receipts: Receipts
  readonly #entries: readonly Append[]
  readonly #options: AppendOptions
  readonly #told: Told
  readonly #drafts: Draft[] = []
  readonly #answers: Answer[] = []
  #made: readonly Omit<Appended, 'head'>[] | undefined

  /** @throws bad-request, too-large */
  constructor(channels: Channels, receipts: Receipts, entries: readonly Append[], options: AppendOptions, told: Told) {
    this.bytes = sizeOf(entries)
    this.#channels = channels
    this.#receipts = receipts
    this.#entries = entries
    this.#options = options
    this.#told = told
  }

  plan(group: Group): void {
    const entries = this.#entries
    const { idempotencyKey: key, create = true } = this.#options
    this.#made = key === undefined ? undefined : this.#receipts.find(group, entries, key)
    if (this.#made) return
    for (const { channel, expectedSeq } of entries) {
      if (create && expectedSeq === undefined) continue
      const draft = group.find(channel)
      if (!create && !draft) noChannel(channel)
      if (expectedSeq !== undefined) this.#expect(channel, expectedSeq, draft)
    }
    // Every channel is looked for before one is made, and made before the first event is placed: all or nothing.
    const drafts = this.#drafts
    const found = entries.map(({ channel }) => group.find(channel))
    for (let i = 0; i < found.length; i++) if (!found[i]) group.needFree(entries[i]!.channel)
    for (let i = 0; i < found.length; i++) drafts.push(found[i] ?? group.make(entries[i]!.channel))
    for (let i = 0; i < drafts.length; i++) {
      const { channel, body } = entries[i]!
      const draft = drafts[i]!
      const last = group.append(draft, body)
      this.#answers.push({ channel, epoch: draft.epoch, first: last - body.count + 1, last, head: last })
    }
    if (key === undefined) return
    const kept = this.#answers.map(({ channel, epoch, first, last }) => ({ channel, epoch, first, last }))
    this.#receipts.put(group, entries, key, kept)
  }

  #expect(channel: string, expectedSeq: number, draft: Draft | undefined): void {
    const head = draft?.head ?? 0
    if (head === expectedSeq) return
    throw new TidemarkError('seq-conflict', `The head of ${channel} is ${head}, not ${expectedSeq}`, {
      ...{ channel, head, trimmed: draft?.trimmed ?? 0, epoch: draft ? draft.epoch : null },
    })
  }

  settle(): void {
    if (this.#made) {
      this.#settleAgain(this.#made)
      return
    }
    for (let i = 0; i < this.#answers.length; i++) this.#answers[i]!.head = this.#drafts[i]!.head
    this.#told.appended(this.#answers)
  }

  /** Answered as the first time, with the heads of now. */
  #settleAgain(made: readonly Omit<Appended, 'head'>[]): void {
    let answers: readonly Appended[]
    try {
      answers = this.#channels.withHeads(made).map((answer) => ({ ...answer, duplicate: true as const }))
    } catch (error) {
      this.reject(error)
      return
    }
    this.#told.appended(answers)
  }

  reject(error: unknown): void {
    this.#told.failed(error)
  }
}

/** Tells one submission what became of it. */
export class ToldOne implements Told {
  readonly #submission: Submission
  constructor(submission: Submission) {
    this.#submission = submission
  }
  appended(answers: readonly Appended[]): void {
    this.#submission.appended(answers[0]!)
  }
  failed(error: unknown): void {
    this.#submission.failed(error)
  }
}
