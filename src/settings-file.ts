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
/** Most lines and marks that mean something to it: it tells every mistake. */
const MARKS_MAX = 1_200
const MARKS = /[\n\r:,?[\]{}&*!|>"'%@`#-]/g
/** The parser walks by recursion, and ends the whole process where a text is nested some 800 deep: no text may be. */
const BRACKETS_MAX = 400
const NESTED = /(?:[-?:][ \t]+){32}/

/** @throws wrong-config */
export function readSettingsFile({ name, text, parse }: SettingsFile): unknown {
  const wrong = (why: string): never => {
    throw new TidemarkError('wrong-config', `${name}: ${why}`, { file: name })
  }
  if (text.length > CHARS_MAX) return wrong(`it is longer than ${CHARS_MAX} characters`)
  if ((text.match(MARKS)?.length ?? 0) > MARKS_MAX)
    return wrong(`it has more than ${MARKS_MAX} lines and marks (colons, commas, quotes …)`)
  if ((text.match(/[[{]/g)?.length ?? 0) > BRACKETS_MAX || NESTED.test(text))
    return wrong('it is nested too deep, or has too many brackets')
  // It would draw every mistake, and hold each key against all before it: one mistake is told, and keys are looked at here.
  const document = parse(text, { prettyErrors: false, uniqueKeys: false })
  const problem = document.errors[0] ?? document.warnings[0]
  if (problem) return wrong(`${problem.message} at ${placeIn(text, problem.pos[0])}`)
  const again = keyTwice(document.contents as Node | null)
  if (again !== undefined) return wrong(`${JSON.stringify(again)} stands there twice`)
  try {
    // Through JSON: an alias within its own anchor is no value.
    return JSON.parse(JSON.stringify(document.toJS({ maxAliasCount: 100 })) ?? 'null')
  } catch (error) {
    return wrong(`its aliases can not be followed: ${(error as Error).message.split('\n')[0]}`)
  }
}

/** What yaml makes of a map (pairs), a list (nodes) or a value, as far as it matters here. */
interface Node {
  readonly items?: readonly Node[]
  readonly key?: Node | null
  readonly value?: unknown
}

/** The first key that a map holds twice; undefined where none does. */
function keyTwice(node: Node | null): unknown {
  const seen = new Set<unknown>()
  for (const item of node?.items ?? []) {
    const isPair = item.key !== undefined
    const name = item.key?.value
    if (name !== undefined && seen.has(name)) return name
    if (name !== undefined) seen.add(name)
    const within = keyTwice(isPair ? (item.value as Node | null) : item)
    if (within !== undefined) return within
  }
  return undefined
}

function placeIn(text: string, at: number): string {
  const lines = text.slice(0, at).split('\n')
  return `line ${lines.length}, column ${lines.at(-1)!.length + 1}`
}
