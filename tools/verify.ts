import type { Command } from 'commander'
import { TidemarkError } from '../src/errors.ts'
import type { Finding, Loss } from '../src/log/log.ts'
import { verifyStopped } from '../src/log/open.ts'
import type { Report } from '../src/log/verify.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal, table } from './terminal.ts'

export const MIB = 1024 * 1024

export const verifyCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'verify',
      summary: 'tell whether a log is whole: every checksum, every chain, every cursor',
      more:
        'Reads the directory of a stopped server, and changes nothing there. Events that salvage could not find are ' +
        'told, but are no damage. Ends with 0 when the log is whole, with 65 when it is not.',
      settings: ['data', 'json'],
      examples: [
        ['tidemark verify', 'the log in data/log'],
        ['tidemark verify --data /var/lib/tidemark --json', 'elsewhere, one JSON object'],
      ],
    },
    terminal,
    verify,
  )

export async function verify(run: Run): Promise<void> {
  const { settings, terminal } = run
  const report = await verifyStopped(settings.data, {
    signal: terminal.stopped(),
    onProgress: ({ channel, bytes }) =>
      terminal.progress(`verify: ${Math.floor(bytes / MIB)} MiB, ${printable(channel)}`),
  })
  terminal.progress()
  await terminal.print(settings.json ? JSON.stringify(report) : textOf(report))
  if (!report.whole) throw new TidemarkError('data-loss', `${report.findings.length} findings: the log is damaged`)
}

export function textOf({ findings, losses, ...counts }: Report): string {
  const { channels, blocks, events, bytes, cursors } = counts
  const read = `${channels} channels, ${events} events in ${blocks} blocks (${(bytes / MIB).toFixed(1)} MiB), ${cursors} cursors`
  return [
    ...(findings.length > 0 ? [table(['PART', 'WHERE', 'EVENTS', 'WHAT'], findings.map(rowOf))] : []),
    ...losses.map((loss) => `known to be lost: ${rangeOf(loss)} of ${printable(loss.channel)}`),
    `${counts.whole ? 'whole' : 'DAMAGED'}: ${read}`,
  ].join('\n')
}

function rowOf({ part, channel, after, upTo, client, file, offset, detail }: Finding): string[] {
  const where = channel ?? (file === undefined ? '-' : offset === undefined ? file : `${file} at ${offset}`)
  const events = after === undefined || upTo === undefined ? '-' : rangeOf({ after, upTo })
  return [part, client === undefined ? where : `${where} ${client}`, events, detail]
}

/** The seqs of a loss, first to last. */
export const rangeOf = ({ after, upTo }: Pick<Loss, 'after' | 'upTo'>): string => `${after + 1}–${upTo}`
