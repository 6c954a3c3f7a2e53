/**
 * NATS as the engine uses it: one connection, a stream for events and a key-value bucket for cursors. Reads here are
 * answered by the leader of the stream, or by its only server; what may come from a replica that lags says so.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { JetStreamClient, JetStreamManager, StreamInfo } from '@nats-io/jetstream'
import type { MsgHdrs, NatsConnection } from '@nats-io/transport-node'
import { TidemarkError } from '../../errors.ts'
import type { LogOptions, NatsOptions } from '../open.ts'
import { askMany, unlessSilent } from './batch.ts'
import { connectTo, isAtLeast } from './connecting.ts'
import { isUnreachable, Unled } from './failures.ts'
import { nameOf, RECEIPT_HEADER, RECORD_HEADER, TRY_HEADER, token } from './record.ts'
import { batched, ofHeaders, type Stored, storedOf } from './stored.ts'
import {
  type Facts,
  faultOf,
  findOrMake,
  type Left,
  leftFor,
  leftIn,
  less,
  lifeOf,
  type Names,
  namesIn,
  unheard,
} from './streams.ts'

/** From here on a message within an atomic batch may have an id. */
const VERSION_BATCH = [2, 12, 1] as const
/** One request, ms; a leader that was just elected answers within it. */
const REQUEST_MS = 2_000
/** Last messages that are asked for at once, and the bytes of them that come: each comes whole. */
const LASTS_AT_ONCE = 500
const LASTS_BYTES = 4 * 1024 * 1024
/** A replica that lags is waited for so long, ms, by one listing … */
const LAG_MS = 2_000
/** … and asked again after this. */
const LAG_AGAIN_MS = 50
/** A replica waits at least so long, ms, for a sign of its leader before it wants another one. */
const ELECTION_MS = 4_000
/** Wrong last id, wrong last sequence, no rollups. */
const NOT_TAKEN = new Set([10070, 10071, 10164, 10111])

/** A message to be stored, if the newest of its subject is `expected`. */
export interface Draft {
  readonly subject: string
  readonly data: Uint8Array
  readonly expected: number
  readonly record?: string
  readonly receipt?: string | undefined
  readonly attempt?: string
  readonly messageId?: string | undefined
  readonly operation?: string
}

export class Link {
  readonly nc: NatsConnection
  readonly facts: Facts
  readonly canBatch: boolean
  #isConnected = true
  /** Until when, ms of the process, no other leader can be there than the one that said how long it had its replicas. */
  #isLedUntil = Number.NEGATIVE_INFINITY
  /** The account has a limit; one that gets it later counts from the next start on. */
  #isAccountLimited = false
  /** NATS does not tell of stored messages. */
  onDeaf: (error: Error) => void = () => {}
  readonly #names: Names
  readonly #js: JetStreamClient
  readonly #jsm: JetStreamManager
  readonly #headers: () => MsgHdrs
  /** How many were named. */
  readonly #servers: number

  private constructor(
    nc: NatsConnection,
    js: JetStreamClient,
    jsm: JetStreamManager,
    makeHeaders: () => MsgHdrs,
    names: Names,
    facts: Facts,
    servers: number,
  ) {
    this.#servers = servers
    this.nc = nc
    this.#js = js
    this.#jsm = jsm
    this.#headers = makeHeaders
    this.#names = names
    this.facts = facts
    this.canBatch = isAtLeast(nc.info?.version ?? '0', VERSION_BATCH)
  }

  /** @throws wrong-config (too old, refused credentials), unavailable */
  static async open(options: NatsOptions, { idWindow }: Pick<LogOptions, 'idWindow'>): Promise<Link> {
    const { headers } = await import('@nats-io/transport-node')
    const { jetstream, jetstreamManager } = await import('@nats-io/jetstream')
    const nc = await connectTo(options, REQUEST_MS)
    try {
      const settings = { timeout: REQUEST_MS }
      const jsm = await jetstreamManager(nc, { ...settings, checkAPI: false })
      const names = namesIn(options.namespace ?? 'main')
      const isCluster = nc.info?.cluster !== undefined
      const { replicas, maxBytes } = options
      const facts = await findOrMake(jsm, names, { replicas, isCluster, idWindow, maxBytes })
      const link = new Link(nc, jetstream(nc, settings), jsm, headers, names, facts, options.servers.length)
      await link.#askAccount()
      return link
    } catch (error) {
      await nc.close()
      if (error instanceof TidemarkError) throw error
      throw new TidemarkError(
        'unavailable',
        `NATS at ${options.servers.join(', ')}: ${(error as Error).message}`,
        {},
        { cause: error },
      )
    }
  }

