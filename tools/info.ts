import type { Command } from 'commander'
import { ask, channelOf, pathOf } from './ask.ts'
import type { ChannelJson } from './channels.ts'
import { command, type Run } from './command.ts'
import { type Terminal, table } from './terminal.ts'

export const infoCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'info <CHANNEL>',
      summary: 'tell what there is to know of one channel',
      settings: ['url', 'tokenFile', 'json'],
      examples: [['tidemark info orders', 'head, trimmed, epoch, newest event, note']],
    },
    terminal,
    printInfo,
  )

export async function printInfo(run: Run): Promise<void> {
  const { args, settings, terminal } = run
  const info = await ask<ChannelJson>(run, { path: pathOf(channelOf(args[0])) })
  if (settings.json) return terminal.print(JSON.stringify(info))
  const { channel, epoch, head, trimmed, time, settings: told } = info
  const rows = [
    ['channel', channel],
    ['head', `${head}`],
    ['trimmed', `${trimmed}`],
    ['newest', time ?? '-'],
    ['epoch', epoch],
    ['note', told.note ?? '-'],
  ]
  await terminal.print(table(undefined, rows))
}
