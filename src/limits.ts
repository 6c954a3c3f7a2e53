/**
 * How much one caller, and all together, may have of this server: each limit once, with its default. config.ts makes a
 * setting of each, so that it has a flag, a variable and a key in the file; PROTOCOL.md says what is beyond it. Sizes of
 * what is sent and times stand where they are used (event.ts, wire.ts, doors/limits.ts): they are the protocol's.
 */

interface Limit {
  /** For help: what there are at most so many of. */
  readonly about: string
  readonly default: number
  readonly min: number
  readonly max: number
}

const limit = (about: string, standard: number, max: number, min = 1): Limit => ({ about, default: standard, min, max })

const MANY = 1_000_000_000

export const LIMITS = {
  maxChannels: limit('channels in all: what would make another is refused', 1_000_000, MANY),
  maxCursors: limit('cursors in all', 10_000_000, MANY),
  cursorsPerSubject: limit('cursors of one subject', 10_000, MANY),
  appendsPerKey: limit('appends a second under one key or subject; 0 is any number', 0, 1_000_000, 0),
  stateMemory: limit('memory that the states of channels take together, MiB', 256, 1_000_000),
  maxConnections: limit('open connections, sockets and streams included', 20_000, 1_000_000),
  connectionsPerSubject: limit('sockets and streams of one subject', 1_000, 1_000_000),
  subscriptionsPerSocket: limit('channels that one socket follows', 1_000, 100_000),
  handshakesPerAddress: limit('handshakes of sockets a second without a credential, of one address', 20, 1_000_000),
  handshakesAtOnce: limit('such handshakes at once, of one address', 100, 1_000_000),
  maxStrangers: limit('sockets that have not said hello', 1_000, 1_000_000),
  strangersPerAddress: limit('sockets that have not said hello, of one address', 64, 1_000_000),
  failuresPerAddress: limit('credentials a minute that are not good, of one address', 10, 1_000_000),
} as const satisfies Record<string, Limit>

export type LimitName = keyof typeof LIMITS
export type Limits = Readonly<Record<LimitName, number>>

export const LIMIT_NAMES = Object.keys(LIMITS) as LimitName[]

/** The limits in force: those that are given, the others as they stand here. */
export const limitsOf = (given: Partial<Limits> = {}): Limits =>
  Object.fromEntries(LIMIT_NAMES.map((name) => [name, given[name] ?? LIMITS[name].default])) as unknown as Limits
