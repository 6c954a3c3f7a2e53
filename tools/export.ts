import type { Command } from 'commander'
import { Option } from 'commander'
import type { Piece } from '../src/log/carry.ts'
import { type GiveOptions, give, giveChannel } from '../src/log/give.ts'
import { version } from '../src/server/home.ts'
import { blocksCodec } from './archive/blocks.ts'
import { Archivist, PartFile } from './archive/file.ts'
import { linesCodec } from './archive/lines.ts'
import { ARCHIVE_FORMAT, type Asked, type Codec, type Head, type Tail } from './archive/record.ts'
import { wrongUsage } from './ask.ts'
import {
  meantBy,
  type Place,
  patternsOf,
  placeOf,
  seqsOf,
  shown,
  tellGoingOn,
  tellLost,
  textOf,
  withBar,
  withPlace,
} from './carrying.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal } from './terminal.ts'

export const exportCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'export [CHANNELS...]',
      summary: 'write channels with their events, settings and cursors to an archive',
      more:
        'Reads the directory of a stopped server, or with --url a running one, as an admin. Each channel is written as ' +
        'it is at one moment of its own. An archive whose name ends in .ndjson, and what goes to stdout, has an event a ' +
        'line; any other keeps blocks as the log does. It has its name only when all of it is there and was read ' +
        'back: a run that was stopped leaves FILE.part, and the same command goes on with it. CHANNELS are names or ' +
        'patterns (orders/**); none: all but the system’s.',
      settings: ['data', 'url', 'tokenFile', 'patience', 'json'],
      options: [
        new Option('-o, --out <FILE>', 'the archive; it must not exist'),
        new Option('--format <FORMAT>', 'how it is written; else its name says').choices(['blocks', 'lines']),
      ],
      examples: [
        ['tidemark export -o all.tidemark', 'all channels of the log in data/log'],
        ['tidemark export orders --url http://127.0.0.1:7070 | jq .data', 'one channel of a running server, as lines'],
        ['tidemark export "logs/**" -o logs.ndjson --data /var/lib/tidemark', 'some, an event a line'],
      ],
    },
    terminal,
    exportChannels,
  )

export async function exportChannels(run: Run): Promise<void> {
  const { out, format } = run.options
  const channels = patternsOf(run.args[0])
  const codec = format === undefined ? codecFor(out) : format === 'lines' ? linesCodec : blocksCodec
  if (typeof out === 'string')
    return writeFile(run, { at: placeOf(run), file: out, codec, channels, wanted: meantBy(channels), work: 'export' })
  if (codec !== linesCodec) throw wrongUsage('A block archive takes -o FILE: it is not for a terminal')
  await withPlace(run, placeOf(run), false, async (place) => {
    const print = (bytes: Uint8Array) =>
      bytes.length > 0 ? run.terminal.print(Buffer.from(bytes).toString().slice(0, -1)) : undefined
    const archivist = new Archivist({ write: async (bytes) => print(bytes) }, codec)
    await archivist.write(headOf({ source: place.name, channels }))
    const damaged = new Set<string>()
    const pieces = give(place.log, {
      ...{ wanted: meantBy(channels), signal: run.terminal.stopped() },
      onDamaged: (channel) => damaged.add(channel),
    })
    for await (const piece of pieces) await archivist.write(piece)
    tellLost(await archivist.end(), damaged)
  })
}

const codecFor = (out: unknown): Codec =>
  typeof out !== 'string' || /\.(?:ndjson|jsonl)$/i.test(out) ? linesCodec : blocksCodec

export interface Writing {
  /** A directory or an address. */
  readonly at: string
  readonly file: string
  readonly codec: Codec
  readonly channels: readonly string[]
  readonly wanted: (channel: string) => boolean
  /** For the progress bar. */
  readonly work: string
}

/** Writes an archive, or goes on with one. */
export async function writeFile(run: Run, { at, file, codec, channels, wanted, work }: Writing): Promise<void> {
  const { terminal, settings } = run
  const damaged = new Set<string>()
  const onDamaged = (channel: string) => damaged.add(channel)
  const tail = await withPlace(run, at, false, async (place) => {
    const asked = { source: place.name, channels }
    const left = `${file}.part`
    const part = await withBar(terminal, 'look', left, (options) => PartFile.open(file, codec, asked, options))
    try {
      const tail = await write(run, place, part, codec, asked, { wanted, onDamaged }, work)
      await withBar(terminal, 'check', part.path, (options) => part.finish(options))
      return tail
    } catch (error) {
      tellGoingOn(run, error, `${printable(part.path)} holds what came so far`)
    } finally {
      await part.close()
    }
  })
  await terminal.print(
    settings.json ? JSON.stringify({ file, ...tail }) : `${file}: ${textOf(tail)}`,
    `${file} is written`,
  )
  tellLost(tail, damaged)
}

async function write(
  { terminal }: Run,
  { log }: Place,
  part: PartFile,
  codec: Codec,
  asked: Asked,
  { wanted, onDamaged }: Required<Pick<GiveOptions, 'wanted' | 'onDamaged'>>,
  work: string,
): Promise<Tail> {
  const { before } = part
  const archivist = new Archivist(part, codec, before)
  if (!before) await archivist.write(headOf(asked))
  else {
    const of = new Date(before.head.time).toISOString()
    terminal.say(`tidemark: going on with ${printable(part.path)} of ${of}, which holds ${textOf(before.totals)}`)
  }
  const has = new Set(before?.channels.keys())
  const isLeft = (channel: string): boolean => wanted(channel) && !has.has(channel)
  const signal = terminal.stopped()
  const pieces = async function* (): AsyncGenerator<Piece> {
    const begun = before?.begun
    if (begun) {
      has.add(begun.info.channel)
      yield* giveChannel(log, begun, signal)
    }
    yield* give(log, { wanted: isLeft, onDamaged, signal })
  }
  const total = await seqsOf(log, isLeft)
  for await (const piece of shown(terminal, work, total, pieces())) await archivist.write(piece)
  return archivist.end()
}

const headOf = (asked: Asked): Head => ({
  ...{ is: 'archive', format: ARCHIVE_FORMAT, by: `tidemark/${version()}`, time: Date.now() },
  ...asked,
})
