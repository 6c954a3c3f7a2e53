import { type Command, Option } from 'commander'
import { type Erased, type EraseWhat, erase } from '../src/log/erase.ts'
import { openLog } from '../src/log/open.ts'
import { channelOf, isOnline, wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal } from './terminal.ts'
import { byServer, lineOf } from './upkeep.ts'

export const eraseCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'erase <CHANNEL>',
      summary: 'take one event, or all events of a key, out of a channel and off the disk',
      more:
        'From then on nobody reads it, and its bytes are in no file of the log. For a key a tombstone is appended, so ' +
        'that followers drop what they hold. The channel _audit says that it was done. Works on the directory of a ' +
        'stopped server; with --url a running server does it. One that was interrupted is ended by asking again. ' +
        'Backups, exports and what clients keep are not reached.',
      settings: ['data', 'url', 'tokenFile', 'json'],
      options: [
        new Option('--seq <SEQ>', 'the event of this seq'),
        new Option('--key <KEY>', 'all events of this key'),
      ],
      examples: [
        ['tidemark erase orders --seq 4711', 'one event, of the log in data/log'],
        ['tidemark erase people --key ann --url http://127.0.0.1:7070', 'all events of a key, by the running server'],
      ],
    },
    terminal,
    eraseEvents,
  )

export async function eraseEvents(run: Run): Promise<void> {
  const { args, settings, terminal } = run
  const channel = channelOf(args[0])
  const what = whatOf(run.options)
  const erased = isOnline(run)
    ? await byServer<Erased>(run, channel, 'erase', what)
    : await eraseHere(run, channel, what)
  terminal.progress()
  await terminal.print(settings.json ? JSON.stringify(erased) : textOf(erased))
}

function whatOf({ seq, key }: Run['options']): EraseWhat {
  if ((seq === undefined) === (key === undefined)) throw wrongUsage('erase takes --seq or --key')
  if (key !== undefined) return { key: String(key) }
  if (!/^[1-9]\d{0,14}$/.test(String(seq))) throw wrongUsage('--seq takes a whole number from 1')
  return { seq: Number(seq) }
}

async function eraseHere({ settings, terminal }: Run, channel: string, what: EraseWhat): Promise<Erased> {
  const signal = terminal.stopped()
  const log = await openLog({ dir: settings.data, create: false })
  try {
    const { head, trimmed } = await log.info(channel)
    return await erase(log, channel, what, {
      signal,
      // Nobody else wants the machine's time for this log.
      restTimes: 0,
      onProgress: (progress) => terminal.progress(lineOf('erase', { ...progress, head, trimmed })),
    })
  } finally {
    await log.close()
  }
}

function textOf({ channel, events, first, last, tombstone }: Erased): string {
  if (events === 0) return `${printable(channel)}: there was nothing to erase`
  const what = events === 1 ? `event ${first}` : `${events} events of ${first}–${last}`
  return `${printable(channel)}: ${what} erased${tombstone === null ? '' : `, tombstone at ${tombstone}`}`
}
