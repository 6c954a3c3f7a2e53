import type { Command } from 'commander'
import type { ChannelInfoJson } from '../src/wire.ts'
import { ask, channelOf, pathOf } from './ask.ts'
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
  const info = await ask<ChannelInfoJson>(run, { path: pathOf(channelOf(args[0])) })
  if (settings.json) return terminal.print(JSON.stringify(info))
  const { channel, epoch, head, trimmed, time, settings: told } = info
  const rows = [
    ['channel', channel],
    ['head', `${head}`],
    ['trimmed', `${trimmed}`],
    ['newest', time ?? '-'],
    ['epoch', epoch],
    ['note', told.note ?? '-'],
    ['retention', retentionText(info)],
    ['state', stateText(info)],
  ]
  await terminal.print(table(undefined, rows))
}

function stateText({ state }: ChannelInfoJson): string {
  if (state === undefined) return 'in memory, when asked for'
  const { at, keys, from } = state
  return `on disk, ${at === undefined ? 'not begun yet' : `${keys} keys at ${at}`} (${from})`
}

function retentionText({ retention }: ChannelInfoJson): string {
  if (retention === undefined) return 'everything is kept'
  const { from, maxAge, maxEvents, maxBytes, consumed } = retention
  const limits = [
    maxAge !== undefined && `age=${maxAge}s`,
    maxEvents !== undefined && `events=${maxEvents}`,
    maxBytes !== undefined && `bytes=${maxBytes}`,
    consumed && 'consumed',
  ]
  return `${limits.filter((limit) => limit).join(', ')} (${from})`
}
