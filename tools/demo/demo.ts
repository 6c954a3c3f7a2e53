#!/usr/bin/env node
/**
 * `npm run demo [-- DIR]`: the live folder. A server with a log of its own, a watch of DIR, and a page that shows the
 * folder and changes the moment files change, all in this one process.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { pino } from 'pino'
import { HOME } from '../../src/server/home.ts'
import { command, type Run } from '../command.ts'
import { runProgram } from '../program.ts'
import { start } from '../serve.ts'
import { ProcessTerminal, printable, type Terminal } from '../terminal.ts'
import { directoryOf, watchTree } from '../watch.ts'
import { Site } from './site.ts'

/** Left out when nothing else is said: large, and about other things than the folder. */
const IGNORED = ['node_modules', '.git']
/** A second signal this soon is the first one, which npm passes on beside the terminal, ms. */
const SAME_SIGNAL_MS = 500
/** As shells have it for what Ctrl-C ended. */
const INTERRUPTED = 130

const demoCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'demo [DIR]',
      summary: 'a page that shows a folder and changes the moment its files change',
      more:
        'Starts a server, a watch of DIR (default: this checkout) and a page, each on a loopback address, and prints ' +
        `the address of the page. Without --ignore, ${IGNORED.join(' and ')} are left out. Without --data the log ` +
        'is a temporary one and goes with the end. Ctrl-C ends everything.',
      settings: ['channel', 'ignore', 'rescan'],
      options: [
        new Option('--port <port>', 'port of the page; 0 takes a free one').argParser(portOf).default('0'),
        new Option('--data <dir>', 'directory of the log, kept (default: a temporary one)'),
      ],
      examples: [
        ['npm run demo', 'this checkout'],
        ['npm run demo -- ~/photos --port 8080', 'another folder, at an address that stays the same'],
      ],
    },
    terminal,
    demo,
  ).showHelpAfterError('See: npm run demo -- --help')

function portOf(text: string): string {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65_535) throw new InvalidArgumentError('takes a port, 0 … 65535')
  return text
}

async function demo(run: Run): Promise<void> {
  const { args, settings, config, options, terminal } = run
  const folder = directoryOf(String(args[0] ?? HOME))
  // From here on Ctrl-C is an end, also while the parts are still starting.
  terminal.stopped()
  const kept = options.data === undefined ? undefined : resolve(String(options.data))
  const temporary = kept === undefined ? mkdtempSync(join(tmpdir(), 'tidemark-demo-')) : undefined
  const ending: (() => Promise<void>)[] = []
  try {
    const site = await Site.listen(Number(options.port))
    ending.push(() => site.close())
    const own = {
      host: '127.0.0.1',
      port: 0,
      origin: [site.url],
      data: kept ?? join(temporary!, 'log'),
      engine: 'level',
    }
    const origins = Object.fromEntries(
      Object.entries(own).map(([name, value]) => [name, { source: 'flag', where: 'npm run demo', value }]),
    )
    const serving = { ...settings, ...own }
    const about = { ...config, settings: serving, origins: { ...config.origins, ...origins } }
    const { log, server } = await start(serving, about, pino({ level: 'warn' }, pino.destination(2)))
    ending.push(async () => {
      await server.close()
      await log.close()
    })
    site.show({ server: server.url, path: settings.path, channel: settings.channel, folder })
    terminal.say(`tidemark: serving ${server.url}${settings.path} from ${serving.data}; Ctrl-C ends it`)
    await terminal.print(`The live folder of ${printable(folder)}: ${site.url}/`)
    const ignore = config.origins.ignore.source === 'default' ? IGNORED : settings.ignore
    const watching = { ...serving, ignore, url: server.url + settings.path }
    await watchTree({ ...run, args: [folder], settings: watching })
  } finally {
    for (const end of ending.reverse()) await end()
    if (temporary !== undefined) rmSync(temporary, { recursive: true, force: true })
  }
}

/** Ctrl-C reaches us from the terminal and, a moment later, from npm; one that comes by itself ends us at once. */
function endAtSecondSignal(): void {
  let first: number | undefined
  const told = () => {
    first ??= performance.now()
    if (performance.now() - first > SAME_SIGNAL_MS) process.exit(INTERRUPTED)
  }
  process.on('SIGINT', told)
  process.on('SIGTERM', told)
}

endAtSecondSignal()
const terminal = new ProcessTerminal()
process.exitCode = await runProgram(['demo', ...process.argv.slice(2)], terminal, {
  demo: async () => demoCommand,
})
terminal.close()
