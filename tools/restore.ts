import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { makeStopped } from '../src/log/open.ts'
import { take } from '../src/log/take.ts'
import { piecesOf, scan } from './archive/scan.ts'
import { shown, tellGoingOn, tellLost, textOf, withBar, withPlace } from './carrying.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal } from './terminal.ts'

/** Of the archive's checksum, in the name of what is made of it. */
const DRAFT_DIGITS = 8

export const restoreCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'restore <FILE>',
      summary: 'make a new log of a backup',
      more:
        'In a directory that does not exist, or is empty. The whole archive is checked first (65 when it is cut or ' +
        'damaged), what is made of it is read back and verified, and only then has its name: a restore that was ' +
        'stopped leaves a directory beside it, and the same command goes on with that. Seqs, times, settings and ' +
        'cursors are those of the backup. Every epoch is new: clients and cursors of before are told (reset), and start ' +
        'over, for what was appended after the backup is gone. Keys are not in a backup: put keys.json there yourself.',
      settings: ['data', 'json'],
      examples: [['tidemark restore monday.tidemark --data data/log', 'then serve --data data/log']],
    },
    terminal,
    restore,
  )

export async function restore(run: Run): Promise<void> {
  const { args, settings, terminal } = run
  const file = String(args[0])
  const contents = await withBar(terminal, 'check', file, (options) => scan(file, options))
  const signal = terminal.stopped()
  const total = [...contents.channels.values()].reduce((sum, seqs) => sum + seqs, 0)
  const fill = (dir: string) =>
    withPlace(run, dir, true, ({ log }) => {
      const pieces = shown(
        terminal,
        'restore',
        total,
        piecesOf(file, contents, () => true),
      )
      return take(pieces, log, { oldCursors: true, isAlone: true, signal })
    })
  const draft = `restoring-${contents.tail!.sha256.slice(0, DRAFT_DIGITS)}`
  const dir = resolve(settings.data)
  const taken = await makeStopped(dir, draft, fill, { signal }).catch((error: unknown) => {
    if (!existsSync(`${dir}.${draft}`)) throw error
    tellGoingOn(run, error, `${printable(dir)}.${draft} holds what came`)
  })
  await terminal.print(settings.json ? JSON.stringify({ dir, ...taken }) : `${dir}: ${textOf(taken)}, verified`)
  tellLost(taken)
}
