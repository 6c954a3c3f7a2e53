/**
 * NATS as the engine uses it: one connection, a stream for events and a key-value bucket for cursors. Reads here are
 * answered by the leader of the stream, or by its only server; what may come from a replica that lags says so.
 */
import { randomBytes } from 'node:crypto'
import type { JetStreamClient, JetStreamManager, StoredMsg, StreamConfig } from '@nats-io/jetstream'
import type { MsgHdrs, NatsConnection } from '@nats-io/transport-node'
import { TidemarkError } from '../../errors.ts'
import type { LogOptions, NatsOptions } from '../open.ts'
import { isUnreachable } from './failures.ts'
import { nameOf, RECEIPT_HEADER, RECORD_HEADER, TRY_HEADER, token } from './record.ts'

/** Before 2.12 a message that was refused leaves its id behind, and a retry of it is taken for a duplicate. */
const VERSION_MIN = [2, 12] as const
/** From here on a message within an atomic batch may have an id. */
const VERSION_BATCH = [2, 12, 1] as const
/** One request, ms; a leader that was just elected answers within it. */
const REQUEST_MS = 2_000
/** A reconnect is tried this often, ms. */
const RECONNECT_MS = 250
/** A stream that is made in a cluster may wait for its leader, ms. */
const SETUP_MS = 15_000
/** Last messages that are asked for at once: each comes whole. */
const LASTS_AT_ONCE = 32
/** How long an idempotency key is remembered, unless told: NATS keeps each in memory for as long. */
const ID_WINDOW_MS = 120_000
const NANOS = 1_000_000
/** Wrong last id, wrong last sequence, no rollups. */
const NOT_TAKEN = new Set([10070, 10071, 10164, 10111])
const REPLICAS = 3

