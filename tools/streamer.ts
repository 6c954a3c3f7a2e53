import type { Command } from 'commander'
import { ask, wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import type { Terminal } from './terminal.ts'

export const streamerCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'streamer <on|off|status>',
      summary: 'turn the WebSocket streamer on or off, or tell where its switch stands',
      more: 'Turned off, sockets are closed and their clients go on by polling; turned on, they come back. Nothing is lost.',
      settings: ['url', 'tokenFile', 'json'],
      examples: [
        ['tidemark streamer status', 'on or off'],
        ['tidemark streamer off', 'clients poll from now on'],
      ],
    },
    terminal,
    turnStreamer,
  )

export async function turnStreamer(run: Run): Promise<void> {
  const { args, settings, terminal } = run
  const [to] = args
  if (to !== 'on' && to !== 'off' && to !== 'status') throw wrongUsage(`streamer takes on, off or status, not "${to}"`)
  const path = 'admin/streamer'
  const turned = { method: 'PUT', path, body: JSON.stringify({ on: to === 'on' }) } as const
  const { on } = await ask<{ on: boolean }>(run, to === 'status' ? { path } : turned)
  await terminal.print(settings.json ? JSON.stringify({ on }) : `the streamer is ${on ? 'on' : 'off'}`)
}
