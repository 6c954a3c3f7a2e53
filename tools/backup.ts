import type { Command } from 'commander'
import { blocksCodec } from './archive/blocks.ts'
import { placeOf } from './carrying.ts'
import { command, type Run } from './command.ts'
import { writeFile } from './export.ts'
import type { Terminal } from './terminal.ts'

export const backupCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'backup <FILE>',
      summary: 'write everything to an archive that restore makes a log of',
      more:
        'Of a running server with --url, as an admin, while it goes on; or of the directory of a stopped one. All ' +
        'channels, the system’s too, with their settings and cursors, each as it is at one moment of its own; no keys. ' +
        'What was told to be durable before the backup began is in it. The archive has its name only when all of it ' +
        'is there and was read back: a backup that was stopped leaves FILE.part, and the same command goes on with it ' +
        '(channels that came before the stop stay as they came; remove FILE.part to begin anew).',
      settings: ['data', 'url', 'tokenFile', 'patience', 'json'],
      examples: [
        ['tidemark backup monday.tidemark --url http://127.0.0.1:7070', 'of a running server'],
        ['tidemark backup monday.tidemark --data data/log', 'of a stopped one'],
      ],
    },
    terminal,
    backup,
  )

export const backup = (run: Run): Promise<void> =>
  writeFile(run, {
    ...{ at: placeOf(run), file: String(run.args[0]), codec: blocksCodec, channels: [] as string[] },
    ...{ wanted: () => true, work: 'backup' },
  })