  async #askAccount(): Promise<void> {
    try {
      this.#isAccountLimited = leftFor(await this.#jsm.getAccountInfo(), this.facts) !== undefined
    } catch (error) {
      // Not everybody has the right to ask, and who has not gets no answer: its limit is not known then.
      if (!isUnreachable(error)) throw error
    }
  }

  get isConnected(): boolean {
    return this.#isConnected
  }

  /** Told by who listens to the connection: what this server's leader said counts for no other's. */
  set isConnected(is: boolean) {
    this.#isConnected = is
    this.#isLedUntil = Number.NEGATIVE_INFINITY
  }

  /**
   * A stream as its leader has it. One that is cut off from its replicas goes on for a while, and answers as it was.
   * @throws what is unreachable, also where another one may lead by now
   */
  async #info(stream = this.#names.events, options?: { subjects_filter: string }): Promise<StreamInfo> {
    const asked = performance.now()
    const info = await this.#jsm.streams.info(stream, options)
    const left = ELECTION_MS - unheard(info)
    if (stream === this.#names.events) this.#isLedUntil = asked + left
    if (left > 0) return info
    throw new Unled()
  }

  /** Resolves when what the leader answered before this call was the truth. @throws what is unreachable */
  async sure(): Promise<void> {
    if (this.facts.replicas > 1 && performance.now() > this.#isLedUntil) await this.#info()
  }

  /** Why the stream can not be worked with now, as its leader has it; undefined when it can. */
  async fault(): Promise<string | undefined> {
    const { config } = await this.#info()
    if (lifeOf(config) !== this.facts.life)
      return 'The stream in NATS is another one than at the start: restart this server'
    const fault = faultOf(config, this.#names.prefix)
    return fault && `The stream in NATS was changed: it ${fault}`
  }

  /** Goes to another server, where more than one is known; what is under way is asked anew there. */
  async goElsewhere(): Promise<void> {
    if (this.nc.isClosed()) return
    if (this.#servers > 1 || (this.nc.info?.connect_urls?.length ?? 0) > 1) await this.nc.reconnect()
  }

  /** What is left for events, of the limits that NATS tells of; asked of its leader. */
  async left(): Promise<{ readonly bytes: Left | undefined; readonly messages: Left | undefined }> {
    const { bytes, messages } = leftIn(await this.#info())
    if (!this.#isAccountLimited) return { bytes, messages }
    const account = leftFor(await this.#jsm.getAccountInfo(), this.facts)
    return { bytes: less(account, bytes), messages }
  }

  subjectOf(channel: string): string {
    return `${this.#names.prefix}.e.${token(channel)}`
  }

  channelOf(subject: string): string {
    return nameOf(subject.slice(subject.lastIndexOf('.') + 1))
  }

  /** Where messages of a channel are told as they are stored. */
  liveSubjectOf(channel: string): string {
    return `${this.#names.prefix}.live.${token(channel)}`
  }

  /** Of one token: no cursor's. */
  get leaseSubject(): string {
    return `$KV.${this.#names.bucket}.keeper`
  }

  cursorSubject(client: string, channel: string, life: string): string {
    return `$KV.${this.#names.bucket}.${client}.${channel}.${life}`
  }

  /** The newest message of a subject. */
  last(subject: string): Promise<Stored | undefined> {
    return this.#get(this.#streamOf(subject), { last_by_subj: subject })
  }

  /** The first message of a subject at or behind a place in the stream. */
  next(subject: string, seq: number): Promise<Stored | undefined> {
    return this.#get(this.#streamOf(subject), { seq, next_by_subj: subject })
  }

  /** The message at a place in the stream of events. */
  at(seq: number): Promise<Stored | undefined> {
    return this.#get(this.#names.events, { seq })
  }

  #streamOf(subject: string): string {
    return subject.startsWith('$KV.') ? `KV_${this.#names.bucket}` : this.#names.events
  }

  async #get(
    stream: string,
    query: { seq: number } | { last_by_subj: string } | { seq: number; next_by_subj: string },
  ): Promise<Stored | undefined> {
    // A replica may lag; a server alone is the leader, and a direct answer costs it less.
    const api = this.facts.replicas === 1 ? this.#jsm.direct : this.#jsm.streams
    const message = await api.getMessage(stream, query)
    return message ? storedOf(message) : undefined
  }

  /** Messages of a subject from a place on, in their order; a replica that lags may give fewer. */
  async *batch(subject: string, seq: number, batch: number, bytes: number): AsyncIterable<Stored> {
    const query = { seq, next_by_subj: subject, batch, max_bytes: bytes }
    const { messages } = await askMany(this.nc, this.#streamOf(subject), query)
    for (const message of messages) yield batched(message)
  }

  /**
   * Every subject that a filter matches, as the leader knows them, and the last message in the stream at that moment: one
   * answer for each 100,000 of them.
   */
  async subjects(filter: string): Promise<{ readonly subjects: string[]; readonly asOf: number }> {
    const { state } = await this.#info(this.#streamOf(filter), { subjects_filter: filter })
    return { subjects: Object.keys(state.subjects ?? {}), asOf: state.last_seq }
  }

  /** How many channels there are, those that were deleted a moment ago included, or cursors. */
  async count(what: 'channels' | 'cursors'): Promise<number> {
    if (what === 'channels') return (await this.#info()).state.num_subjects ?? 0
    const { state } = await this.#info(`KV_${this.#names.bucket}`, { subjects_filter: this.leaseSubject })
    return (state.num_subjects ?? 0) - Object.keys(state.subjects ?? {}).length
  }

  get allEvents(): string {
    return `${this.#names.prefix}.e.*`
  }

  /**
   * The newest messages of these subjects, in pieces, none from before the stream had come to `asOf`. A replica answers
   * where it has: what is lacking then, and where it lags for long or stands still, is asked of the leader one by one.
   */
  async *lasts(subjects: readonly string[], asOf: number): AsyncIterable<readonly Stored[]> {
    const until = performance.now() + LAG_MS
    for (let i = 0; i < subjects.length; i += LASTS_AT_ONCE) {
      const wanted = subjects.slice(i, i + LASTS_AT_ONCE)
      const stream = this.#streamOf(wanted[0]!)
      const found = new Map<string, Stored>()
      for (let missing = wanted; missing.length > 0; ) {
        const query = { multi_last: missing, batch: missing.length, max_bytes: LASTS_BYTES }
        const { messages, upTo } = await askMany(this.nc, stream, query).catch(unlessSilent)
        if (messages.length === 0) break
        if (upTo < asOf) {
          if (performance.now() > until) break
          await delay(LAG_AGAIN_MS)
          continue
        }
        for (const message of messages.map(batched)) found.set(message.subject, message)
        missing = missing.filter((subject) => !found.has(subject))
      }
      for (const subject of wanted) {
        if (found.has(subject)) continue
        const last = await this.last(subject)
        if (last) found.set(subject, last)
      }
      yield wanted.flatMap((subject) => found.get(subject) ?? [])
    }
  }

  /** Stores a message. Resolves with its place, and whether an earlier one of the same id stands there. */
  async publish(draft: Draft): Promise<{ readonly seq: number; readonly duplicate: boolean }> {
    const { subject, data, messageId, expected } = draft
    const { seq, duplicate } = await this.#js.publish(subject, data, {
      headers: this.#headersOf(draft),
      expect: { lastSubjectSequence: expected },
      ...(messageId !== undefined && { msgID: messageId }),
    })
    // Servers that are too old say so of what they never stored.
    if (duplicate && seq === 0) throw new TidemarkError('unavailable', 'NATS answered with a duplicate that is none')
    return { seq, duplicate }
  }

  /**
   * Where the message stands that was stored under an id. Nothing is stored by asking: whose id is not known is refused
   * because it is a rollup, which the stream does not take, and once more should it ever do.
   */
  async placeOf(subject: string, messageId: string): Promise<number | undefined> {
    const headers = this.#headers()
    headers.set('Nats-Rollup', 'sub')
    // A server alone looks at the sequence before the id; a cluster that refuses a last id (2.15.1) takes nothing more.
    const expect = this.facts.replicas === 1 ? { lastMsgID: 'none' } : { lastSubjectSequence: Number.MAX_SAFE_INTEGER }
    try {
      return (await this.#js.publish(subject, new Uint8Array(), { headers, msgID: messageId, expect })).seq
    } catch (error) {
      if (NOT_TAKEN.has(Number((error as { code?: unknown }).code))) return undefined
      throw error
    }
  }

  /** Stores messages of several subjects, all or none; resolves with the place of the last one. */
  async publishAll(drafts: readonly Draft[]): Promise<number> {
    const id = randomBytes(12).toString('hex')
    const answers: Promise<{ data: Uint8Array }>[] = []
    for (const [i, draft] of drafts.entries()) {
      const headers = this.#headersOf(draft)
      headers.set('Nats-Expected-Last-Subject-Sequence', String(draft.expected))
      if (draft.messageId !== undefined) headers.set('Nats-Msg-Id', draft.messageId)
      headers.set('Nats-Batch-Id', id)
      headers.set('Nats-Batch-Sequence', String(i + 1))
      const isLast = i === drafts.length - 1
      if (isLast) headers.set('Nats-Batch-Commit', '1')
      // In between nobody answers unless asked: the first says whether there may be a batch, the last whether it is one.
      if (i > 0 && !isLast) this.nc.publish(draft.subject, draft.data, { headers })
      else answers.push(this.nc.request(draft.subject, draft.data, { headers, timeout: REQUEST_MS }))
    }
    let seq = 0
    for (const outcome of await Promise.allSettled(answers)) {
      if (outcome.status === 'rejected') throw outcome.reason
      if (outcome.value.data.length > 0) seq = readAck(outcome.value.data)
    }
    return seq
  }

  #headersOf({ record, receipt, attempt, operation }: Draft): MsgHdrs {
    const headers = this.#headers()
    if (record !== undefined) headers.set(RECORD_HEADER, record)
    if (receipt !== undefined) headers.set(RECEIPT_HEADER, receipt)
    if (attempt !== undefined) headers.set(TRY_HEADER, attempt)
    if (operation !== undefined) headers.set('KV-Operation', operation)
    return headers
  }

  /** Drops the messages of a subject, or of those that a filter matches, that stand before a place; all without one. */
  async purge(filter: string, seq?: number): Promise<void> {
    await this.#jsm.streams.purge(this.#streamOf(filter), seq === undefined ? { filter } : { filter, seq })
  }

  /** Asks the other gateways to hold back their next write to a channel. @param who asks */
  askWay(channel: string, who: string): void {
    if (!this.nc.isClosed()) this.nc.publish(`${this.#names.prefix}.way.${token(channel)}`, who)
  }

  heedWay(heed: (channel: string, who: string) => void): void {
    this.nc.subscribe(`${this.#names.prefix}.way.*`, {
      callback: (error, message) => {
        if (error) this.onDeaf(error)
        else heed(this.channelOf(message.subject), message.string())
      },
    })
  }

  /**
   * Tells each message of a channel as it is stored, and which one stood before it on its subject, until the answer is
   * called. It may miss some.
   */
  follow(channel: string, tell: (message: Stored, follows: number) => void): () => void {
    const subscription = this.nc.subscribe(this.liveSubjectOf(channel), {
      callback: (error, message) => {
        if (error) this.onDeaf(error)
        if (error || !message.headers) return
        const { headers, data } = message
        const seq = Number(headers.get('Nats-Sequence'))
        const follows = Number(headers.get('Nats-Last-Sequence'))
        if (seq > 0) tell(ofHeaders(headers, { seq, subject: headers.get('Nats-Subject'), data, storedAt: 0 }), follows)
      },
    })
    return () => subscription.unsubscribe()
  }
}

/** The place that an acknowledgement names. @throws the API's error, with its code */
function readAck(data: Uint8Array): number {
  const { seq, error } = JSON.parse(Buffer.from(data).toString()) as {
    seq?: number
    error?: { code: number; err_code: number; description: string }
  }
  if (error) throw Object.assign(new Error(error.description), { code: error.err_code, status: error.code })
  return seq ?? 0
}
