/** One command of the program: its settings as options, its help, and what every run has in common. */
import { readFileSync } from 'node:fs'
import { Command, Option } from 'commander'
import {
  aboutOf,
  CONFIG_VARIABLE,
  type Config,
  flagOf,
  resolveConfig,
  type SettingName,
  type Settings,
  variableOf,
} from '../src/config.ts'
import { TidemarkError } from '../src/errors.ts'
import type { Terminal } from './terminal.ts'

export interface CommandPlan {
  /** As it is typed: `info <channel>`. */
  readonly usage: string
  readonly summary: string
  /** What a person should know beyond the options. */
  readonly more?: string
  readonly settings: readonly SettingName[]
  /** Options that are no settings, because they belong to one call. */
  readonly options?: readonly Option[]
  /** What to type, and what it does. */
  readonly examples: readonly (readonly [string, string])[]
}

export interface Run {
  readonly args: readonly (string | readonly string[] | undefined)[]
  readonly settings: Settings
  readonly config: Config
  /** Values of `plan.options`, under commander's names. */
  readonly options: Readonly<Record<string, string | boolean | undefined>>
  readonly terminal: Terminal
}

/** A run that failed, and whether its failure is to be told as JSON. */
export class Failed extends Error {
  readonly json: boolean
  constructor(cause: unknown, json: boolean) {
    super('A command failed', { cause })
    this.json = json
  }
}

/** Makes a command. Its action throws Failed. */
export function command(plan: CommandPlan, terminal: Terminal, run: (run: Run) => Promise<void>): Command {
  const [name, ...args] = plan.usage.split(' ')
  const made = new Command(name)
    .summary(plan.summary)
    .description(plan.more === undefined ? plan.summary : `${plan.summary}\n\n${plan.more}`)
  for (const arg of args) made.argument(arg)
  for (const option of plan.options ?? []) made.addOption(option)
  for (const name of plan.settings) for (const option of optionsOf(name)) made.addOption(option)
  made.option('--config <file>', `YAML or JSON file of settings (${CONFIG_VARIABLE})`)
  const width = Math.max(...plan.examples.map(([line]) => line.length))
  const examples = plan.examples.map(([line, what]) => `  $ ${line.padEnd(width)}  # ${what}`)
  made.addHelpText('after', `\nExamples:\n${examples.join('\n')}`)
  made.showHelpAfterError(`See: tidemark ${made.name()} --help`)
  return made.action(async () => {
    const given = made.opts<Record<string, string | boolean | undefined>>()
    let json = given.json === true
    try {
      const config = await configOf(plan.settings, given)
      json = plan.settings.includes('json') && config.settings.json
      for (const warning of config.warnings) terminal.say(`tidemark: ${warning}`)
      await run({ args: made.processedArgs, settings: config.settings, config, options: given, terminal })
    } catch (error) {
      throw new Failed(error, json)
    }
  })
}

/** Settings named on the command line beside those of the environment and the file. @throws wrong-config, bad-request */
async function configOf(names: readonly SettingName[], given: Readonly<Record<string, unknown>>): Promise<Config> {
  const flags = Object.fromEntries(names.map((name) => [name, given[name]]))
  const name = given.config === undefined ? process.env[CONFIG_VARIABLE] : String(given.config)
  if (!name) return resolveConfig({ flags, env: process.env })
  const text = textOf(name)
  const { parseDocument } = await import('yaml')
  return resolveConfig({ flags, env: process.env, file: { name, text, parse: parseDocument } })
}

function textOf(name: string): string {
  try {
    return readFileSync(name, 'utf8')
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new TidemarkError('wrong-config', `The configuration file ${name} can not be read (${code})`, {}, { cause })
  }
}

/** The flags of a setting. What may be yes by default has a `--no-…`; the other form is there too, to win over a file. */
function optionsOf(name: SettingName): Option[] {
  const { about, otherwise = `not: ${about}`, takes, many, short, secret, default: given } = aboutOf(name)
  if (secret) return []
  const flag = flagOf(name)
  const shown = given === undefined || typeof given === 'boolean' || Array.isArray(given) ? '' : `, default ${given}`
  const text = (what: string) => `${what} (${variableOf(name)}${shown})`
  if (takes === undefined) {
    const yes = new Option(`--${flag}`, text(about)).hideHelp(given === true)
    const no = new Option(`--no-${flag}`, text(otherwise)).hideHelp(given !== true)
    return [yes, no]
  }
  const option = new Option(`${short ? `-${short}, ` : ''}--${flag} <${takes}>`, text(about))
  if (many) option.argParser((value: string, before: string[] | undefined) => [...(before ?? []), value])
  return [option]
}
