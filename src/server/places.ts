/**
 * Where a stream of server-sent events begins, and how its position stands in the ids of its messages.
 *
 *   one channel      <epoch>:<seq>
 *   several          <digest of the names>,<epoch>:<seq>,<epoch>:<seq>,…       in the order of the URL, ≤ 2 KiB
 *
 * The epoch is empty while there is no such channel.
 */
import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Principal } from '../access/principal.ts'
import { sameHistory } from '../epoch.ts'
import { TidemarkError } from '../errors.ts'
import { checkChannel, checkCursorName, checkEpoch, checkPosition, EARLIEST, SEQ_MAX } from '../event.ts'
import { refuse } from '../formats/json.ts'
import type { From, Opened } from '../log/follow.ts'
import type { Sign } from '../log/signs.ts'
import { SSE_CHANNELS_MAX } from '../wire.ts'
import { parsePath, parseQuery } from './http.ts'

/** One channel of a stream, and where it begins. */
export interface Start {
  readonly channel: string
  readonly from: From
}

export interface AskedStream {
  readonly starts: readonly Start[]
  /** Events are named by their type; else all of them are `message`. */
  readonly named: boolean
  /** Of the channels' names, when the address can name several. */
  readonly digest: string | undefined
  /** Whose cursor it begins at, or began at the first time. */
  readonly follower: Sign | undefined
}

/** What a stream is asked for: by its address, or by the id of the last message that the client saw. @throws bad-request, not-found */
export function askedStream(req: IncomingMessage, who: Principal): AskedStream {
  const url = req.url!
  const lastId = req.headers['last-event-id']
  const id = typeof lastId === 'string' && lastId !== '' ? lastId : undefined
  const path = parsePath(url)
  if (path?.resource === 'events') return oneChannel(url, path.channel, id, who)
  if (path === undefined && url.split('?', 1)[0] === '/v1/events') return severalChannels(url, id)
  throw new TidemarkError('not-found', 'There is nothing at this address')
}

function oneChannel(url: string, channel: string, id: string | undefined, who: Principal): AskedStream {
  const query = parseQuery(url, ['after', 'epoch', 'client', 'named'])
  const given = (name: string): string | undefined => query.get(name)?.[0]
  const client = given('client')
  if (client !== undefined && query.has('after'))
    refuse('A stream begins at after or at the cursor of client, not both')
  const epoch = query.has('epoch') ? checkEpoch(given('epoch')) : undefined
  const asked: From =
    client === undefined
      ? { after: checkPosition(given('after')), epoch }
      : { client: who.cursor(checkCursorName(client)), epoch }
  const from = id === undefined ? asked : fromId(id)
  const follower = client === undefined ? undefined : ([who.cursor(client), channel] as const)
  return { starts: [{ channel, from }], named: isNamed(given('named')), digest: undefined, follower }
}

function severalChannels(url: string, id: string | undefined): AskedStream {
  const query = parseQuery(url, ['channel', 'named'], 'channel')
  const asked = (query.get('channel') ?? []).map(readStart)
  const names = asked.map(({ channel }) => channel)
  const facts = { field: 'channel', limit: SSE_CHANNELS_MAX }
  if (names.length === 0 || names.length > SSE_CHANNELS_MAX)
    refuse(`channel is given 1–${SSE_CHANNELS_MAX} times`, facts)
  if (new Set(names).size < names.length) refuse('A channel is named twice', { field: 'channel' })
  const digest = createHash('sha256').update(names.join('\n')).digest('base64url').slice(0, 12)
  const starts = id === undefined ? asked : fromIds(id, digest, names)
  return { starts, named: isNamed(query.get('named')?.[0]), digest, follower: undefined }
}

/** `orders`, `orders@41`, `orders@head-50`, `files@x1:7`. */
function readStart(text: string): Start {
  const at = text.indexOf('@')
  if (at < 0) return { channel: checkChannel(text), from: { after: EARLIEST } }
  const channel = checkChannel(text.slice(0, at))
  const place = text.slice(at + 1)
  const colon = place.indexOf(':')
  if (colon < 0 || place.startsWith('time:')) return { channel, from: { after: checkPosition(place) } }
  return {
    channel,
    from: { after: checkPosition(place.slice(colon + 1)), epoch: checkEpoch(place.slice(0, colon)) },
  }
}

function isNamed(given = '1'): boolean {
  if (given !== '0' && given !== '1') refuse('named is 0 or 1', { field: 'named' })
  return given === '1'
}

// ── Ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export const placeId = (epoch: string | null | undefined, seq: number | ''): string => `${epoch ?? ''}:${seq}`

const PLACE = /^([A-Za-z0-9._~-]{0,32}):(\d{1,16})$/
/** An epoch that no history has: what the client saw is not ours, and it is told so by a reset. */
const FOREIGN: From = { after: EARLIEST, epoch: '-' }
const NOWHERE = placeId('-', 0)

/** An id that we can't have written is no reason to refuse: an EventSource would give up, knowing nothing. */
function fromId(id: string): From {
  const [, epoch = '', digits] = PLACE.exec(id) ?? []
  const seq = Number(digits)
  if (!(seq <= SEQ_MAX)) return FOREIGN
  return { after: { at: 'seq', seq }, epoch: epoch === '' ? undefined : epoch }
}

function fromIds(id: string, digest: string, names: readonly string[]): Start[] {
  const [given, ...places] = id.split(',')
  const ours = given === digest && places.length === names.length
  return names.map((channel, i) => ({ channel, from: ours ? fromId(places[i]!) : FOREIGN }))
}

/** What the client of a stream was told, channel by channel: nothing stands in an id before its message was written. */
export class Told {
  readonly #digest: string | undefined
  readonly #places: string[]

  constructor(digest: string | undefined, places: readonly string[]) {
    this.#digest = digest
    this.#places = [...places]
  }

  set(index: number, epoch: string | undefined, seq: number): void {
    this.#places[index] = placeId(epoch, seq)
  }

  /** The id of a message after which the client stands here. */
  get id(): string {
    return this.#digest === undefined ? this.#places[0]! : [this.#digest, ...this.#places].join(',')
  }

  /** What stands in an id around the place of one channel. */
  around(index: number): { readonly before: string; readonly behind: string } {
    if (this.#digest === undefined) return { before: '', behind: '' }
    const before = [this.#digest, ...this.#places.slice(0, index), '']
    const behind = ['', ...this.#places.slice(index + 1)]
    return { before: before.join(','), behind: behind.join(',') }
  }
}

/**
 * What a client may be said to know when its stream begins: the place that was found for a word; what it said itself
 * where that is to be judged first (a gap, another history); in no case more.
 */
export function firstPlace({ from }: Start, opened: Opened | undefined): string {
  if (opened === undefined) return NOWHERE
  if ('after' in from && from.after.at === 'seq') return placeId(from.epoch ?? opened.epoch, from.after.seq)
  const { epoch } = from
  if (epoch === undefined || (opened.epoch !== null && sameHistory(epoch, opened.epoch)))
    return placeId(opened.epoch, opened.after)
  return placeId(epoch, 0)
}

/** A place that was found for a word is told at once: looked up again later, it would be another one. */
export const isWord = ({ from }: Start): boolean =>
  'after' in from && (from.after.at === 'head' || from.after.at === 'time')
