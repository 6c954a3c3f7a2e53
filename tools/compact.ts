import { type Command, Option } from 'commander'
import { type Compacted, compactChannel } from '../src/log/compact.ts'
import { openLog } from '../src/log/open.ts'
import { DURATION_UNITS, withUnit } from '../src/units.ts'
import { channelOf, isOnline, wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal } from './terminal.ts'
import { byServer, lineOf } from './upkeep.ts'
import { MIB } from './verify.ts'

export const compactCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'compact <CHANNEL>',
      summary: 'keep the newest event of each key of a channel, and give the space of the others back',
      more:
        'Events without a key stay, and so do order, seqs and times. Works on the directory of a stopped server; with ' +
        '--url a running server does it in the background, while clients append and follow. However it ends, the ' +
        'channel is whole, and another run goes on with it.',
      settings: ['data', 'url', 'tokenFile', 'json'],
      options: [
        new Option('--dry-run', 'change nothing, tell what would be'),
        new Option('--min-lag <N>', 'so many of the newest events are not touched (1000)'),
        new Option('--min-age <TIME>', 'younger events are not touched (0s)'),
        new Option('--tombstone-age <TIME>', 'how long a tombstone stays visible (7d)'),
      ],
      examples: [
        ['tidemark compact files --dry-run', 'what it would free, of the log in data/log'],
        ['tidemark compact files --url http://127.0.0.1:7070', 'by the running server'],
      ],
    },
    terminal,
    compact,
  )

/** What is asked for, as the protocol says it: ages in seconds. */
interface Asked {
  readonly dryRun?: true
  readonly minLag?: number
  readonly minAge?: number
  readonly tombstoneAge?: number
}

export async function compact(run: Run): Promise<void> {
  const { args, settings, terminal } = run
  const channel = channelOf(args[0])
  const asked = askedOf(run.options)
  const report = isOnline(run)
    ? await byServer<Compacted>(run, channel, 'compact', asked)
    : await compactHere(run, channel, asked)
  terminal.progress()
  await terminal.print(settings.json ? JSON.stringify(report) : textOf(report, asked))
}

function askedOf({ dryRun, minLag, minAge, tombstoneAge }: Run['options']): Asked {
  if (minLag !== undefined && !/^\d{1,15}$/.test(String(minLag))) throw wrongUsage('--min-lag takes a whole number')
  return {
    ...(dryRun === true && { dryRun }),
    ...(minLag !== undefined && { minLag: Number(minLag) }),
    ...(minAge !== undefined && { minAge: secondsOf('min-age', minAge) }),
    ...(tombstoneAge !== undefined && { tombstoneAge: secondsOf('tombstone-age', tombstoneAge) }),
  }
}

function secondsOf(name: string, given: string | boolean): number {
  const ms = withUnit(given, DURATION_UNITS)
  if (typeof ms !== 'number') throw wrongUsage(`--${name} takes a time: 30s, 12h, 7d`)
  return ms / 1_000
}

async function compactHere({ settings, terminal }: Run, channel: string, asked: Asked): Promise<Compacted> {
  const signal = terminal.stopped()
  const log = await openLog({ dir: settings.data, create: false })
  try {
    const { head, trimmed } = await log.info(channel)
    const { dryRun, minLag, minAge = 0, tombstoneAge } = asked
    return await compactChannel(log, channel, {
      ...{ dryRun, minLag, minAge: minAge * 1_000, signal },
      tombstoneAge: tombstoneAge === undefined ? undefined : tombstoneAge * 1_000,
      // Nobody else wants the machine's time for this log.
      restTimes: 0,
      onProgress: (progress) => terminal.progress(lineOf('compact', { ...progress, head, trimmed })),
    })
  } finally {
    await log.close()
  }
}

function textOf({ channel, upTo, events, bytes, tombstones, complete }: Compacted, { dryRun }: Asked): string {
  const mib = (count: number): string => `${(count / MIB).toFixed(1)} MiB`
  const [would, has] = dryRun ? ['would leave', 'would go'] : ['left', 'went']
  return [
    `${printable(channel)}: ${would} ${events.after} of ${events.before} events, ${mib(bytes.after)} of ${mib(bytes.before)}`,
    `${events.before - events.after} events ${has} (${tombstones} tombstones), ${mib(bytes.before - bytes.after)}; nothing behind seq ${upTo} is touched`,
    ...(complete ? [] : ['Trims came between again and again: another run finds more']),
  ].join('\n')
}
