/**
 * The house rules that a machine can check: an import only points down, two folder levels, files that a person reads
 * in one sitting, names that say something.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '..')
const files = ['src', 'tools', 'test'].flatMap((top) =>
  readdirSync(join(root, top), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(?:ts|tsx|mjs)$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name))),
)
const sources = files.filter((file) => !file.startsWith('test/'))

/** A lower floor knows nothing of a higher one. The client stands on the words alone, the console on both. */
const FLOORS: readonly [string, RegExp, readonly string[]][] = [
  // What the package gives to other programs.
  ['package', /^src\/package\.ts$/, ['words', 'client']],
  ['words', /^src\/[^/]+\.ts$/, ['words']],
  ['client', /^src\/client\//, ['words', 'client']],
  [
    'port',
    /^src\/log\/(?:log|arrival|carry|give|take|follow|due|lag|seen|verify|keeper|signs|silence|surplus|compact|newest|packing|erase|background|entries|tail|waiters|states|state-first|state-rows|state-writer|versions)\.ts$/,
    ['words', 'port'],
  ],
  ['engine', /^src\/log\/(?:level|jetstream)\//, ['words', 'port', 'engine', 'open']],
  ['access', /^src\/access\//, ['words', 'access']],
  // The one place that chooses an engine; engines take its option types.
  ['open', /^src\/log\/open\.ts$/, ['words', 'port', 'engine', 'open']],
  ['formats', /^src\/formats\//, ['words', 'port', 'access', 'formats']],
  // What the doors of one server share.
  ['doors', /^src\/doors\//, ['words', 'port', 'access', 'formats', 'doors']],
  ['streamer', /^src\/streamer\//, ['words', 'port', 'access', 'formats', 'doors', 'streamer']],
  ['server', /^src\/server\//, ['words', 'port', 'access', 'formats', 'doors', 'streamer', 'server']],
  ['console', /^src\/console\//, ['words', 'client', 'console']],
  ['programs', /^tools\//, ['words', 'port', 'open', 'access', 'formats', 'doors', 'server', 'client', 'programs']],
]
const floorOf = (file: string): readonly [string, RegExp, readonly string[]] | undefined =>
  FLOORS.find(([, where]) => where.test(file))

function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8').replaceAll(/\/\*[\s\S]*?\*\//g, '')
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(([, name]) => name!)
}

test('an import only points down', () => {
  const up: string[] = []
  let checked = 0
  for (const file of sources) {
    const floor = floorOf(file)
    expect(floor, `${file} stands on no floor`).toBeDefined()
    for (const name of importsOf(file).filter((name) => name.startsWith('.'))) {
      const target = relative(root, resolve(root, dirname(file), name))
      const below = floorOf(target)?.[0]
      checked++
      if (!below || !floor![2].includes(below)) up.push(`${file} → ${target}`)
    }
  }
  expect(up).toEqual([])
  expect(checked).toBeGreaterThan(100)
})

/** What the build puts into the console. */
const IN_CONSOLE = /^(?:preact(?:\/hooks)?|@preact\/signals|uplot)$/

test('the words, the client and the console run in a browser: no node modules, no Buffer', () => {
  const inBrowser = (file: string): boolean =>
    (/^src\/(?:event|epoch|errors|body|walk|block|bytes|wire)\.ts$/.test(file) ||
      /^src\/(?:client|console)\//.test(file)) &&
    file !== 'src/client/node.ts'
  const guilty = sources.filter(inBrowser).filter((file) => {
    const text = readFileSync(join(root, file), 'utf8')
    return (
      /\bBuffer\.|\bprocess\./.test(text) ||
      importsOf(file).some(
        (name) =>
          !name.startsWith('.') &&
          name !== 'msgpackr/unpack' &&
          !(file.startsWith('src/console/') && IN_CONSOLE.test(name)),
      )
    )
  })
  expect(guilty).toEqual([])
})

test('only the level engine touches LevelDB; the bench measures it bare, as a limit', () => {
  const guilty = sources.filter(
    (file) =>
      !/^(?:src\/log\/level|tools\/bench)\//.test(file) &&
      importsOf(file).some((name) => /^(?:classic-)?level$/.test(name)),
  )
  expect(guilty).toEqual([])
})

test('a file is read in one sitting: at most 400 lines', () => {
  const long = sources.map((file) => [file, readFileSync(join(root, file), 'utf8').split('\n').length - 1] as const)
  expect(long.filter(([, lines]) => lines > 400)).toEqual([])
})

test('two folder levels, no barrels, no names that say nothing', () => {
  expect(files.filter((file) => file.split('/').length > 4)).toEqual([])
  const empty = /(?:^|\/)(?:index|utils?|helpers?|common|misc|types|managers?|services?)(?:\.|\/)/
  expect(files.filter((file) => empty.test(file))).toEqual([])
})