/** A message of a stream. */
export interface Stored {
  readonly seq: number
  readonly subject: string
  readonly data: Uint8Array
  readonly record: string
  readonly receipt: string
  readonly attempt: string
  /** When the server took it, ms. */
  readonly storedAt: number
  /** Of a key-value bucket: DEL and PURGE mark what is gone. */
  readonly operation: string
}

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
  readonly events: string
  readonly bucket: string
  readonly #js: JetStreamClient
  readonly #jsm: JetStreamManager
  readonly #headers: () => MsgHdrs
  readonly #prefix: string
  /** First half of every epoch. */
  life = ''
  replicas = 1
  storage: 'file' | 'memory' = 'file'
  idWindow = ID_WINDOW_MS
  readonly canBatch: boolean
  /** Set by who listens to the connection. */
  isConnected = true

  private constructor(
    nc: NatsConnection,
    js: JetStreamClient,
    jsm: JetStreamManager,
    makeHeaders: () => MsgHdrs,
    namespace: string,
  ) {
    this.nc = nc
    this.#js = js
    this.#jsm = jsm
    this.#headers = makeHeaders
    this.#prefix = `tidemark.${namespace}`
    this.events = `TIDEMARK_${namespace}`
    this.bucket = `TIDEMARK_${namespace}_CURSORS`
    this.canBatch = isAtLeast(nc.info?.version ?? '0', VERSION_BATCH)
  }

  /** @throws wrong-config (too old, refused credentials), unavailable */
  static async open(options: NatsOptions, { idWindow }: Pick<LogOptions, 'idWindow'>): Promise<Link> {
    const { connect, credsAuthenticator, headers } = await import('@nats-io/transport-node')
    const { jetstream, jetstreamManager } = await import('@nats-io/jetstream')
    const { servers, credentials, user, password, tls } = options
    const nc = await connect({
      servers: [...servers],
      name: 'tidemark',
      maxReconnectAttempts: -1,
      reconnectTimeWait: RECONNECT_MS,
      timeout: REQUEST_MS,
      ...(credentials !== undefined && { authenticator: credsAuthenticator(credentials) }),
      ...(user !== undefined && { user, pass: password ?? '' }),
      ...(tls !== undefined && { tls }),
    }).catch((cause: Error) => {
      const code = ['AuthorizationError', 'UserAuthenticationExpiredError'].includes(cause.name)
        ? 'wrong-config'
        : 'unavailable'
      throw new TidemarkError(code, `NATS at ${servers.join(', ')}: ${cause.message}`, {}, { cause })
    })
    try {
      const version = nc.info?.version ?? '0'
      if (!isAtLeast(version, VERSION_MIN))
        throw new TidemarkError(
          'wrong-config',
          `nats-server ${version} is too old: the log needs ${VERSION_MIN.join('.')} or later`,
        )
      const settings = { timeout: REQUEST_MS }
      const jsm = await jetstreamManager(nc, { ...settings, checkAPI: false })
      const link = new Link(nc, jetstream(nc, settings), jsm, headers, options.namespace ?? 'main')
      await link.#setUp(options.replicas, idWindow)
      return link
    } catch (error) {
      await nc.close()
      if (error instanceof TidemarkError) throw error
      throw new TidemarkError(
        'unavailable',
        `NATS at ${servers.join(', ')}: ${(error as Error).message}`,
        {},
        { cause: error },
      )
    }
  }

  /** Finds the streams, or makes them. */
  async #setUp(replicas: number | undefined, idWindow = ID_WINDOW_MS): Promise<void> {
    const copies = replicas ?? (this.nc.info?.cluster === undefined ? 1 : REPLICAS)
    const common = { num_replicas: copies, storage: 'file', allow_direct: true } as const
    const events = {
      ...common,
      name: this.events,
      subjects: [`${this.#prefix}.e.*`],
      republish: { src: `${this.#prefix}.e.*`, dest: `${this.#prefix}.live.{{wildcard(1)}}` },
      duplicate_window: idWindow * NANOS,
      allow_atomic: true,
      metadata: { 'tidemark.life': randomBytes(5).toString('hex'), 'tidemark.format': '1' },
    }
    // A key-value bucket as NATS has them, so that its own tools show it.
    const bucket = {
      ...common,
      name: `KV_${this.bucket}`,
      subjects: [`$KV.${this.bucket}.>`],
      max_msgs_per_subject: 1,
      discard: 'new',
      allow_rollup_hdrs: true,
      deny_delete: true,
    }
    const found = await this.#have(events as Partial<StreamConfig> & { name: string })
    await this.#have(bucket as Partial<StreamConfig> & { name: string })
    this.life = found.metadata?.['tidemark.life'] ?? ''
    if (found.metadata?.['tidemark.format'] !== '1' || this.life === '')
      throw new TidemarkError('wrong-config', `The stream ${this.events} is not one of this version of Tidemark`)
    if (found.allow_rollup_hdrs)
      throw new TidemarkError('wrong-config', `The stream ${this.events} takes rollups, which would remove events`)
    this.replicas = found.num_replicas
    this.storage = found.storage
    this.idWindow = found.duplicate_window / NANOS
  }

  async #have(config: Partial<StreamConfig> & { name: string }): Promise<StreamConfig> {
    for (const until = performance.now() + SETUP_MS; ; ) {
      try {
        return (await this.#jsm.streams.info(config.name)).config
      } catch (error) {
        if (performance.now() > until) throw error
        if ((error as Error).name !== 'StreamNotFoundError' && !isUnreachable(error)) throw error
        // Another gateway may make it at the same moment: then it is found.
        const made = await this.#jsm.streams.add(config).catch((failure: unknown) => failure as Error)
        if (!(made instanceof Error)) continue
        if (!isUnreachable(made) && !/already in use/.test(made.message)) throw made
      }
    }
  }

  subjectOf(channel: string): string {
    return `${this.#prefix}.e.${token(channel)}`
  }

  channelOf(subject: string): string {
    return nameOf(subject.slice(subject.lastIndexOf('.') + 1))
  }

  /** Where messages of a channel are told as they are stored. */
  liveSubjectOf(channel: string): string {
    return `${this.#prefix}.live.${token(channel)}`
  }

  cursorSubject(client: string, channel: string, life: string): string {
    return `$KV.${this.bucket}.${client}.${channel}.${life}`
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
    return this.#get(this.events, { seq })
  }

  #streamOf(subject: string): string {
    return subject.startsWith('$KV.') ? `KV_${this.bucket}` : this.events
  }

  async #get(
    stream: string,
    query: { seq: number } | { last_by_subj: string } | { seq: number; next_by_subj: string },
  ): Promise<Stored | undefined> {
    // A replica may lag; a server alone is the leader, and a direct answer costs it less.
    const api = this.replicas === 1 ? this.#jsm.direct : this.#jsm.streams
    const message = await api.getMessage(stream, query)
    return message ? storedOf(message) : undefined
  }

  /** Messages of a subject from a place on, in their order; a replica that lags may give fewer. */
  async *batch(subject: string, seq: number, batch: number, bytes: number): AsyncIterable<Stored> {
    const query = { seq, next_by_subj: subject, batch, max_bytes: bytes }
    for await (const message of await this.#jsm.direct.getBatch(this.#streamOf(subject), query)) yield storedOf(message)
  }

  /** Every subject that a filter matches, as the leader knows them. */
  async subjects(filter: string): Promise<string[]> {
    const { state } = await this.#jsm.streams.info(this.#streamOf(filter), { subjects_filter: filter })
    return Object.keys(state.subjects ?? {})
  }

  get allEvents(): string {
    return `${this.#prefix}.e.*`
  }

  /** The newest messages of these subjects, in pieces; one that a replica lacks is asked of the leader. */
  async *lasts(subjects: readonly string[]): AsyncIterable<readonly Stored[]> {
    for (let i = 0; i < subjects.length; i += LASTS_AT_ONCE) {
      const wanted = subjects.slice(i, i + LASTS_AT_ONCE)
      const found = new Map<string, Stored>()
      const query = { multi_last: wanted, batch: LASTS_AT_ONCE }
      try {
        const messages = await this.#jsm.direct.getLastMessagesFor(this.#streamOf(wanted[0]!), query)
        for await (const message of messages) found.set(message.subject, storedOf(message))
      } catch (error) {
        // None of them: each is asked for below.
        if (Number((error as { code?: unknown }).code) !== 404) throw error
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
    const expect = this.replicas === 1 ? { lastMsgID: 'none' } : { lastSubjectSequence: Number.MAX_SAFE_INTEGER }
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

  /**
   * Tells each message of a channel as it is stored, and which one stood before it on its subject, until the answer is
   * called. It may miss some.
   */
  follow(channel: string, tell: (message: Stored, follows: number) => void): () => void {
    const subscription = this.nc.subscribe(this.liveSubjectOf(channel), {
      callback: (error, message) => {
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

function isAtLeast(version: string, wanted: readonly number[]): boolean {
  const parts = version.split(/[.-]/).map(Number)
  for (const [i, part] of wanted.entries()) if ((parts[i] ?? 0) !== part) return (parts[i] ?? 0) > part
  return true
}

const storedOf = ({ seq, subject, data, header, time }: StoredMsg): Stored =>
  ofHeaders(header, { seq, subject, data, storedAt: time.getTime() })

const ofHeaders = (headers: MsgHdrs, message: Pick<Stored, 'seq' | 'subject' | 'data' | 'storedAt'>): Stored => ({
  ...message,
  record: headers.get(RECORD_HEADER),
  receipt: headers.get(RECEIPT_HEADER),
  attempt: headers.get(TRY_HEADER),
  operation: headers.get('KV-Operation'),
})

/** The place that an acknowledgement names. @throws the API's error, with its code */
function readAck(data: Uint8Array): number {
  const { seq, error } = JSON.parse(Buffer.from(data).toString()) as {
    seq?: number
    error?: { code: number; err_code: number; description: string }
  }
  if (error) throw Object.assign(new Error(error.description), { code: error.err_code, status: error.code })
  return seq ?? 0
}
