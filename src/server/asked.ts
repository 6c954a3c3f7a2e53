/** What a `POST /v1/poll` asks for, read from its bytes: each field once, and none that is not known. */
import { TidemarkError } from '../errors.ts'
import { checkCursorName, checkEpoch, checkPosition, checkSeq, type Position } from '../event.ts'
import { jsonFields, jsonValue, knownFields, refuse, type Span } from '../formats/json.ts'
import { POLL_CHANNELS_MAX, READ_EVENTS, READ_EVENTS_MAX, WAIT_SECONDS_MAX } from '../wire.ts'

/** What the caller said of one channel. */
export interface Asked {
  readonly commit: number | undefined
  readonly after: Position | undefined
  /** The history that the caller knows; undefined for none. */
  readonly epoch: string | undefined
  /** It is to be told though nothing moved. */
  readonly tell: boolean
}

export interface AskedPoll {
  readonly client: string | undefined
  /** In the order of the request. Undefined: a name that nothing can be asked of. */
  readonly channels: ReadonlyMap<string, Asked | undefined>
  /** Seconds. */
  readonly wait: number
  /** Most events of the whole answer. */
  readonly limit: number
  /** Where the caller believes that the streamer's switch stands. */
  readonly streamer: 'on' | 'off' | undefined
}

const POLL = ['client', 'channels', 'wait', 'limit', 'streamer'] as const
const CHANNEL = ['commit', 'after', 'epoch', 'tell'] as const

/** @throws bad-request */
export function askedPoll(bytes: Uint8Array): AskedPoll {
  const fields = knownFields(bytes, undefined, POLL)
  const client = given(bytes, fields.get('client'), checkCursorName)
  const wait = given(bytes, fields.get('wait'), (value) => within('wait', value, 0, WAIT_SECONDS_MAX)) ?? 0
  const limit =
    given(bytes, fields.get('limit'), (value) => checkSeq(within('limit', value, 1, READ_EVENTS_MAX), 'limit')) ??
    READ_EVENTS
  const streamer = given(bytes, fields.get('streamer'), (value) =>
    value === 'on' || value === 'off' ? value : refuse('streamer is "on" or "off"', { field: 'streamer' }),
  )
  const span = fields.get('channels') ?? refuse('channels is an object', { field: 'channels' })
  const named = jsonFields(bytes, span, (_, before) => {
    if (before === POLL_CHANNELS_MAX)
      refuse(`A poll names at most ${POLL_CHANNELS_MAX} channels`, { limit: POLL_CHANNELS_MAX })
  })
  const channels = new Map<string, Asked | undefined>()
  for (const [name, span] of named) channels.set(name, askedOf(bytes, name, span, client))
  return { client, channels, wait, limit, streamer }
}

function askedOf(bytes: Uint8Array, name: string, span: Span, client: string | undefined): Asked | undefined {
  // A caller who keeps channels as an object's fields never means it.
  if (name === '__proto__') return undefined
  const where = `channels/${name}/`
  const fields = knownFields(bytes, span, CHANNEL, where)
  const commit = given(bytes, fields.get('commit'), (value) =>
    checkSeq(within(`${where}commit`, value, 0, Number.MAX_SAFE_INTEGER), `${where}commit`),
  )
  if (commit !== undefined && client === undefined) refuse('A commit is for a client', { field: `${where}commit` })
  const after = given(bytes, fields.get('after'), checkPosition)
  const epoch = given(bytes, fields.get('epoch'), (value) => (value === null ? undefined : checkEpoch(value)))
  const tell = given(bytes, fields.get('tell'), (value) =>
    typeof value === 'boolean' ? value : refuse('tell is true or false', { field: `${where}tell` }),
  )
  return { commit, after, epoch, tell: tell ?? false }
}

/** A field as it is checked; undefined where it is not given. */
function given<T>(bytes: Uint8Array, span: Span | undefined, check: (value: unknown) => T): T | undefined {
  return span && check(jsonValue(bytes, span))
}

function within(field: string, value: unknown, least: number, most: number): number {
  if (typeof value === 'number' && value >= least && value <= most) return value
  throw new TidemarkError('bad-request', `${field} is a number, ${least} … ${most}`, { field })
}
