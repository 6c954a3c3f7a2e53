import type { Command } from 'commander'
import type { ChannelsJson } from '../src/wire.ts'
import { ask } from './ask.ts'
import { command, type Run } from './command.ts'
import { type Terminal, table } from './terminal.ts'

/** Channels asked for at once. */
const CHANNELS_PAGE = 1_000

export const channelsCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'channels [PREFIX]',
      summary: 'list the channels, or those whose name begins with PREFIX',
      settings: ['url', 'tokenFile', 'json'],
      examples: [
        ['tidemark channels', 'all of them'],
        ['tidemark channels repo/ --json', 'some, one JSON object a line'],
      ],
    },
    terminal,
    listChannels,
  )

export async function listChannels(run: Run): Promise<void> {
  const { args, settings, terminal } = run
  const query = new URLSearchParams({ prefix: String(args[0] ?? ''), limit: String(CHANNELS_PAGE) })
  let head: readonly string[] | undefined = ['CHANNEL', 'HEAD', 'TRIMMED', 'NEWEST', 'NOTE']
  for (;;) {
    const page = await ask<ChannelsJson>(run, { path: `channels?${query}` })
    if (settings.json) for (const channel of page.channels) await terminal.print(JSON.stringify(channel))
    else {
      const rows = page.channels.map(({ channel, head, trimmed, time, settings }) => [
        channel,
        head,
        trimmed,
        time ?? '-',
        settings.note ?? '',
      ])
      await terminal.print(table(head, rows))
    }
    if (page.next === undefined) return
    query.set('after', page.next)
    head = undefined
  }
}
