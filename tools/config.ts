import type { Command } from 'commander'
import { aboutOf, type Config, flagOf, SETTING_NAMES, type SettingName } from '../src/config.ts'
import { command, type Run } from './command.ts'
import { type Terminal, table } from './terminal.ts'

export const configCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'config',
      summary: 'print every setting and where its value came from',
      more: 'A flag wins over the environment, that over the file given by --config, that over the default.',
      settings: SETTING_NAMES,
      examples: [
        ['tidemark config', 'what holds here'],
        ['tidemark config --config tidemark.yaml --json', 'the same with a file, for a program'],
      ],
    },
    terminal,
    printConfig,
  )

/** Values are shown as they stand in a configuration file. */
export async function printConfig({ config, settings, terminal }: Run): Promise<void> {
  if (settings.json) {
    const entries = SETTING_NAMES.map((name) => {
      const { source, where } = config.origins[name]
      return [flagOf(name), { value: shownOf(config, name) ?? null, source, ...(where !== undefined && { where }) }]
    })
    return terminal.print(JSON.stringify(Object.fromEntries(entries)))
  }
  const rows = SETTING_NAMES.map((name: SettingName) => {
    const { source, where } = config.origins[name]
    return [flagOf(name), textOf(shownOf(config, name)), where === undefined ? source : `${source} ${where}`]
  })
  await terminal.print(table(['SETTING', 'VALUE', 'FROM'], rows))
}

/** A secret is only said to be there. */
const shownOf = ({ origins }: Config, name: SettingName): unknown =>
  aboutOf(name).secret && origins[name].value !== undefined ? '…' : origins[name].value

function textOf(value: unknown): string {
  if (value === undefined || (Array.isArray(value) && value.length === 0)) return '-'
  return Array.isArray(value) ? value.join(', ') : String(value)
}
