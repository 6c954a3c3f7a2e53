import type { Command } from 'commander'
import { TidemarkError } from '../src/errors.ts'
import type { CursorsJson } from '../src/wire.ts'
import { ask, channelOf, pathOf } from './ask.ts'
import { command, type Run } from './command.ts'
import { type Terminal, table } from './terminal.ts'

export const cursorsCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'cursors <CHANNEL>',
      summary: 'list the cursors of a channel: who has handled how much, and how far behind they are',
      settings: ['url', 'tokenFile', 'json'],
      examples: [
        ['tidemark cursors orders', 'a table'],
        ['tidemark cursors orders --json', 'one JSON object a line'],
      ],
    },
    terminal,
    listCursors,
  )

export async function listCursors(run: Run): Promise<void> {
  const { args, settings, terminal } = run
  const { cursors, damaged } = await ask<CursorsJson>(run, { path: `${pathOf(channelOf(args[0]))}/cursors` })
  if (settings.json) for (const cursor of cursors) await terminal.print(JSON.stringify(cursor))
  else {
    const rows = cursors.map(({ client, seq, lag, time }) => [client, seq, lag, time])
    await terminal.print(table(['CLIENT', 'SEQ', 'LAG', 'MOVED'], rows))
  }
  if (damaged) throw new TidemarkError('data-loss', `Damaged, and not listed: ${damaged.join(', ')}`)
}
