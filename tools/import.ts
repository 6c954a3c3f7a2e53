import type { Command } from 'commander'
import { Option } from 'commander'
import { isSystemChannel } from '../src/event.ts'
import { take } from '../src/log/take.ts'
import { type Contents, piecesOf, scan } from './archive/scan.ts'
import { wrongUsage } from './ask.ts'
import { meantBy, patternsOf, placeOf, shown, tellGoingOn, tellLost, textOf, withBar, withPlace } from './carrying.ts'
import { command, type Run } from './command.ts'
import type { Terminal } from './terminal.ts'

export const importCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'import <FILE> [CHANNELS...]',
      summary: 'take the channels of an archive into a log',
      more:
        'Into the directory of a stopped server, or with --url into a running one, as an admin. The whole archive is ' +
        'checked first: one that is cut or damaged is refused (65). Seqs, times and cursors stay as they are; a channel ' +
        'is there only when all of it came and was read back and compared. A channel that holds another history is ' +
        'refused, one that holds this one is passed over: after a stop, the same command goes on where it came to. ' +
        'Epochs are new, unless --same-epochs says that nothing is appended any more to the channels where they come ' +
        'from: then positions that clients hold are good here, too. The system’s channels are left out.',
      settings: ['data', 'url', 'tokenFile', 'patience', 'json'],
      options: [
        new Option('--same-epochs', 'keep the epochs: the log that they come from is over'),
        new Option('--check', 'only check the archive, and tell what it holds'),
      ],
      examples: [
        ['tidemark import all.tidemark', 'into the log in data/log'],
        ['tidemark import all.tidemark "orders/**" --url http://127.0.0.1:7070', 'some, into a running server'],
        ['tidemark import all.tidemark --check', 'what is in it, and whether it is whole'],
      ],
    },
    terminal,
    importChannels,
  )

export async function importChannels(run: Run): Promise<void> {
  const { args, options, settings, terminal } = run
  const file = String(args[0])
  const patterns = patternsOf(args[1])
  if (options.check && patterns.length > 0) throw wrongUsage('--check is of the whole archive')
  const contents = await withBar(terminal, 'check', file, (options) => scan(file, options))
  if (options.check) return tellContents(run, file, contents)
  const meant = meantBy(patterns)
  const wanted = (channel: string): boolean => meant(channel) && !isSystemChannel(channel)
  const total = [...contents.channels].reduce((sum, [channel, seqs]) => sum + (wanted(channel) ? seqs : 0), 0)
  const taken = await withPlace(run, placeOf(run), true, ({ log, isAlone }) =>
    take(shown(terminal, 'import', total, piecesOf(file, contents, wanted)), log, {
      ...{ sameEpoch: options.sameEpochs === true, isAlone, signal: terminal.stopped() },
    }).catch((error: unknown) => tellGoingOn(run, error)),
  )
  await terminal.print(settings.json ? JSON.stringify(taken) : textOf(taken))
  tellLost(taken)
}

async function tellContents(
  { settings, terminal }: Run,
  file: string,
  { head, tail, channels }: Contents,
): Promise<void> {
  const { is: _, ...facts } = tail!
  if (settings.json) await terminal.print(JSON.stringify({ ...head, ...facts, names: [...channels.keys()] }))
  else
    await terminal.print(`${file} is whole: ${textOf(facts)}; of ${head.source}, ${new Date(head.time).toISOString()}`)
}
