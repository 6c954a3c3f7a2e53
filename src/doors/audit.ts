/**
 * The audit trail: the channel `_audit` of a server with keys, appended by the server alone and read by admins. What
 * stands in it is who did what, never a credential, a query or an event's data. Nobody waits for it: what can not be
 * written soon is dropped, and the next entry says how much.
 */
import type { Logger } from 'pino'
import type { Change } from '../access/keyring.ts'
import type { Principal } from '../access/principal.ts'
import { encodeBody } from '../body.ts'
import type { ErrorCode } from '../errors.ts'
import { AUDIT_CHANNEL, formatTime, type NewEvent } from '../event.ts'
import type { Log } from '../log/log.ts'
import { pause } from './switch.ts'

/** Most entries that wait to be written. */
const WAITING_MAX = 1_000
/** Most entries of one append. */
const ENTRIES_MAX = 100
/** Time between the tries of an append that fails, ms. */
const RETRY_MS = 5_000
/** Refusals are told together, once in this time; ms. */
const SUMMARY_MS = 60_000
/** Most rows of one such summary: what is beyond them is one number. */
const REFUSALS_MAX = 200
/** A stop waits this long for what is left to be written, ms. */
const CLOSE_MS = 2_000

/** Refusals that tell of somebody who should not be here, or comes too often. */
const TOLD: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['unauthorized', 'forbidden', 'too-many'])

/** A call of an admin that changes something. */
export interface AuditedCall {
  readonly who: Principal
  readonly address: string
  readonly method: string
  /** As the router knows it: `/v1/channels/:channel/trim`. */
  readonly route: string
  readonly channel?: string | undefined
  readonly client?: string | undefined
  readonly status: number
}

interface Refusals {
  readonly code: ErrorCode
  readonly address: string
  count: number
}

export interface AuditOptions {
  readonly log: Log
  readonly logger: Logger
  /** Without keys there is nobody to tell of. */
  readonly isOn: () => boolean
  /** What is told of the server when the trail begins. */
  readonly started: () => object
  /** After an append that failed the next one is tried this much later, ms. Default RETRY_MS. */
  readonly retry?: number
}

export class Audit {
  readonly #options: AuditOptions
  readonly #waiting: NewEvent[] = []
  /** Entries that were dropped since one was written. */
  #lost = 0
  #writing: Promise<void> | undefined
  readonly #closing = new AbortController()
  #refusals = new Map<string, Refusals>()
  #refusalsBeyond = 0
  #refusedSince = 0
  #summary: NodeJS.Timeout | undefined
  #hasStarted = false

  constructor(options: AuditOptions) {
    this.#options = options
  }

  /** The server serves. With the first key it begins again, so that whatever follows stands behind its settings. */
  started(): void {
    if (this.#hasStarted || !this.#options.isOn()) return
    this.#hasStarted = true
    this.#tell('start', this.#options.started())
  }

  keys({ made, changed, revoked }: Change): void {
    this.started()
    if (made.length + changed.length + revoked.length > 0) this.#tell('keys', { made, changed, revoked })
  }

  called({ who, ...facts }: AuditedCall): void {
    if (this.#hasStarted) this.#tell('call', { who: who.name, kind: who.kind, ...facts })
  }

  refused(code: ErrorCode, address: string): void {
    if (!this.#hasStarted || !TOLD.has(code)) return
    const name = `${code} ${address}`
    const known = this.#refusals.get(name)
    if (known !== undefined) known.count++
    else if (this.#refusals.size < REFUSALS_MAX) this.#refusals.set(name, { code, address, count: 1 })
    else this.#refusalsBeyond++
    if (this.#summary !== undefined) return
    this.#refusedSince = Date.now()
    this.#summary = setTimeout(() => this.#sumUp(), SUMMARY_MS).unref()
  }

  #sumUp(): void {
    if (this.#summary === undefined) return
    clearTimeout(this.#summary)
    this.#summary = undefined
    const refusals = [...this.#refusals.values()].sort((a, b) => b.count - a.count)
    const others = this.#refusalsBeyond
    this.#refusals = new Map()
    this.#refusalsBeyond = 0
    this.#tell('refused', { since: formatTime(this.#refusedSince), refusals, ...(others > 0 && { others }) })
  }

  /** Tells what is left and that the server stops; waits for it as long as a log that is well needs. */
  async close(): Promise<void> {
    this.#sumUp()
    if (this.#hasStarted) this.#tell('stop', {})
    const over = new AbortController()
    await Promise.race([this.#writing, pause(CLOSE_MS, over.signal)])
    over.abort()
    this.#closing.abort()
  }

  // ── Writing ────────────────────────────────────────────────────────────────────────────────────────────────────

  #tell(type: string, data: object): void {
    if (this.#closing.signal.aborted) return
    if (this.#waiting.length >= WAITING_MAX) {
      this.#lost++
      return
    }
    const lost = this.#lost
    this.#lost = 0
    this.#waiting.push(entryOf(type, lost > 0 ? { ...data, lost } : data))
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined
    })
  }

  async #write(): Promise<void> {
    const { log, logger, retry = RETRY_MS } = this.#options
    const { signal } = this.#closing
    while (this.#waiting.length > 0 && !signal.aborted) {
      const entries = this.#waiting.slice(0, ENTRIES_MAX)
      try {
        await log.append([{ channel: AUDIT_CHANNEL, body: encodeBody(entries) }], { create: true })
        this.#waiting.splice(0, entries.length)
      } catch (error) {
        logger.error({ err: error, waiting: this.#waiting.length }, 'The audit trail can not be written now')
        await pause(retry, signal)
      }
    }
    if (this.#waiting.length > 0) logger.error({ lost: this.#waiting.length }, 'Entries of the audit trail are lost')
  }
}

const utf8 = new TextEncoder()

const entryOf = (type: string, data: object): NewEvent => ({
  type,
  key: null,
  id: null,
  contentType: null,
  to: null,
  data: utf8.encode(JSON.stringify(data)),
})
