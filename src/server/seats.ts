/**
 * Reading many channels at once, for `POST /v1/poll`: cursors are committed, then each channel is read from its place;
 * when none has anything to say, the call waits until one has. Each channel has a seat; what it says is rendered by
 * the caller.
 */
import type { Principal } from '../access/principal.ts'
import { seenByCaller } from '../doors/callers.ts'
import type { Doors } from '../doors/doors.ts'
import type { Pages } from '../doors/pages.ts'
import { type CallWait, Standing } from '../doors/waits.ts'
import { type ErrorCode, hasCode, TidemarkError } from '../errors.ts'
import { checkChannel, EARLIEST } from '../event.ts'
import { behind, Follower, type From, hasEvents, type Item, type Opened, UNREAD } from '../log/follow.ts'
import type { Page, Place, ReadLimits } from '../log/log.ts'
import { READ_BYTES } from '../wire.ts'
import type { Asked, AskedPoll } from './asked.ts'

/** A page as its answer will hold it: how much of the limits it takes, and up to where it reaches. */
export interface Rendered {
  /** Events. */
  readonly count: number
  /** Bytes. */
  readonly length: number
  readonly last: number
}

/** Renders at most `limit` events of a page. */
export type Render<Form extends Rendered> = (page: Page, limit: number) => Form

const NOWHERE: Place = { after: 0 }

/** One channel of a poll: where its reader stands, and what it has to tell so far. */
export class Seat<Form extends Rendered> extends Standing {
  readonly channel: string
  /** Where the channel stood when it was last looked at. */
  epoch: string | null = null
  head = 0
  trimmed = 0
  gap: { readonly after: number; readonly trimmed: number } | undefined
  reset = false
  page: { readonly page: Page; readonly form: Form } | undefined
  /** Positions that passed without an event: they end no wait, and are told with what comes. */
  passed: Page | undefined
  error: TidemarkError | undefined
  follower: Follower | undefined
  /** Nothing is to be read yet. */
  isAtHead = false
  /** The place was asked for by a word (`head`, `time:…`): the caller must learn its seq, moved or not. */
  byWord = false
  /** The caller asks to be told where it stands. */
  asksToTell = false
  /** It was looked at, within the limits of the answer. */
  isServed = false

  constructor(channel: string) {
    super()
    this.channel = channel
  }

  begin({ follower, opened }: { readonly follower: Follower; readonly opened: Opened }): void {
    this.follower = follower
    this.epoch = opened.epoch
    this.head = opened.head
    this.trimmed = opened.trimmed
  }

  /** The channel was deleted: whoever follows it has its whole history to forget. */
  lost(): void {
    this.follower = undefined
    this.passed = undefined
    this.reset = true
    this.epoch = null
    this.head = 0
    this.trimmed = 0
  }

  /** Whether this channel ends the wait. */
  get speaks(): boolean {
    return this.page !== undefined || this.gap !== undefined || this.reset || this.error !== undefined
  }

  /** Whether it is told though nothing moved: the caller must learn a place or a history that it does not know yet. */
  get isAsked(): boolean {
    // What can be a reset or a gap is told once it was looked at, lest the caller takes up what comes behind it.
    return this.byWord || (this.asksToTell && this.isServed)
  }

  get place(): Place {
    return this.follower?.place ?? NOWHERE
  }

  /** The position when there is no page. */
  get after(): number {
    return this.place.after
  }
}

/**
 * Answers the channels that have something to tell, in the order of the request. Waits for the first of them, if it
 * is to, and answers whatever there is when the wait is over.
 * @throws unavailable, and what is wrong with the request as a whole; what is wrong with one channel stands in its seat
 */
export async function readSeats<Form extends Rendered>(
  doors: Doors,
  options: AskedPoll,
  who: Principal,
  render: Render<Form>,
  wait: CallWait | undefined,
): Promise<Seat<Form>[]> {
  const { channels, limit } = options
  const { pages } = doors
  const client = options.client === undefined ? undefined : who.cursor(options.client)
  const seats: Seat<Form>[] = []
  const taking: Promise<void>[] = []
  for (const [channel, asked] of channels) {
    const seat = new Seat<Form>(channel)
    seats.push(seat)
    if (!takeAtOnce(doors, seat, asked, who, client)) taking.push(takeSeat(doors, seat, asked, who, client))
  }
  if (taking.length > 0) await Promise.all(taking)
  // So that no channel starves behind a busy one.
  const first = Math.floor(Math.random() * seats.length)
  const rotated = [...seats.slice(first), ...seats.slice(0, first)]
  await serve(
    rotated.filter((seat) => !seat.isAtHead),
    limit,
    render,
    pages,
  )
  if (wait && !wait.isOver && !seats.some((seat) => seat.speaks)) {
    const over = doors.metrics.follows('poll')
    try {
      await waitFor(rotated, wait, (woken) => serve(woken, limit, render, pages))
    } finally {
      over()
    }
    for (const seat of seats) judge(seat, who)
  }
  for (const seat of seats) if (seat.passed) seat.page = { page: seat.passed, form: render(seat.passed, limit) }
  return seats.filter((seat) => seat.speaks || seat.isAsked)
}

/** After a wait its caller may be told less. @throws unauthorized */
function judge<Form extends Rendered>(seat: Seat<Form>, who: Principal): void {
  try {
    who.stillNeed('read', seat.channel)
  } catch (error) {
    seat.error ??= ofOneChannel(error)
    seat.page = undefined
  }
}

/**
 * The usual case, without waiting for anything: the caller says a seq, has nothing to commit, and the channel is in
 * memory. False: `takeSeat` has to look.
 */
