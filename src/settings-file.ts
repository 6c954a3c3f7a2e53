/** A configuration file's text as plain values: YAML, of which JSON is a part, within bounds that its parser bears. */
import type { parseDocument } from 'yaml'
import { TidemarkError } from './errors.ts'

export interface SettingsFile {
  readonly name: string
  readonly text: string
  /** yaml's; most programs run without a file, and without it. */
  readonly parse: typeof parseDocument
}

/** Longest file, characters; its parser takes time beyond the length of a text. */
const CHARS_MAX = 16 * 1024
/** The parser walks by recursion, and ends the whole process where a text is nested some 800 deep: no text may be. */
const BRACKETS_MAX = 400
const NESTED = /(?:[-?:][ \t]+){32}/

/** @throws wrong-config */
export function readSettingsFile({ name, text, parse }: SettingsFile): unknown {
  const wrong = (why: string): never => {
    throw new TidemarkError('wrong-config', `${name}: ${why}`, { file: name })
  }
  if (text.length > CHARS_MAX) return wrong(`it is longer than ${CHARS_MAX} characters`)
  if ((text.match(/[[{]/g)?.length ?? 0) > BRACKETS_MAX || NESTED.test(text))
    return wrong('it is nested too deep, or has too many brackets')
  const document = parse(text, { prettyErrors: true, uniqueKeys: true })
  const problem = document.errors[0] ?? document.warnings[0]
  if (problem) return wrong(problem.message.split('\n')[0]!.replace(/:$/, ''))
  try {
    // Through JSON: an alias within its own anchor is no value.
    return JSON.parse(JSON.stringify(document.toJS({ maxAliasCount: 100 })) ?? 'null')
  } catch (error) {
    return wrong(`its aliases can not be followed: ${(error as Error).message.split('\n')[0]}`)
  }
}
