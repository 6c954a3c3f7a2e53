/**
 * Reading many channels at once, for `POST /v1/poll`: cursors are committed, then each channel is read from its place;
 * when none has anything to say, the call waits until one has. Each channel has a seat; what it says is rendered by
 * the caller.
 */
import { setMaxListeners } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type ErrorCode, hasCode, TidemarkError } from '../errors.ts'
import { checkChannel, checkPosition, EARLIEST } from '../event.ts'
import { Follower, type From } from '../log/follow.ts'
import type { Page } from '../log/log.ts'
import { READ_BYTES } from '../wire.ts'
import type { Doors } from './doors.ts'

/** What the caller said of one channel. */
export interface Asked {
  readonly commit?: number | undefined
  readonly after?: number | string | undefined
  readonly epoch?: string | null | undefined
}

export interface SeatsOptions {
  readonly client: string | undefined
  /** In the order of the request. Undefined: a name that nothing can be asked of. */
  readonly channels: ReadonlyMap<string, Asked | undefined>
  /** Most events of the whole answer. */
  readonly limit: number
}

/** A page as its answer will hold it: how much of the limits it takes, and up to where it reaches. */
export interface Rendered {
  readonly events: number
  readonly bytes: number
  readonly last: number
}

/** Renders at most `limit` events of a page. */
export type Render<Form extends Rendered> = (page: Page, limit: number) => Form

/** One channel of a poll: where its reader stands, and what it has to tell so far. */
export class Seat<Form extends Rendered> {
  readonly channel: string
  /** Where the channel stood when it was last looked at. */
  epoch: string | null = null
  head = 0
  trimmed = 0
  gap: { readonly after: number; readonly trimmed: number } | undefined
  reset = false
  page: { readonly page: Page; readonly form: Form } | undefined
  error: TidemarkError | undefined
  follower: Follower | undefined
  /** The place was asked for by a word (`head`, `time:…`): the caller must learn its seq, moved or not. */
  byWord = false

  constructor(channel: string) {
    this.channel = channel
  }

  /** The channel was deleted: whoever follows it has its whole history to forget. */
  lost(): void {
    this.follower = undefined
    this.reset = true
    this.epoch = null
    this.head = 0
    this.trimmed = 0
  }

  /** Whether this channel ends the wait. */
  get speaks(): boolean {
    return this.page !== undefined || this.gap !== undefined || this.reset || this.error !== undefined
  }

  /** The position when there is no page. */
  get after(): number {
    return this.follower?.place.after ?? 0
  }
}

/**
 * Answers the channels that have something to tell, in the order of the request. Waits for the first of them until
 * `signal` aborts, which ends in whatever there is then.
 * @throws unavailable, and what is wrong with the request as a whole; what is wrong with one channel stands in its seat
 */
export async function readSeats<Form extends Rendered>(
  doors: Doors,
  options: SeatsOptions,
  render: Render<Form>,
  signal: AbortSignal,
): Promise<Seat<Form>[]> {
  const { channels, client, limit } = options
  const seats = await Promise.all(
    [...channels].map(([channel, asked]) => takeSeat<Form>(doors, channel, asked, client)),
  )
  // So that no channel starves behind a busy one.
  const first = Math.floor(Math.random() * seats.length)
  const rotated = [...seats.slice(first), ...seats.slice(0, first)]
  await serve(rotated, limit, render)
  if (!seats.some((seat) => seat.speaks) && !signal.aborted) {
    const over = doors.metrics.follows('poll')
    try {
      await wait(doors, rotated, signal, (woken) => serve(woken, limit, render))
    } finally {
      over()
    }
  }
  return seats.filter((seat) => seat.speaks || seat.byWord)
}

/** Commits, then finds where the channel goes on. */
async function takeSeat<Form extends Rendered>(
  doors: Doors,
  channel: string,
  asked: Asked | undefined,
  client: string | undefined,
): Promise<Seat<Form>> {
  const seat = new Seat<Form>(channel)
  try {
    if (asked === undefined) throw new TidemarkError('bad-request', `${channel} can not be polled`)
    const from = await placeOf(doors, checkChannel(channel), asked, client)
    seat.byWord = 'after' in from && from.after.at !== 'seq'
    const { follower, opened } = await Follower.open(doors.log, channel, from)
    Object.assign(seat, { follower, epoch: opened.epoch, head: opened.head, trimmed: opened.trimmed })
    // The caller handled events of a channel that is no more, under whatever epoch.
    if (opened.epoch === null && asked.commit) seat.reset = true
  } catch (error) {
    seat.error = ofOneChannel(error)
  }
  return seat
}

