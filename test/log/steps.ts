/** The steps that a random history is made of. */
import fc from 'fast-check'
import type { ReadLimits } from '../../src/log/log.ts'
import type { Retention } from '../../src/retention.ts'
import { ALL, BLOCKWISE } from './reading.ts'

const CHANNELS = ['a', 'a/b', 'b'] as const
export const CLIENTS = ['web', 'app'] as const
const KEYS = ['k1', 'k2', 'k3'] as const

/** A place in a channel, said so that it means something whatever the channel holds. */
export interface Where {
  readonly channel: string
  /** Thousandths of the way from 0 to a little beyond the head. */
  readonly at: number
  readonly epoch: 'none' | 'now' | 'before' | 'old' | 'unknown'
}

export type Step =
  | { readonly verb: 'append'; readonly sends: readonly Planned[] }
  | { readonly verb: 'retry'; readonly which: number; readonly changed: boolean }
  | { readonly verb: 'read'; readonly where: Where; readonly limits: ReadLimits }
  | { readonly verb: 'goOn' }
  | { readonly verb: 'changed'; readonly where: Where }
  | { readonly verb: 'commit' | 'seek'; readonly where: Where; readonly client: string }
  | { readonly verb: 'forget'; readonly channel: string; readonly client: string }
  | { readonly verb: 'trim'; readonly where: Where }
  | { readonly verb: 'delete'; readonly channel: string }
  | {
      readonly verb: 'configure'
      readonly channel: string
      readonly note: string
      readonly retention: Retention | undefined
    }
  | { readonly verb: 'compact'; readonly channel: string; readonly tombstonesToo: boolean; readonly merely: boolean }
  | { readonly verb: 'keep' }
  | { readonly verb: 'reopen' }

/** An append whose expected seqs are decided when its turn comes. */
export interface Planned {
  readonly entries: readonly {
    readonly channel: string
    readonly values: readonly number[]
    readonly expects: 'any' | 'right' | 'wrong'
  }[]
  readonly key: string | undefined
}

const channel = fc.constantFrom(...CHANNELS)
const client = fc.constantFrom(...CLIENTS)
const where: fc.Arbitrary<Where> = fc.record({
  channel,
  at: fc.nat(1_000),
  epoch: fc.constantFrom('none', 'now', 'now', 'before', 'old', 'unknown'),
})
const entry = fc.record({
  channel,
  values: fc.array(fc.nat(99), { minLength: 1, maxLength: 6 }),
  expects: fc.constantFrom('any' as const, 'any' as const, 'right' as const, 'wrong' as const),
})
const planned: fc.Arbitrary<Planned> = fc.record({
  entries: fc.oneof(
    { weight: 4, arbitrary: fc.tuple(entry) },
    { weight: 1, arbitrary: fc.uniqueArray(entry, { selector: ({ channel }) => channel, minLength: 2, maxLength: 3 }) },
  ),
  key: fc.option(fc.constantFrom(...KEYS), { nil: undefined }),
})
const limits = fc.constantFrom(ALL, BLOCKWISE, { events: 5, bytes: 1e6 }, { events: 1e4, bytes: 150 })

const BOTH: Retention = { maxEvents: 2, consumed: true }

export const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      verb: fc.constant('append' as const),
      sends: fc.array(planned, { minLength: 1, maxLength: 4 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ verb: fc.constant('retry' as const), which: fc.nat(), changed: fc.boolean() }) },
  { weight: 6, arbitrary: fc.record({ verb: fc.constant('read' as const), where, limits }) },
  { weight: 8, arbitrary: fc.record({ verb: fc.constant('goOn' as const) }) },
  { weight: 2, arbitrary: fc.record({ verb: fc.constant('changed' as const), where }) },
  { weight: 4, arbitrary: fc.record({ verb: fc.constantFrom('commit' as const, 'seek' as const), where, client }) },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant('forget' as const), channel, client }) },
  { weight: 2, arbitrary: fc.record({ verb: fc.constant('trim' as const), where }) },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant('delete' as const), channel }) },
  {
    weight: 1,
    arbitrary: fc.record({
      verb: fc.constant('configure' as const),
      channel,
      note: fc.string({ maxLength: 5 }),
      retention: fc.constantFrom<(Retention | undefined)[]>(undefined, {}, { maxEvents: 3 }, { consumed: true }, BOTH),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      verb: fc.constant('compact' as const),
      ...{ channel, tombstonesToo: fc.boolean(), merely: fc.nat(9).map((n) => n === 0) },
    }),
  },
  { weight: 2, arbitrary: fc.record({ verb: fc.constant('keep' as const) }) },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant('reopen' as const) }) },
)
