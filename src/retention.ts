/**
 * How much of a channel is kept: limits that a channel's settings carry, or a rule of the configuration for the
 * channels of a pattern, `logs/**: age=7d, events=1000000, bytes=1GiB, consumed`; and whether its state is kept on disk,
 * `files/**: state`.
 */
import { TidemarkError } from './errors.ts'
import { AUDIT_CHANNEL, SEQ_MAX } from './event.ts'
import { matches, type Pattern, readPattern } from './pattern.ts'
import { between, DURATION_UNITS, SIZE_UNITS, withUnit } from './units.ts'

/** What is kept; without any of them everything is. */
export interface Retention {
  /** Events that are older are dropped; whole seconds. */
  readonly maxAge?: number
  /** So many seqs up to the head stay. */
  readonly maxEvents?: number
  /** The blocks that stay take at most so many bytes; the newest block always stays. */
  readonly maxBytes?: number
  /** Nothing is dropped that a living cursor has not passed; without a limit beside it, what all have passed is. */
  readonly consumed?: boolean
}

export interface RetentionRule {
  readonly pattern: Pattern
  /** Without any limit the rule says nothing of what is kept. */
  readonly retention: Retention
  /** Whether the newest event of each key is kept on disk, too; undefined: the rule does not say. */
  readonly state?: boolean | undefined
}

/** Where something was said: in a channel's settings, or under this pattern of the configuration. */
type From = 'channel' | `pattern ${string}`

/** What is in force for a channel. */
export interface InForce {
  readonly retention: Retention
  readonly from: From
}

/** Whether the state of a channel is kept on disk. */
export interface StateInForce {
  readonly state: boolean
  readonly from: From
}

/** Longest `maxAge`, s: 100 years. */
export const RETENTION_AGE_MAX = 3_155_760_000
/** Most rules of a configuration: each channel is held against them at each look. */
export const RETENTION_RULES_MAX = 100

/** What is kept of the audit trail where no rule says: a year, and of a server under attack its newest entries. */
export const AUDIT_RETENTION = `${AUDIT_CHANNEL}: age=365d, bytes=1GiB`

/** What is kept of a channel: as its own settings say, whole, else as the first rule with limits whose pattern reaches it. */
export function retentionOf(
  rules: readonly RetentionRule[],
  channel: string,
  settings: { readonly retention?: Retention },
): InForce | undefined {
  const own = settings.retention
  if (own !== undefined) return limits(own) ? { retention: own, from: 'channel' } : undefined
  const rule = rules.find(({ pattern, retention }) => limits(retention) && matches(pattern, channel))
  return rule && { retention: rule.retention, from: fromOf(rule) }
}

/** As its own settings say, else as the first rule that says it and whose pattern reaches the channel; undefined: nobody does. */
export function stateOf(
  rules: readonly RetentionRule[],
  channel: string,
  settings: { readonly state?: boolean },
): StateInForce | undefined {
  if (settings.state !== undefined) return { state: settings.state, from: 'channel' }
  const rule = rules.find(({ pattern, state }) => state !== undefined && matches(pattern, channel))
  return rule && { state: rule.state!, from: fromOf(rule) }
}

const fromOf = ({ pattern }: RetentionRule): From => `pattern ${pattern.text}`

const limits = ({ maxAge, maxEvents, maxBytes, consumed }: Retention): boolean =>
  maxAge !== undefined || maxEvents !== undefined || maxBytes !== undefined || consumed === true

/** `PATTERN: age=7d, events=1000000, bytes=1GiB, consumed, state`, at least one of them. @throws bad-request */
export function readRetentionRule(text: string): RetentionRule {
  const at = text.lastIndexOf(':')
  if (at < 0) return refuse(text)
  const pattern = readPattern(text.slice(0, at).trim())
  // The server keeps its own channels itself: the streamer's switch is what its channel holds. The trail only grows.
  if (pattern.isSystem && pattern.text !== AUDIT_CHANNEL) return refuse(text)
  const read: { -readonly [Limit in keyof Retention]: Retention[Limit] } & { state?: boolean } = {}
  for (const part of text.slice(at + 1).split(',')) {
    const [name, value = '', more] = part.split('=').map((each) => each.trim())
    const limit = Object.hasOwn(LIMITS, name!) ? LIMITS[name as keyof typeof LIMITS] : undefined
    const found = more === undefined ? limit?.read(value) : undefined
    if (found === undefined || read[limit!.sets] !== undefined) return refuse(text)
    Object.assign(read, { [limit!.sets]: found })
  }
  const { state, ...retention } = read
  return { pattern, retention, ...(state !== undefined && { state }) }
}

const LIMITS = {
  age: {
    sets: 'maxAge',
    read: (value: string) => {
      const ms = withUnit(value, DURATION_UNITS)
      return typeof ms === 'number' ? between(ms / 1_000, 1, RETENTION_AGE_MAX) : undefined
    },
  },
  events: {
    sets: 'maxEvents',
    read: (value: string) => (/^\d+$/.test(value) ? between(Number(value), 1, SEQ_MAX) : undefined),
  },
  bytes: { sets: 'maxBytes', read: (value: string) => between(withUnit(value, SIZE_UNITS), 1, SEQ_MAX) },
  consumed: { sets: 'consumed', read: (value: string) => value === '' || undefined },
  state: { sets: 'state', read: (value: string) => (value === 'off' ? false : value === '' || undefined) },
} as const

function refuse(text: string): never {
  throw new TidemarkError(
    'bad-request',
    `A retention is PATTERN: age=7d, events=1000000, bytes=1GiB, consumed, state (each once, one at least), not ${JSON.stringify(text)}`,
    { field: 'retention' },
  )
}
