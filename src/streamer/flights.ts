/** The appends of one socket that are under way, and their answers in the order in which they were asked for. */
import type { Principal } from '../access/principal.ts'
import type { Body } from '../body.ts'
import { type Doors, mayMake, unmade } from '../doors/doors.ts'
import type { Frames } from '../formats/frames.ts'
import type { AppendRequest } from '../formats/intake.ts'
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
  /** A request of so many bytes is under way, until it has ended. */
  begun(bytes: number): void
  ended(bytes: number): void
  tell(message: ServerMessage): void
  tellText(frame: string): void
  failure(error: unknown, ref: Ref | undefined, channel: string | undefined): ServerMessage
  /** Every append is answered. */
  landed(): void
}

/** An append under way, or answered while it waits for the answer of one before it. */
class Flight implements Submission {
  readonly #flights: Flights
  readonly #request: AppendRequest
  readonly #started = performance.now()
  readonly create: boolean
  /** Of its frame. */
  readonly bytes: number
  /** A message, or a frame as text. */
  answer: ServerMessage | string | undefined

  constructor(flights: Flights, request: AppendRequest, bytes: number) {
    this.#flights = flights
    this.#request = request
    this.create = mayMake(flights.field.host.doors)
    this.bytes = bytes
  }

  get channel(): string {
    return this.#request.channel
  }

  get body(): Body {
    return this.#request.body
  }

  get expectedSeq(): number | undefined {
    return this.#request.expectedSeq
  }

  get idempotencyKey(): string | undefined {
    const { idempotencyKey: key } = this.#request
    return key === undefined ? undefined : this.#flights.field.who.idempotencyKey(key)
  }

  appended(answer: Appended): void {
    const { host, frames } = this.#flights.field
    const { metrics, log } = host.doors
    const { durability } = log.about
    const { body } = this.#request
    const ref = this.#request.ref!
    host.doors.census.appended(answer)
    if (!answer.duplicate) metrics.appended('stream', body.count, body.bytes.length, performance.now() - this.#started)
    this.answer = frames.appended(ref, answer, durability) ?? { op: 'appended', ref, ...answer, durability }
    this.#flights.land()
  }

  failed(error: unknown): void {
    const { ref, channel } = this.#request
    const { field } = this.#flights
    this.answer = field.failure(this.create ? error : unmade(field.host.doors, error), ref, channel)
    this.#flights.land()
  }
}

/** What was refused before it could be under way. */
interface Refusal {
  readonly answer: ServerMessage
  readonly bytes: number
}

export class Flights {
  readonly field: Airfield
  /** In the order of their answers; those before #landed are answered. */
  #flights: (Flight | Refusal)[] = []
  #landed = 0

  constructor(field: Airfield) {
    this.field = field
  }

  /** @param bytes of its frame */
  begin(request: AppendRequest, bytes: number): void {
    const { who, host } = this.field
    try {
      host.doors.guard.append(who)
    } catch (error) {
      this.refuse(this.field.failure(error, request.ref, request.channel), bytes)
      return
    }
    const flight = new Flight(this, request, bytes)
    this.#takeOff(flight)
    host.doors.log.submit(flight)
  }

  /** A refusal that stands in the row of the answers. */
  refuse(answer: ServerMessage, bytes: number): void {
    this.#takeOff({ answer, bytes })
    this.land()
  }

  #takeOff(flight: Flight | Refusal): void {
    this.field.begun(flight.bytes)
    this.#flights.push(flight)
  }

  /** Tells what can be told. */
  land(): void {
    const { field } = this
    for (let next = this.#flights[this.#landed]; next?.answer !== undefined; next = this.#flights[this.#landed]) {
      this.#landed++
      if (typeof next.answer === 'string') field.tellText(next.answer)
      else field.tell(next.answer)
      field.ended(next.bytes)
    }
    if (this.#landed < Math.min(this.#flights.length, LANDED_KEPT)) return
    this.#flights = this.#flights.slice(this.#landed)
    this.#landed = 0
    if (this.#flights.length === 0) field.landed()
  }
}
