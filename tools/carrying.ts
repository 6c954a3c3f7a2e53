/** What export, import, backup, restore and copy have in common: where histories are, which are meant, and how far it is. */
import { existsSync, statSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { readHeader } from '../src/block.ts'
import { hasCode, TidemarkError } from '../src/errors.ts'
import { isSystemChannel } from '../src/event.ts'
import type { Piece } from '../src/log/carry.ts'
import type { Giver } from '../src/log/give.ts'
import { openLog } from '../src/log/open.ts'
import type { Taken, Taker } from '../src/log/take.ts'
import { matches, readPattern } from '../src/pattern.ts'
import type { ScanOptions } from './archive/scan.ts'
import { isOnline } from './ask.ts'
import { startBar } from './bar.ts'
import type { Run } from './command.ts'
import { servedLog } from './served.ts'
import type { Terminal } from './terminal.ts'
import { MIB } from './verify.ts'

/** A log that is open: of a directory, or a server's. */
export interface Place {
  readonly log: Giver & Taker
  /** The directory or address. */
  readonly name: string
  /** Nobody else has it open. */
  readonly isAlone: boolean
  close(): Promise<void>
}

/**
 * The log of a directory that no server has open, or of a server.
 * @param at a directory or an address
 * @param create make a log where there is none
 * @throws not-found, in-use and others of openLog; not-supported; what a server says to who is no admin
 */
export async function openPlace(run: Run, at: string, create: boolean): Promise<Place> {
  const { settings, terminal } = run
  if (isAddress(at)) {
    const log = await servedLog({ ...settings, url: at }, terminal.stopped())
    return { log, name: at, isAlone: false, close: async () => {} }
  }
  const dir = resolve(at)
  if (!create && !existsSync(dir))
    throw new TidemarkError(
      'not-found',
      `There is no log in ${dir}: --data names the directory of a stopped one, --url a running server`,
    )
  const log = await openLog({ dir, create, onNotice: (level, message) => tellNotice(terminal, level, message) })
  const { arrive } = log
  if (!arrive) {
    await log.close()
    throw new TidemarkError('not-supported', 'This engine takes in no histories')
  }
  const taker = Object.assign(log, { arrive: arrive.bind(log) })
  return { log: taker, name: dir, isAlone: true, close: () => log.close() }
}

export const isAddress = (at: string): boolean => /^https?:\/\//i.test(at)

/** Where the settings point: `--url` or `--data`. */
export const placeOf = (run: Run): string => (isOnline(run) ? run.settings.url : run.settings.data)

function tellNotice(terminal: Terminal, level: 'info' | 'warn' | 'error', message: string): void {
  if (level !== 'info') terminal.say(`tidemark: ${message}`)
}

/** Opens, uses and closes. */
export async function withPlace<T>(
  run: Run,
  at: string,
  create: boolean,
  use: (place: Place) => Promise<T>,
): Promise<T> {
  const place = await openPlace(run, at, create)
  try {
    return await use(place)
  } finally {
    await place.close()
  }
}

/** Names and patterns from the command line. @throws bad-request */
export function patternsOf(arg: Run['args'][number]): readonly string[] {
  const patterns = arg === undefined ? [] : [arg].flat()
  for (const pattern of patterns) readPattern(pattern)
  return patterns
}

/** Whether a channel is meant: by one of the patterns, or, where there are none, whoever is not the system's. */
export function meantBy(patterns: readonly string[]): (channel: string) => boolean {
  const read = patterns.map((pattern) => readPattern(pattern))
  return (channel) =>
    read.length === 0 ? !isSystemChannel(channel) : read.some((pattern) => matches(pattern, channel))
}

/** A file that is read without a bar: it takes a moment. */
const BAR_BYTES = 4 * MIB

/** Reads a file of an archive with a bar of how far that is. @param scan is told what the bar and a Ctrl-C need */
export async function withBar<T>(
  terminal: Terminal,
  work: string,
  path: string,
  scan: (options: ScanOptions) => Promise<T>,
): Promise<T> {
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0
  const isLong = size >= BAR_BYTES
  const bar = startBar(isLong ? terminal : {}, work, Math.ceil(size / MIB), 'MiB')
  const onProgress = (bytes: number): void => bar.at(Math.floor(bytes / MIB), basename(path))
  try {
    return await scan({ signal: terminal.stopped(), onProgress })
  } finally {
    bar.end()
  }
}

/** How many seqs there are to be given. */
export async function seqsOf(log: Giver, wanted: (channel: string) => boolean): Promise<number> {
  let seqs = 0
  for await (const { channel, head, trimmed } of log.channels('')) if (wanted(channel)) seqs += head - trimmed
  return seqs
}

/** The pieces as they are, with a bar of how far they are. */
export async function* shown(
  terminal: Terminal,
  work: string,
  total: number,
  pieces: AsyncIterable<Piece>,
): AsyncGenerator<Piece> {
  const bar = startBar(terminal, work, total, 'events')
  let [before, seqs, channel, trimmed] = [0, 0, '', 0]
  try {
    for await (const piece of pieces) {
      yield piece
      if (piece.is === 'channel') {
        before += seqs
        seqs = 0
        ;({ channel, trimmed } = piece)
      } else if (piece.is === 'blocks') seqs = lastOf(piece.blocks, trimmed + seqs) - trimmed
      else if (piece.is === 'lost' || piece.is === 'trimmed') seqs = piece.upTo - trimmed
      bar.at(before + seqs, channel)
    }
  } finally {
    bar.end()
  }
}

const lastOf = (blocks: readonly Uint8Array[], or: number): number => {
  const last = blocks.at(-1)
  return last ? readHeader(last).last : or
}

/** What a run that ended so is gone on from: it, or what was in its way, passes. */
const PASSING = ['unavailable', 'storage-full', 'too-many', 'timeout'] as const

/**
 * Says of work that failed whether it can be gone on with.
 * @param left what there is to go on with; by default whole channels, and a part of the last ones
 * @throws the failure
 */
export function tellGoingOn(
  { terminal }: Pick<Run, 'terminal'>,
  error: unknown,
  left = 'channels that came are there, and what came of the last ones',
): never {
  if (terminal.stopped().aborted || PASSING.some((code) => hasCode(error, code)))
    terminal.say(`tidemark: ${left}; the same command goes on`)
  throw error
}

/** What was carried, in words. */
export function textOf({
  channels,
  events,
  cursors,
  lost,
  lostCursors,
  present = 0,
}: Omit<Taken, 'present'> & Partial<Taken>): string {
  const of = `${channels} channels, ${events} events, ${cursors} cursors`
  const there = present > 0 ? `; ${present} of the channels were there already` : ''
  const gone = [
    ...(lost > 0 ? [`; ${lost} events are LOST where they come from`] : []),
    ...(lostCursors > 0 ? [`; ${lostCursors} cursors are DAMAGED there`] : []),
  ]
  return `${of}${there}${gone.join('')}`
}

/** Channels that a message names. */
const NAMES_SHOWN = 10

/**
 * At the end of work that carried all that there is.
 * @param damaged channels that could not be carried at all
 * @throws data-loss when that is not all that there was
 */
export function tellLost(
  { lost, lostCursors }: Pick<Taken, 'lost' | 'lostCursors'>,
  damaged: ReadonlySet<string> = new Set(),
): void {
  const names = [...damaged]
  const [shown, more] = [names.slice(0, NAMES_SHOWN).join(', '), names.length - NAMES_SHOWN]
  const told = [
    ...(names.length > 0 ? [`Damaged, and not carried: ${shown}${more > 0 ? ` and ${more} more` : ''}`] : []),
    ...(lost > 0 ? [`${lost} events were damaged or missing where they come from`] : []),
    ...(lostCursors > 0 ? [`${lostCursors} cursors were damaged there (verify names them)`] : []),
  ]
  if (told.length > 0) throw new TidemarkError('data-loss', told.join('; '))
}
