/** The whole command line: its commands, its help, and what becomes of a failure. */
import { Command, CommanderError } from 'commander'
import { ERRORS } from '../src/errors.ts'
import { version } from '../src/server/home.ts'
import { Failed } from './command.ts'
import { type Terminal, tellFailure } from './terminal.ts'

type Commands = Readonly<Record<string, () => Promise<(terminal: Terminal) => Command>>>

/** In the order of the help. Only the command that is run is loaded. */
const COMMANDS: Commands = {
  serve: async () => (await import('./serve.ts')).serveCommand,
  append: async () => (await import('./append.ts')).appendCommand,
  tail: async () => (await import('./tail.ts')).tailCommand,
  watch: async () => (await import('./watch.ts')).watchCommand,
  channels: async () => (await import('./channels.ts')).channelsCommand,
  info: async () => (await import('./info.ts')).infoCommand,
  cursors: async () => (await import('./cursors.ts')).cursorsCommand,
  streamer: async () => (await import('./streamer.ts')).streamerCommand,
  keys: async () => (await import('./keys.ts')).keysCommand,
  token: async () => (await import('./token.ts')).tokenCommand,
  inspect: async () => (await import('./inspect.ts')).inspectCommand,
  verify: async () => (await import('./verify.ts')).verifyCommand,
  salvage: async () => (await import('./salvage.ts')).salvageCommand,
  compact: async () => (await import('./compact.ts')).compactCommand,
  erase: async () => (await import('./erase.ts')).eraseCommand,
  backup: async () => (await import('./backup.ts')).backupCommand,
  restore: async () => (await import('./restore.ts')).restoreCommand,
  export: async () => (await import('./export.ts')).exportCommand,
  import: async () => (await import('./import.ts')).importCommand,
  copy: async () => (await import('./copy.ts')).copyCommand,
  config: async () => (await import('./config.ts')).configCommand,
}

const MORE = `
Every option is also a variable TIDEMARK_… and a key of the file given by --config (see tidemark config).

Exit codes: 0 done · 1 failed · 2 wrong usage · 65 damaged data · 69 server unavailable · 73 can't create
  74 I/O error · 75 the log is in use · 77 not permitted · 78 wrong configuration`

/**
 * Runs one command line, given without the program's own name. Returns the exit code.
 * @param commands those of `tidemark`, or the one of another program.
 */
export async function runProgram(
  args: readonly string[],
  terminal: Terminal,
  commands: Commands = COMMANDS,
): Promise<number> {
  const program = new Command('tidemark')
    .description('An event-sourced queue over an append-only log')
    .version(version())
    .addHelpText('after', MORE)
    .showHelpAfterError('See: tidemark --help')
  const named = Object.hasOwn(commands, args[0] ?? '') ? [commands[args[0]!]!] : Object.values(commands)
  for (const make of await Promise.all(named.map((load) => load()))) program.addCommand(make(terminal))
  const help: string[] = []
  for (const command of [program, ...program.commands])
    command.exitOverride().configureOutput({
      writeOut: (text) => help.push(text),
      writeErr: (text) => terminal.say(text.trimEnd()),
    })
  try {
    await program.parseAsync(args, { from: 'user' })
    return 0
  } catch (error) {
    if (error instanceof Failed) return tellFailure(terminal, error.cause, error.json)
    if (!(error instanceof CommanderError)) throw error
    // commander has said what is wrong; asking for help or the version is no failure.
    if (error.exitCode !== 0) return ERRORS['bad-request'].exit
    await terminal.print(help.join('').trimEnd())
    return 0
  }
}