function takeAtOnce<Form extends Rendered>(
  doors: Doors,
  seat: Seat<Form>,
  asked: Asked | undefined,
  who: Principal,
  client: string | undefined,
): boolean {
  if (asked?.after?.at !== 'seq' || asked.commit !== undefined || !who.may('read', seat.channel)) return false
  const after = asked.after.seq
  const place = asked.epoch === undefined ? { after } : { after, epoch: asked.epoch }
  const opened = Follower.openAtOnce(seenByCaller(doors.log, who), seat.channel, place)
  if (opened === undefined) return false
  if (client !== undefined) doors.keeper.signs.saw(client, seat.channel)
  seat.begin(opened)
  // Nothing is to be read there; what comes meanwhile ends the wait.
  seat.isAtHead = opened.opened.after === opened.opened.head
  seat.isServed = seat.isAtHead
  seat.asksToTell = asked.tell
  return true
}

/** Commits, then finds where the channel goes on. */
async function takeSeat<Form extends Rendered>(
  doors: Doors,
  seat: Seat<Form>,
  asked: Asked | undefined,
  who: Principal,
  client: string | undefined,
): Promise<void> {
  const { channel } = seat
  try {
    if (asked === undefined) throw new TidemarkError('bad-request', `${channel} can not be polled`)
    who.need('read', checkChannel(channel))
    if (asked.commit !== undefined) who.need('commit', channel)
    if (client !== undefined) doors.keeper.signs.saw(client, channel)
    if (client !== undefined && asked.commit !== undefined) await doors.census.roomForCursor(who, client, channel)
    const from = await placeOf(doors, channel, asked, client)
    seat.byWord = 'after' in from && from.after.at !== 'seq'
    seat.asksToTell = asked.tell
    seat.begin(await Follower.open(seenByCaller(doors.log, who), channel, from))
    // The caller handled events of a channel that is no more, under whatever epoch.
    if (seat.epoch === null && asked.commit) seat.reset = true
  } catch (error) {
    seat.error = ofOneChannel(error)
  }
}

/** Where the caller stands, after its cursor was moved. */
async function placeOf(doors: Doors, channel: string, asked: Asked, client: string | undefined): Promise<From> {
  const { commit, after, epoch } = asked
  const explicit = after && { after, epoch }
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
  // There is no room for this cursor; too much at once has no such limit, and is the request's.
  if (hasCode(error, 'too-many') && (error as TidemarkError).details.limit !== undefined) return error as TidemarkError
  throw error
}

/** Reads each channel once, until the answer is full. */
async function serve<Form extends Rendered>(
  seats: readonly Seat<Form>[],
  limit: number,
  render: Render<Form>,
  pages: Pages,
): Promise<void> {
  let events = limit
  let bytes = READ_BYTES
  for (const seat of seats) {
    if (events <= 0 || bytes <= 0) return
    seat.isServed = true
    const reading = read(seat, { events, bytes }, render, pages)
    if (reading) await reading
    events -= seat.page?.form.count ?? 0
    bytes -= seat.page?.form.length ?? 0
  }
}

/** At once, of what the log has in memory; waited for when more has to be looked at. */
function read<Form extends Rendered>(
  seat: Seat<Form>,
  limits: ReadLimits,
  render: Render<Form>,
  pages: Pages,
): Promise<void> | void {
  const { follower } = seat
  while (follower !== undefined) {
    const item = follower.recent(limits)
    if (item === UNREAD) return readOn(seat, follower, limits, render, pages)
    if (!take(seat, follower, item, limits, render)) return
  }
}

async function readOn<Form extends Rendered>(
  seat: Seat<Form>,
  follower: Follower,
  limits: ReadLimits,
  render: Render<Form>,
  pages: Pages,
): Promise<void> {
  for (let goesOn = true; goesOn; ) {
    const item = await follower.next(limits)
    const taken = (): boolean => take(seat, follower, item, limits, render)
    goesOn = item?.is === 'page' ? await pages.answer(item.page, taken) : taken()
  }
}

/** Takes what comes next in its channel; true when something else follows it at once. */
function take<Form extends Rendered>(
  seat: Seat<Form>,
  follower: Follower,
  item: Item | undefined,
  limits: ReadLimits,
  render: Render<Form>,
): boolean {
  switch (item?.is) {
    case 'gap':
      seat.gap = { after: seat.passed?.after ?? item.after, trimmed: item.trimmed }
      seat.passed = undefined
      seat.trimmed = item.trimmed
      return true
    case 'reset':
      seat.reset = true
      seat.passed = undefined
      seat.epoch = item.epoch
      seat.head = item.head
      seat.trimmed = item.trimmed
      return true
    case 'page': {
      const page = seat.passed ? behind(seat.passed, item.page) : item.page
      if (hasEvents(item.page)) {
        seat.passed = undefined
        seat.page = { page, form: render(page, limits.events) }
      } else seat.passed = page
      return false
    }
    case 'ended':
      if (item.error.code === 'no-channel') seat.lost()
      else seat.error = item.error
      return false
    case 'caughtup':
      seat.head = item.seq
      seat.epoch = follower.place.epoch ?? null
      return false
    case undefined:
      return false
  }
}

/** Waits until a channel speaks or the wait is over. Level-triggered like all waiting here. */
async function waitFor<Form extends Rendered>(
  seats: readonly Seat<Form>[],
  wait: CallWait,
  serveWoken: (woken: readonly Seat<Form>[]) => Promise<void>,
): Promise<void> {
  do {
    const woken = await wait.anyChanged(seats)
    await serveWoken(seats.filter((seat) => woken.has(seat)))
  } while (!wait.isOver && !seats.some((seat) => seat.speaks))
}
