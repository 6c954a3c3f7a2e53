import type { Command } from 'commander'
import { pause } from '../src/client/backoff.ts'
import { TidemarkError } from '../src/errors.ts'
import type { Finding, Loss } from '../src/log/log.ts'
import { verifyStopped } from '../src/log/open.ts'
import type { Report } from '../src/log/verify.ts'
import { ask, isOnline } from './ask.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal, table } from './terminal.ts'

export const MIB = 1024 * 1024
/** How often a server is asked how far it is, ms. */
const ASK_MS = 500

export const verifyCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'verify',
      summary: 'tell whether a log is whole: every checksum, every chain, every cursor',
      more:
        'Reads the directory of a stopped server, and changes nothing there; with --url a running server verifies its ' +
        'own log, at most --rate bytes a second. Events that salvage could not find are told, but are no damage. Ends ' +
        'with 0 when the log is whole, with 65 when it is not.',
      settings: ['data', 'url', 'tokenFile', 'rate', 'json'],
      examples: [
        ['tidemark verify', 'the log in data/log'],
        ['tidemark verify --data /var/lib/tidemark --json', 'elsewhere, one JSON object'],
        ['tidemark verify --url http://127.0.0.1:7070 --rate 8MiB', 'the log of a running server'],
      ],
    },
    terminal,
    verify,
  )

export async function verify(run: Run): Promise<void> {
  const { settings, terminal } = run
  const report = isOnline(run) ? await verifyServed(run) : await verifyHere(run)
  terminal.progress()
  await terminal.print(settings.json ? JSON.stringify(report) : textOf(report))
  if (!report.whole) throw new TidemarkError('data-loss', `${report.findings.length} findings: the log is damaged`)
}

function verifyHere({ settings, terminal }: Run): Promise<Report> {
  return verifyStopped(settings.data, {
    signal: terminal.stopped(),
    onProgress: ({ channel, bytes }) =>
      terminal.progress(`verify: ${Math.floor(bytes / MIB)} MiB, ${printable(channel)}`),
  })
}

interface Verification {
  readonly running: boolean
  readonly bytes?: number
  readonly report?: Report
  readonly failed?: { readonly detail: string }
}

async function verifyServed(run: Run): Promise<Report> {
  const { settings, terminal } = run
  const signal = terminal.stopped()
  const { rate } = settings
  const call = {
    method: 'POST',
    path: 'admin/verify',
    body: JSON.stringify(rate === undefined ? {} : { rate }),
  } as const
  let state = await ask<Verification>(run, call)
  signal.addEventListener('abort', () => terminal.say('tidemark: the server goes on verifying by itself'))
  while (state.running) {
    terminal.progress(`verify: ${Math.floor((state.bytes ?? 0) / MIB)} MiB`)
    await pause(ASK_MS, signal)
    signal.throwIfAborted()
    state = await ask<Verification>(run, { path: 'admin/verify', signal })
  }
  if (state.report) return state.report
  throw new TidemarkError('unavailable', state.failed?.detail ?? 'The server did not come to an end with it')
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
