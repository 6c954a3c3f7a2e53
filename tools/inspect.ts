import { type Command, Option } from 'commander'
import { type Event, formatTime } from '../src/event.ts'
import { inspectChannel, inspectStopped } from '../src/log/open.ts'
import { channelOf, wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal, table } from './terminal.ts'

/** Blocks shown when nobody says how many. */
const COUNT = 100
/** Of an event's data, characters shown to people. */
const DATA_CHARS = 100

export const inspectCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'inspect [CHANNEL]',
      summary: 'show what is in the log of a stopped server: its channels, or the blocks of one',
      more: 'Changes nothing, and reads damaged logs too: a block that is not what was written is marked.',
      settings: ['data', 'json'],
      options: [
        new Option('--from <SEQ>', 'begin with the block that holds this seq'),
        new Option('--count <N>', `most blocks shown (${COUNT})`),
        new Option('--events', 'show the events of each block'),
      ],
      examples: [
        ['tidemark inspect', 'the log in data/log'],
        ['tidemark inspect orders --from 4000 --count 5 --events', 'what stands around seq 4000'],
      ],
    },
    terminal,
    inspect,
  )

export async function inspect(run: Run): Promise<void> {
  const { args, settings, options, terminal } = run
  if (args[0] === undefined) return inspectStore(run)
  const channel = channelOf(args[0])
  const from = whole(options.from, 'from') ?? 0
  const count = whole(options.count, 'count') ?? COUNT
  const blocks = await inspectChannel(settings.data, channel, { from, count, events: options.events === true })
  if (settings.json) {
    for (const { events, ...block } of blocks)
      await terminal.print(JSON.stringify({ ...block, ...(events && { events: events.map(viewOf) }) }))
    return
  }
  const rows = blocks.map(({ after, last, count, bytes, time, flags, whole }) => [
    ...[after ?? '-', last, count ?? '-', bytes, time === null ? '-' : formatTime(time), flags ?? '-'],
    whole ? 'whole' : 'DAMAGED',
  ])
  if (!options.events) return terminal.print(table(['AFTER', 'LAST', 'EVENTS', 'BYTES', 'TIME', 'FLAGS', 'CRC'], rows))
  for (const [i, { events = [] }] of blocks.entries()) {
    const shown = events
      .map(viewOf)
      .map(({ seq, time, type, key, data }) => `  ${seq} ${time} ${type ?? '-'} ${key ?? '-'} ${data ?? '-'}`)
    await terminal.print([`block ${rows[i]!.join(' ')}`, ...shown.map(printable)].join('\n'))
  }
}

async function inspectStore({ settings, terminal }: Run): Promise<void> {
  const view = await inspectStopped(settings.data)
  if (settings.json) return terminal.print(JSON.stringify(view))
  const { life, format, commit, time, mark, channels } = view
  const facts = [
    ['store life', life ?? 'DAMAGED'],
    ['format', `${format ?? '-'}`],
    ['commit', `${commit ?? 'DAMAGED'}`],
    ['newest write', time === null ? '-' : formatTime(time)],
    ['high-water mark', mark === null ? 'MISSING' : `${mark.commit}${mark.original ? '' : ', of another directory'}`],
  ]
  const rows = channels.map(({ channel, head, trimmed, blocks, bytes, cursors, epoch }) => [
    ...[channel, head ?? 'DAMAGED', trimmed ?? '-', blocks, bytes, cursors, epoch ?? '-'],
  ])
  const head = ['CHANNEL', 'HEAD', 'TRIMMED', 'BLOCKS', 'BYTES', 'CURSORS', 'EPOCH']
  await terminal.print(`${table(undefined, facts)}\n\n${table(head, rows)}`)
}

const viewOf = ({ seq, time, type, key, data }: Event) => ({
  ...{ seq, time: formatTime(time), type, key },
  data: data && Buffer.from(data).toString().slice(0, DATA_CHARS),
})

function whole(value: string | boolean | undefined, name: string): number | undefined {
  if (value === undefined) return undefined
  if (!/^\d{1,16}$/.test(String(value))) throw wrongUsage(`--${name} takes a whole number`)
  return Number(value)
}
