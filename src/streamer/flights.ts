/**
 * The appends of one socket that are under way, and their answers in the order in which they were asked for. Those to
 * one channel that come together are one append for the log: one task, one answer that is shared out.
 */
import type { Principal } from '../access/principal.ts'
import { type Body, joinBodies } from '../body.ts'
import { type Doors, mayMake, unmade } from '../doors/doors.ts'
import { APPEND_EVENTS_MAX } from '../event.ts'
import type { Frames } from '../formats/frames.ts'
import type { AppendRequest } from '../formats/intake.ts'
import { MERGE_BYTES } from '../log/entries.ts'
import type { Appended, Submission } from '../log/log.ts'
import type { Ref, ServerMessage } from '../wire.ts'

/** Answered appends whose places are kept while others wait behind them. */
const LANDED_KEPT = 256

/** The socket. */
export interface Airfield {
  readonly host: { readonly doors: Doors }
  readonly frames: Frames
  /** Whose appends they are: of one subject always. */
  readonly who: Principal
  /** A request of so many bytes is under way. */
  begun(bytes: number): void
  /** So many requests of so many bytes have ended. */
  ended(bytes: number, requests: number): void
  tell(message: ServerMessage): void
  tellText(frames: string): void
  failure(error: unknown, ref: Ref | undefined, channel: string | undefined): ServerMessage
  /** Every append is answered. */
  landed(): void
}

/** Appends under way that nothing comes between, or answered while they wait for the answer of one before them. */
class Flight implements Submission {
  readonly #flights: Flights
  readonly #started = performance.now()
  readonly channel: string
  readonly expectedSeq: number | undefined
  readonly idempotencyKey: string | undefined
  readonly create: boolean
  readonly #bodies: Body[] = []
  #body: Body | undefined
  readonly #refs: Ref[] = []
  readonly #sizes: number[] = []
  #events = 0
  #bodyBytes = 0
  /** Of their frames. */
  bytes = 0
  /** Messages, or frames as text. */
  answer: readonly ServerMessage[] | string | undefined

  constructor(flights: Flights, { channel, expectedSeq, idempotencyKey: key }: AppendRequest) {
    this.#flights = flights
    this.channel = channel
    this.expectedSeq = expectedSeq
    this.idempotencyKey = key === undefined ? undefined : flights.field.who.idempotencyKey(key)
    this.create = mayMake(flights.field.host.doors)
  }

  get requests(): number {
    return this.#refs.length
  }

  /** Whether an append would be refused exactly where those before it are, and would stand in one block with them. */
  hasRoomFor({ channel, body, expectedSeq, idempotencyKey }: AppendRequest): boolean {
    return (
      channel === this.channel &&
      expectedSeq === undefined &&
      idempotencyKey === undefined &&
      this.expectedSeq === undefined &&
      this.idempotencyKey === undefined &&
      this.#events + body.count <= APPEND_EVENTS_MAX &&
      this.#bodyBytes + body.bytes.length <= MERGE_BYTES
    )
  }

  /** @param bytes of its frame */
  add({ ref, body }: AppendRequest, bytes: number): void {
    this.#refs.push(ref!)
    this.#sizes.push(body.count)
    this.#bodies.push(body)
    this.#events += body.count
    this.#bodyBytes += body.bytes.length
    this.bytes += bytes
  }

  get body(): Body {
    this.#body ??= joinBodies(this.#bodies)
    return this.#body
  }

  appended(answer: Appended): void {
    const { host, frames } = this.#flights.field
    const { metrics, log, census } = host.doors
    census.appended(answer)
    if (!answer.duplicate)
      metrics.appendedTogether('stream', this.#sizes, this.#bodyBytes, performance.now() - this.#started)
    this.answer = frames.appended({ refs: this.#refs, sizes: this.#sizes }, answer, log.about.durability)
    this.#flights.land()
  }

  failed(error: unknown): void {
    const { field } = this.#flights
    const why = this.create ? error : unmade(field.host.doors, error)
    this.answer = this.#refs.map((ref) => field.failure(why, ref, this.channel))
    this.#flights.land()
  }
}

/** What was refused before it could be under way. */
interface Refusal {
  readonly answer: readonly ServerMessage[]
  readonly bytes: number
  readonly requests: 1
}

export class Flights {
  readonly field: Airfield
  /** In the order of their answers; those before #landed are answered. */
  #flights: (Flight | Refusal)[] = []
  #landed = 0
  /** Not with the log yet: more of what came with it may join it. */
  #boarding: Flight | undefined

  constructor(field: Airfield) {
    this.field = field
  }

  /** It is with the log when `depart` was called. @param bytes of its frame */
  begin(request: AppendRequest, bytes: number): void {
    const { who, host } = this.field
    try {
      host.doors.guard.append(who)
    } catch (error) {
      this.refuse(this.field.failure(error, request.ref, request.channel), bytes)
      return
    }
    if (!this.#boarding?.hasRoomFor(request)) this.depart(new Flight(this, request))
    this.#boarding!.add(request, bytes)
    this.field.begun(bytes)
  }

  /** Something else follows, or nothing: what has begun goes to the log. @param next boards behind it */
  depart(next?: Flight): void {
    const flight = this.#boarding
    this.#boarding = next
    // Before the log is asked: it may refuse at once, and where nobody follows the socket forgets this list.
    if (next) this.#flights.push(next)
    if (flight) this.field.host.doors.log.submit(flight)
  }

  /** A refusal that stands in the row of the answers. */
  refuse(answer: ServerMessage, bytes: number): void {
    this.depart()
    this.field.begun(bytes)
    this.#flights.push({ answer: [answer], bytes, requests: 1 })
    this.land()
  }

  /** Tells what can be told. */
  land(): void {
    const { field } = this
    for (let next = this.#flights[this.#landed]; next?.answer !== undefined; next = this.#flights[this.#landed]) {
      this.#landed++
      if (typeof next.answer === 'string') field.tellText(next.answer)
      else for (const message of next.answer) field.tell(message)
      field.ended(next.bytes, next.requests)
    }
    if (this.#landed < Math.min(this.#flights.length, LANDED_KEPT)) return
    this.#flights = this.#flights.slice(this.#landed)
    this.#landed = 0
    if (this.#flights.length === 0) field.landed()
  }
}
