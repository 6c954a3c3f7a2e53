import { type Command, Option } from 'commander'
import { give } from '../src/log/give.ts'
import { take } from '../src/log/take.ts'
import { wrongUsage } from './ask.ts'
import { isAddress, meantBy, openPlace, patternsOf, seqsOf, shown, tellGoingOn, tellLost, textOf } from './carrying.ts'
import { command, type Run } from './command.ts'
import type { Terminal } from './terminal.ts'

export const copyCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'copy <FROM> <TO> [CHANNELS...]',
      summary: 'carry channels from one log to another',
      more:
        'FROM and TO are directories of stopped servers or addresses of running ones, asked as an admin. As export and ' +
        'import without a file between them: seqs, times and cursors stay, a channel is there only when all of it came ' +
        'and was compared, a channel with another history is refused. After a stop the same command goes on; channels ' +
        'that came before it stay as they came.',
      settings: ['tokenFile', 'patience', 'json'],
      options: [
        new Option('--to-token-file <FILE>', 'file that holds the key to show to TO, where it is another one'),
        new Option('--same-epochs', 'keep the epochs: nothing is appended to FROM any more'),
      ],
      examples: [
        ['tidemark copy data/log http://127.0.0.1:7070', 'a directory into a running server'],
        ['tidemark copy http://a:7070 data/copy "orders/**"', 'some channels of a server into a directory'],
      ],
    },
    terminal,
    copy,
  )

export async function copy(run: Run): Promise<void> {
  const { args, options, settings, terminal } = run
  const [from, to] = [String(args[0]), String(args[1])]
  const wanted = meantBy(patternsOf(args[2]))
  if (from === to) throw wrongUsage('FROM and TO are the same')
  const { toTokenFile } = options
  if (toTokenFile !== undefined && !isAddress(to)) throw wrongUsage('--to-token-file is for an address')
  const toRun = typeof toTokenFile === 'string' ? { ...run, settings: { ...settings, tokenFile: toTokenFile } } : run
  const signal = terminal.stopped()
  const source = await openPlace(run, from, false)
  try {
    const target = await openPlace(toRun, to, true)
    try {
      const total = await seqsOf(source.log, wanted)
      const damaged = new Set<string>()
      const onDamaged = (channel: string) => damaged.add(channel)
      const pieces = shown(terminal, 'copy', total, give(source.log, { wanted, onDamaged, signal }))
      const taken = await take(pieces, target.log, {
        ...{ sameEpoch: options.sameEpochs === true, older: true, isAlone: target.isAlone, signal },
      }).catch((error: unknown) => tellGoingOn(run, error))
      await terminal.print(settings.json ? JSON.stringify(taken) : textOf(taken))
      tellLost(taken, damaged)
    } finally {
      await target.close()
    }
  } finally {
    await source.close()
  }
}
