/**
 * What a workload measures, and what becomes of it: one figure a run, a median and a range over the runs, a ratio to
 * each limit and each peer that was measured in the same run, a table for people and a document for programs.
 */

export type Unit =
  | 'events/s'
  | 'writes/s'
  | 'ms'
  | 'B/socket'
  | 'MiB'
  | 'deliveries/CPU s'
  | 'per delivery'
  | 'MiB/min'
  | 'cores'
  | 'pages/s'
  | 'µs/block'
  | 'events/block'
  | 'tries/write'

/** A count that must be right; a wrong one fails the whole bench. */
export interface Count {
  readonly what: string
  readonly wanted: number | string
  readonly got: number | string
}

/** One figure of one run. */
export interface Measure {
  /** Equal in every run. */
  readonly name: string
  /** Who was measured; a limit is a bare program that does the least that could be done, a peer another product. */
  readonly subject: 'tidemark' | 'limit' | 'peer'
  readonly figure: number
  readonly unit: Unit
  /** What an acknowledged event has survived: `fsync`, `none` (memory), or `-` where nothing is written. */
  readonly durability: string
  /** Names of the limits of the same run that this figure is compared with. */
  readonly limits?: readonly string[]
  /** What was done: a row of Tidemark is compared with the peers that did the same. */
  readonly work?: string | undefined
  /** CPU time of the server, microseconds per event (per delivery where events are delivered). */
  readonly cpu?: number | undefined
  /** Milliseconds. */
  readonly p50?: number
  readonly p99?: number
  readonly counts?: readonly Count[]
  /** Further numbers for the document. */
  readonly facts?: Readonly<Record<string, number>>
}

export interface Spread {
  readonly median: number
  readonly least: number
  readonly most: number
}

/** All runs of one name. */
export interface Row {
  readonly name: string
  readonly subject: Measure['subject']
  readonly unit: Unit
  readonly durability: string
  readonly figure: Spread
  readonly cpu: Spread | undefined
  readonly p50: Spread | undefined
  readonly p99: Spread | undefined
  /** Ratio to each limit, taken within each run. */
  readonly ratios: readonly { readonly limit: string; readonly ratio: Spread }[]
  /** The same to each peer, and to the one with the best median. */
  readonly peers: readonly { readonly peer: string; readonly ratio: Spread }[]
  readonly best: { readonly peer: string; readonly ratio: Spread } | undefined
  readonly runs: readonly Measure[]
}

/** Median, least and most. Of an even number of values, the median is the mean of the middle two. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
  return { median, least: sorted[0]!, most: sorted.at(-1)! }
}

/** Joins runs (each a list of measures) to rows, in the order of the first run. */
export function rowsOf(runs: readonly (readonly Measure[])[]): Row[] {
  const names = [...new Set(runs.flatMap((run) => run.map((measure) => measure.name)))]
  return names.map((name) => {
    const measures = runs.flatMap((run) => run.filter((measure) => measure.name === name))
    const first = measures[0]!
    const optional = (pick: (measure: Measure) => number | undefined): Spread | undefined => {
      const values = measures.map(pick).filter((value) => value !== undefined)
      return values.length > 0 ? spreadOf(values) : undefined
    }
    const ratios = (first.limits ?? []).flatMap((limit) => {
      const values = runs.flatMap((run) => ratioIn(run, name, limit))
      return values.length > 0 ? [{ limit, ratio: spreadOf(values) }] : []
    })
    const peers = first.subject === 'tidemark' ? peersOf(runs, first) : []
    return {
      name,
      subject: first.subject,
      unit: first.unit,
      durability: first.durability,
      figure: spreadOf(measures.map((measure) => measure.figure)),
      cpu: optional((measure) => measure.cpu),
      p50: optional((measure) => measure.p50),
      p99: optional((measure) => measure.p99),
      ratios,
      peers,
      // A ratio is to be high where more is better, and then it is lowest to the best peer.
      best: peers.toSorted((a, b) => (a.ratio.median - b.ratio.median) * (isBetterLow(first.unit) ? -1 : 1))[0],
      runs: measures,
    }
  })
}