/** Where the caller stands, after its cursor was moved. */
async function placeOf(doors: Doors, channel: string, asked: Asked, client: string | undefined): Promise<From> {
  const { commit, after } = asked
  const epoch = asked.epoch ?? undefined
  const explicit = after === undefined ? undefined : { after: checkPosition(after), epoch }
  if (commit === undefined || client === undefined)
    return explicit ?? (client === undefined ? { after: EARLIEST, epoch } : { client, epoch })
  try {
    await doors.log.commit(client, channel, epoch === undefined ? { seq: commit } : { seq: commit, epoch })
  } catch (error) {
    // Nothing was moved: the caller speaks of another history. Reading on from its place tells it so, as a reset.
    if (!hasCode(error, 'epoch-changed') && !hasCode(error, 'ahead-of-head') && !hasCode(error, 'no-channel'))
      throw error
    return explicit ?? { after: { at: 'seq', seq: commit }, epoch }
  }
  return explicit ?? { client, epoch }
}

/** Codes that are one channel's own trouble; every other one is the whole request's. */
const OF_ONE_CHANNEL: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'bad-request',
  'forbidden',
  'no-channel',
  'epoch-changed',
  'ahead-of-head',
  'gap',
  'data-loss',
])

function ofOneChannel(error: unknown): TidemarkError {
  if (error instanceof TidemarkError && OF_ONE_CHANNEL.has(error.code)) return error
  throw error
}

/** Reads each channel once, until the answer is full. */
async function serve<Form extends Rendered>(
  seats: readonly Seat<Form>[],
  limit: number,
  render: Render<Form>,
): Promise<void> {
  let events = limit
  let bytes = READ_BYTES
  for (const seat of seats) {
    if (events <= 0 || bytes <= 0) return
    await read(seat, { events, bytes }, render)
    events -= seat.page?.form.events ?? 0
    bytes -= seat.page?.form.bytes ?? 0
  }
}

async function read<Form extends Rendered>(
  seat: Seat<Form>,
  limits: { readonly events: number; readonly bytes: number },
  render: Render<Form>,
): Promise<void> {
  const { follower } = seat
  while (follower !== undefined) {
    const item = await follower.next(limits)
    switch (item?.is) {
      case 'gap':
        seat.gap = { after: item.after, trimmed: item.trimmed }
        seat.trimmed = item.trimmed
        continue
      case 'reset':
        seat.reset = true
        Object.assign(seat, { epoch: item.epoch, head: item.head, trimmed: item.trimmed })
        continue
      case 'page':
        seat.page = { page: item.page, form: render(item.page, limits.events) }
        return
      case 'ended':
        if (item.error.code === 'no-channel') seat.lost()
        else seat.error = item.error
        return
      case 'caughtup':
        seat.head = item.seq
        seat.epoch = follower.place.epoch ?? null
        return
      case undefined:
        return
    }
  }
}

/**
 * Waits until a channel speaks, the streamer is switched or the signal aborts. Level-triggered like all waiting here:
 * each round asks the log "changed from this place?".
 */
async function wait<Form extends Rendered>(
  doors: Doors,
  seats: readonly Seat<Form>[],
  signal: AbortSignal,
  serveWoken: (woken: readonly Seat<Form>[]) => Promise<void>,
): Promise<void> {
  for (;;) {
    const { woken, over } = await round(doors, seats, signal)
    await serveWoken(seats.filter((seat) => woken.has(seat)))
    if (over || seats.some((seat) => seat.speaks)) return
  }
}

/** One round of waiting: the channels that changed; `over` when nothing more is to be waited for. */
async function round<Form extends Rendered>(
  doors: Doors,
  seats: readonly Seat<Form>[],
  signal: AbortSignal,
): Promise<{ woken: Set<Seat<Form>>; over: boolean }> {
  const enough = new AbortController()
  setMaxListeners(0, enough.signal)
  const woken = new Set<Seat<Form>>()
  let over = false
  let failure: unknown
  const waits: Promise<void>[] = []
  await new Promise<void>((resolve) => {
    const end = () => {
      over = true
      resolve()
    }
    /** Whoever is aborted with the round has nothing to tell. */
    const failed = (error: unknown) => {
      if (enough.signal.aborted) return
      failure ??= error
      end()
    }
    signal.addEventListener('abort', end, { once: true, signal: enough.signal })
    if (signal.aborted) end()
    waits.push(doors.switch.changed(enough.signal).then(end, failed))
    for (const seat of seats)
      if (seat.follower)
        waits.push(
          seat.follower.changed(enough.signal).then(() => {
            woken.add(seat)
            resolve()
          }, failed),
        )
  })
  // Channels that changed by the same write come along.
  await nextTurn()
  enough.abort()
  await Promise.all(waits)
  if (failure !== undefined) throw failure
  return { woken, over }
}
