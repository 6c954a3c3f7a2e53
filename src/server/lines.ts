/**
 * An NDJSON append of any length: taken in atomic pieces, one after another, each read while the one before it is
 * being written. What a caller is told covers all pieces, or says how far it came.
 */
import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Principal } from '../access/principal.ts'
import type { Body } from '../body.ts'
import { appendFor, type Doors, retryAfter } from '../doors/doors.ts'
import { APPEND_BYTES_MAX } from '../doors/limits.ts'
import { sameHistory } from '../epoch.ts'
import { TidemarkError, toTidemarkError } from '../errors.ts'
import { noEvents } from '../formats/fields.ts'
import { NdjsonReader } from '../formats/parse.ts'
import type { Appended } from '../log/log.ts'
import { continueBody } from './http.ts'

/** What an append is told beside its events. */
export interface Target {
  readonly channel: string
  readonly expectedSeq?: number
  readonly idempotencyKey?: string
}

/** `first` … `last` of all pieces; `duplicate` when every piece was. */
export interface LinesAppended extends Appended {
  /** Events, those of duplicates included. */
  readonly appended: number
}

/**
 * Appends the lines of a request's body. `expectedSeq` speaks of the first piece; each further one expects to follow
 * the one before it. Under an idempotency key each piece has a key of its own, made from it and the piece's number, so
 * that the same request again goes on where the first came to.
 *
 * @throws what stopped it, with `appended` (events that are in the log) and, when there are any, `epoch`, `first` and
 * `last`; `line` where a line is at fault
 */
export async function appendLines(
  req: IncomingMessage,
  res: ServerResponse,
  doors: Doors,
  target: Target,
  who: Principal,
): Promise<LinesAppended> {
  const reader = new NdjsonReader(APPEND_BYTES_MAX)
  const pieces = new Pieces(doors, target, who)
  continueBody(req, res)
  try {
    // The request stays open when a line is refused: its answer is still to be sent.
    for await (const chunk of req.iterator({ destroyOnReturn: false })) {
      // A body without an end is told how far it came while there is still somebody to tell it.
      if (doors.stopping.aborted)
        throw new TidemarkError('unavailable', 'The server is stopping', { retryAfter: retryAfter(doors) })
      for (const piece of reader.push(chunk as Buffer)) await pieces.append(piece)
    }
    for (const piece of reader.finish()) await pieces.append(piece)
    await pieces.written()
  } catch (error) {
    throw await pieces.stopped(cutOr(req, error))
  }
  return pieces.answer ?? noEvents()
}

function cutOr(req: IncomingMessage, error: unknown): unknown {
  return req.complete || !req.destroyed || error instanceof TidemarkError
    ? error
    : new TidemarkError('bad-request', 'The body was cut')
}

class Pieces {
  readonly #doors: Doors
  readonly #target: Target
  readonly #who: Principal
  #pieces = 0
  #count = 0
  #underWay: Promise<void> | undefined
  #answer: LinesAppended | undefined

  constructor(doors: Doors, target: Target, who: Principal) {
    this.#doors = doors
    this.#target = target
    this.#who = who
  }

  get answer(): LinesAppended | undefined {
    return this.#answer
  }

  /** Begins to append a piece when the one before it is durable. @throws what the one before it threw */
  async append(piece: Body): Promise<void> {
    await this.written()
    // A body may go on for longer than the right to send it.
    this.#who.need('append', this.#target.channel)
    // The first was counted with the call.
    if (this.#pieces++ > 0) this.#doors.guard.append(this.#who)
    this.#underWay = this.#append(piece)
    // It is asked about later, by the next piece or at the end.
    this.#underWay.catch(() => {})
  }

  /** Resolves when every piece is durable. */
  async written(): Promise<void> {
    await this.#underWay
  }

  async #append(body: Body): Promise<void> {
    const { channel, expectedSeq, idempotencyKey } = this.#target
    const { metrics } = this.#doors
    const expected = expectedSeq === undefined ? undefined : (this.#answer?.last ?? expectedSeq)
    const entry = expected === undefined ? { channel, body } : { channel, body, expectedSeq: expected }
    const key = idempotencyKey === undefined ? undefined : pieceKey(idempotencyKey, this.#count)
    const started = performance.now()
    const [piece] = await appendFor(this.#doors, this.#who, [entry], key)
    this.#count++
    if (!piece!.duplicate) metrics.appended('http', body.count, body.bytes.length, performance.now() - started)
    this.#add(piece!, body.count)
  }

  #add(piece: Appended, events: number): void {
    const before = this.#answer
    const { channel, epoch, last, head } = piece
    const appended = (before?.appended ?? 0) + events
    if (before !== undefined && !sameHistory(before.epoch, epoch))
      throw new TidemarkError('epoch-changed', `${channel} was deleted between two pieces of this append`, {
        ...{ channel, epoch, head, trimmed: 0 },
      })
    const duplicate = piece.duplicate && (before === undefined || before.duplicate)
    const answer = { channel, epoch, first: before?.first ?? piece.first, last, head, appended }
    this.#answer = duplicate ? { ...answer, duplicate } : answer
  }

  /** The failure, with how far the append came. Waits for the piece under way. */
  async stopped(error: unknown): Promise<TidemarkError> {
    // What went wrong there went wrong before.
    const earlier: unknown = await this.#underWay?.then(
      () => undefined,
      (failed: unknown) => failed,
    )
    const { code, message, details, cause } = toTidemarkError(earlier ?? error)
    const { appended = 0, epoch, first, last } = this.#answer ?? {}
    const came = this.#answer === undefined ? { appended } : { appended, epoch, first, last }
    return new TidemarkError(code, message, { ...came, ...details, appended }, { cause })
  }
}

/** The first piece has the request's own key: a body of one piece is the same append however it is sent. */
function pieceKey(idempotencyKey: string, piece: number): string {
  if (piece === 0) return idempotencyKey
  return createHash('sha256').update(`${idempotencyKey}\n${piece}`).digest('base64url')
}
