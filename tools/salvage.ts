import type { Command } from 'commander'
import { Option } from 'commander'
import { TidemarkError } from '../src/errors.ts'
import { salvageStopped } from '../src/log/open.ts'
import { wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal } from './terminal.ts'
import { MIB, rangeOf, textOf } from './verify.ts'

export const salvageCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'salvage',
      summary: 'make a new log of all that is whole in a damaged one, and list what is lost',
      more:
        'Reads the directory of a stopped server, also one that does not open any more, and changes nothing there. ' +
        'Events keep their seqs and times; epochs are new, so followers start over. A lost range stays: reading it is ' +
        'data-loss. Ends with 65 when anything is lost.',
      settings: ['data', 'json'],
      options: [new Option('--into <DIR>', 'directory of the new log; it must not exist, or be empty')],
      examples: [['tidemark salvage --data data/log --into data/saved', 'then serve --data data/saved']],
    },
    terminal,
    salvage,
  )

export async function salvage({ settings, options, terminal }: Run): Promise<void> {
  if (typeof options.into !== 'string') throw wrongUsage('salvage takes --into DIR, the directory of the new log')
  const salvaged = await salvageStopped(settings.data, options.into, {
    signal: terminal.stopped(),
    onProgress: ({ channel, bytes }) =>
      terminal.progress(`salvage: ${Math.floor(bytes / MIB)} MiB, ${printable(channel)}`),
  })
  terminal.progress()
  if (settings.json) await terminal.print(JSON.stringify(salvaged))
  else {
    const lost = salvaged.lost.map((loss) => `lost: ${rangeOf(loss)} of ${printable(loss.channel)}`)
    await terminal.print([textOf(salvaged), ...lost].join('\n'))
  }
  if (!salvaged.whole)
    throw new TidemarkError(
      'data-loss',
      `${options.into} holds what is whole; not all is: ${salvaged.findings.length} findings, ${salvaged.lost.length} ranges of events known to be lost`,
    )
}
