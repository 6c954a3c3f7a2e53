import { realpathSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { TidemarkError } from '../src/errors.ts'
import { connect, wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { printable, type Terminal } from './terminal.ts'
import { Hints } from './watch/hints.ts'
import { ignoring, pathWithin } from './watch/look.ts'
import { Mirror } from './watch/mirror.ts'
import { Tree } from './watch/tree.ts'

/** Paths that are left out are told one by one up to here; further ones are only counted. */
const TOLD_MAX = 20
/** … and counted exactly up to here. */
const COUNTED_MAX = 100_000

export const watchCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'watch <DIR>',
      summary: 'keep a channel equal to a directory tree: append what changes in it',
      more:
        'Events: node.added and node.changed with data { kind: file | dir | link | other, size?, mtime? } (bytes; ms since ' +
        '1970), and node.removed without data. The key is the path below DIR, with /. A parent is added before its ' +
        'children and removed after them; a rename is a removal and an addition. Links are not followed.\n\n' +
        'At the start the whole channel is read and the difference to the disk appended; after that, where the system ' +
        'says that something changed, and everything every --rescan. The channel belongs to this command: keys that ' +
        'others write are put right. While the server can not be reached it goes on trying, and nothing is lost. Left ' +
        'out, told and counted: names that are not UTF-8 or hold control characters, paths over 1,024 bytes. A change ' +
        'that leaves size and mtime as they were is not seen. The directory of --data is left out if it lies in DIR.',
      settings: ['channel', 'ignore', 'rescan', 'data', 'url', 'tokenFile', 'json'],
      examples: [
        ['tidemark watch ~/photos', 'into the channel files'],
        ["tidemark watch . --channel repo/42 --ignore node_modules --ignore '*.tmp'", 'leaving out what matches'],
      ],
    },
    terminal,
    watchTree,
  )

export async function watchTree({ args, settings, terminal }: Run): Promise<void> {
  const root = directoryOf(String(args[0]))
  const leftOut = new LeftOut(terminal)
  const known = new Tree()
  const hints = new Hints((path, { code }) => leftOut.unwatched(path, code))
  const say = (message: string) => terminal.say(`tidemark: ${printable(message)}`)
  const print = (line: object, text: string) => void terminal.print(settings.json ? JSON.stringify(line) : text)
  const stopped = terminal.stopped()
  let told = -1
  const mirror = new Mirror({
    root,
    known,
    hints,
    http: connect(settings),
    channel: settings.channel,
    rescan: settings.rescan,
    isIgnored: ignoredIn(root, settings),
    onTrouble: (path, why) => leftOut.add(path, why),
    onAppended: (appended) => {
      const { first, last, added, changed, removed } = appended
      print(appended, `${settings.channel} ${first}–${last}: ${added} added, ${changed} changed, ${removed} removed`)
    },
    onInStep: (seq) => {
      const facts = { inStep: seq, paths: known.size, leftOut: leftOut.size }
      if (seq !== told) print(facts, `${settings.channel} ${seq}: in step, ${known.size} paths`)
      told = seq
    },
    say,
  })
  try {
    await mirror.run(stopped)
  } catch (error) {
    if (!stopped.aborted) throw error
  } finally {
    hints.close()
  }
  if (leftOut.size > 0) say(`${leftOut.size} paths were left out`)
}

/** The directory itself, wherever links lead to it. @throws bad-request */
export function directoryOf(given: string): string {
  try {
    const root = realpathSync(given)
    if (statSync(root).isDirectory()) return root
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new TidemarkError('bad-request', `${given} can not be watched (${code})`, {}, { cause })
  }
  throw wrongUsage(`${given} is no directory`)
}

/** What the patterns leave out, and the log of a server that may be running in there: it would be told of itself. */
function ignoredIn(root: string, settings: Pick<Run['settings'], 'ignore' | 'data'>): (path: string) => boolean {
  const isIgnored = ignoring(settings.ignore)
  const data = pathWithin(root, realOf(resolve(settings.data)))
  return (path) => path === data || isIgnored(path)
}

/** A path with its links resolved, as far as it exists. */
function realOf(path: string): string {
  try {
    return realpathSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === undefined) throw error
    return path
  }
}

/** What can't be in the channel, each told once. */
class LeftOut {
  readonly #paths = new Set<string>()
  readonly #terminal: Terminal
  #isUnwatched = false

  constructor(terminal: Terminal) {
    this.#terminal = terminal
  }

  get size(): number {
    return this.#paths.size
  }

  add(path: string, why: string): void {
    if (this.#paths.has(path) || this.#paths.size >= COUNTED_MAX) return
    this.#paths.add(path)
    if (this.#paths.size <= TOLD_MAX) this.#terminal.say(`tidemark: ${printable(path)} is left out: ${why}`)
    if (this.#paths.size === TOLD_MAX) this.#terminal.say('tidemark: further paths that are left out are counted only')
  }

  unwatched(path: string, code: string | undefined): void {
    if (this.#isUnwatched) return
    this.#isUnwatched = true
    const why = code === 'ENOSPC' ? 'the system grants no more watches (fs.inotify.max_user_watches)' : code
    this.#terminal.say(
      `tidemark: ${printable(path || '.')} can not be watched: ${why}; --rescan finds what changes there`,
    )
  }
}