/** The ratios of a row to the peers that did its work. */
function peersOf(runs: readonly (readonly Measure[])[], { name, work }: Measure): Row['peers'] {
  const did = (measure: Measure): boolean => measure.subject === 'peer' && measure.work === work
  const names = work === undefined ? [] : runs.flatMap((run) => run.filter(did).map((measure) => measure.name))
  return [...new Set(names)].flatMap((peer) => {
    const values = runs.flatMap((run) => ratioIn(run, name, peer))
    return values.length > 0 ? [{ peer, ratio: spreadOf(values) }] : []
  })
}

const LOW_IS_BETTER: ReadonlySet<Unit> = new Set(['ms', 'MiB', 'B/socket', 'per delivery', 'µs/block', 'tries/write'])
const isBetterLow = (unit: Unit): boolean => LOW_IS_BETTER.has(unit)

function ratioIn(run: readonly Measure[], name: string, limit: string): number[] {
  const own = run.find((measure) => measure.name === name)
  const other = run.find((measure) => measure.name === limit)
  return own && other && other.figure > 0 ? [own.figure / other.figure] : []
}

/** The counts that are wrong, in words. */
export function wrongCounts(rows: readonly Row[], isPeer = false): string[] {
  const concerned = rows.filter((row) => (row.subject === 'peer') === isPeer)
  return concerned.flatMap((row) =>
    row.runs.flatMap((measure) =>
      (measure.counts ?? [])
        .filter((count) => count.wanted !== count.got)
        .map((count) => `${row.name}: ${count.what}: ${count.got}, not ${count.wanted}`),
    ),
  )
}

/** Three significant digits: 5.13M, 24.1k, 812, 1.46, 0.067. */
export function short(value: number): string {
  const size = Math.abs(value)
  if (size >= 999_500) return `${digits(value / 1e6)}M`
  if (size >= 1e4) return `${digits(value / 1e3)}k`
  return digits(value)
}

function digits(value: number): string {
  const size = Math.abs(value)
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 || size === 0 ? 2 : 3)
}

const spread = (s: Spread | undefined, runs: number): string =>
  s === undefined ? '' : runs > 1 ? `${short(s.median)} (${short(s.least)}–${short(s.most)})` : short(s.median)

const HEAD = ['', 'median (range)', 'unit', 'p50 ms', 'p99 ms', 'CPU µs/ev', 'durable', 'beside limits and peers']
/** Columns that are set flush right. */
const NUMERIC: ReadonlySet<number> = new Set([1, 3, 4, 5])

/** A plain table. Limits and peers stand below, each with a letter, by which a ratio names it. */
export function tableOf(title: string, rows: readonly Row[]): string {
  const limits = rows.filter((row) => row.subject === 'limit')
  const peers = rows.filter((row) => row.subject === 'peer')
  const letterOf = new Map([...limits, ...peers].map((row, i) => [row.name, letter(i)]))
  const ratio = (name: string, { median }: Spread): string => `${short(median)} × ${letterOf.get(name) ?? name}`
  const line = (row: Row): string[] => [
    letterOf.has(row.name) ? `${letterOf.get(row.name)}  ${row.name}` : row.name,
    spread(row.figure, row.runs.length),
    row.unit,
    row.p50 ? short(row.p50.median) : '',
    row.p99 ? spread(row.p99, row.runs.length) : '',
    row.cpu ? short(row.cpu.median) : '',
    row.durability,
    [
      ...row.ratios.map((beside) => ratio(beside.limit, beside.ratio)),
      ...row.peers.map((beside) => ratio(beside.peer, beside.ratio)),
      ...(row.best ? [`best peer: ${ratio(row.best.peer, row.best.ratio)}`] : []),
    ].join('   '),
  ]
  const measured = rows.filter((row) => row.subject === 'tidemark').map(line)
  const beside = peers.length > 0 ? [['peers, same run'], ...peers.map(line)] : []
  const lines = [HEAD, ...measured, ['limits of this machine, same run'], ...limits.map(line), ...beside]
  const widths = HEAD.map((_, column) => Math.max(...lines.filter((l) => l.length > 1).map((l) => l[column]!.length)))
  const text = lines.map((cells) =>
    cells
      .map((cell, column) => (NUMERIC.has(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd(),
  )
  return [title, ...text.map((l) => `  ${l}`)].join('\n')
}

/** a … z, then a1 … */
const letter = (i: number): string => String.fromCharCode(97 + (i % 26)) + (i < 26 ? '' : Math.floor(i / 26))
