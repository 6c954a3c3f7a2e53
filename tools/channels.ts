import type { Command } from 'commander'
import type { Retention } from '../src/retention.ts'
import { ask } from './ask.ts'
import { command, type Run } from './command.ts'
import { type Terminal, table } from './terminal.ts'

/** A channel as the server describes it. */
export interface ChannelJson {
  readonly channel: string
  readonly epoch: string
  readonly head: number
  readonly trimmed: number
  /** Of the newest event; null when there never was one. */
  readonly time: string | null
  readonly settings: { readonly note?: string }
  /** What is in force, of a channel that was asked for by its name. */
  readonly retention?: Retention & { readonly from: string }
  /** Where its state is kept on disk, and how far, likewise. */
  readonly state?: { readonly at?: number; readonly keys?: number; readonly from: string }
}

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
    const page = await ask<{ channels: ChannelJson[]; next?: string }>(run, { path: `channels?${query}` })
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
