import { lstatSync, mkdirSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { NewEventJson } from '../../src/wire.ts'
import { Hints } from '../../tools/watch/hints.ts'
import { ignoring, type Looker, look, pathWithin } from '../../tools/watch/look.ts'
import { batches, difference, parentOf, Tree } from '../../tools/watch/tree.ts'
import { SEED, tempDir } from '../parts.ts'
import { disturb, nodeText, onDisk, plant, randomFrom } from './disk.ts'

interface Watched extends Looker {
  readonly troubles: string[]
}

function watched(root = tempDir(), isIgnored: (path: string) => boolean = () => false): Watched {
  const troubles: string[] = []
  const hints = new Hints((path, error) => troubles.push(`${path}: ${error.code}`))
  onTestFinished(() => hints.close())
  hints.touchEverything()
  return {
    root,
    known: new Tree(),
    hints,
    isIgnored,
    onTrouble: (path, why) => troubles.push(`${path}: ${why}`),
    troubles,
  }
}

/** Looks where the hints say until they are quiet, and takes the difference up as if the channel had it. */
async function follow(at: Watched): Promise<NewEventJson[]> {
  const told: NewEventJson[] = []
  do {
    const events = difference(at.known, await look(at, at.hints.take()))
    expectOrder(at.known, events)
    for (const event of events) at.known.apply(event)
    told.push(...events)
  } while (await at.hints.wait(50, new AbortController().signal))
  return told
}

/** Every event makes sense where it stands: added under a directory that is there, removed when nothing is below. */
function expectOrder(known: Tree, events: readonly NewEventJson[]): void {
  const kinds = new Map([...known.below('')].map((path) => [path, known.get(path)!.kind as string]))
  for (const key of known.strange) kinds.set(key, 'strange')
  for (const { type, key, data } of events) {
    const path = key!
    if (type === 'node.removed') {
      expect([...kinds.keys()].filter((other) => other.startsWith(`${path}/`))).toEqual([])
      expect(kinds.delete(path)).toBe(true)
    } else {
      expect(kinds.has(path)).toBe(type === 'node.changed')
      if (parentOf(path) !== '') expect(kinds.get(parentOf(path))).toBe('dir')
      kinds.set(path, (data as { kind: string }).kind)
    }
  }
}

const known = (at: Watched): Map<string, string> =>
  new Map([...at.known.below('')].sort().map((path) => [path, nodeText(at.known.get(path)!)]))

const sorted = (map: Map<string, string>): Map<string, string> => new Map([...map].sort())

test('hints alone lead to every change of a tree that changes at random while it is looked at', async () => {
  console.log(`seed ${SEED}`)
  const random = randomFrom(SEED)
  const at = watched()
  plant(at.root, 150, random)
  await follow(at)
  for (let round = 0; round < 30; round++) {
    // Some changes come in one go, some while the looks are under way.
    const changing = (async () => {
      for (let i = random(20); i >= 0; i--) {
        disturb(at.root, random, 200)
        if (random(3) === 0) await new Promise(setImmediate)
      }
    })()
    await Promise.all([changing, follow(at)])
    await follow(at)
    expect(known(at), `seed ${SEED}, round ${round}`).toEqual(sorted(onDisk(at.root)))
    expect(at.hints.size).toBe([...known(at).values()].filter((text) => text.startsWith('dir')).length + 1)
  }
})

test('a directory that is replaced by another one of the same name is looked into again', async () => {
  const at = watched()
  mkdirSync(join(at.root, 'a/b'), { recursive: true })
  writeFileSync(join(at.root, 'a/b/old'), 'old')
  await follow(at)
  rmSync(join(at.root, 'a'), { recursive: true })
  mkdirSync(join(at.root, 'a/b'), { recursive: true })
  writeFileSync(join(at.root, 'a/b/new'), 'new')
  await follow(at)
  expect([...known(at).keys()]).toEqual(['a', 'a/b', 'a/b/new'])
  writeFileSync(join(at.root, 'a/b/newer'), 'newer')
  await follow(at)
  expect(known(at)).toEqual(sorted(onDisk(at.root)))
})

test('a replaced directory is not taken for the watched one, though no notice told of it', async () => {
  const at = watched()
  const dir = join(at.root, 'd')
  mkdirSync(dir)
  await follow(at)
  const before = lstatSync(dir)
  expect(at.hints.isWatched('d', before)).toBe(true)
  renameSync(dir, join(at.root, 'e'))
  mkdirSync(dir)
  // Nothing was awaited, so nothing was heard.
  expect(at.hints.isWatched('d', lstatSync(dir))).toBe(false)
})

test('a file that is made while its new directory is looked into is not missed', async () => {
  const at = watched()
  await follow(at)
  for (let i = 0; i < 60; i++) {
    const dir = join(at.root, `d-${i}`)
    mkdirSync(dir)
    at.hints.touch('', `d-${i}`)
    let isOver = false
    const following = follow(at).finally(() => {
      isOver = true
    })
    for (let n = 0; n < 12 && !isOver; n++) {
      await new Promise(setImmediate)
      writeFileSync(join(dir, `f-${n}`), '')
    }
    await following
  }
  await follow(at)
  expect(known(at)).toEqual(sorted(onDisk(at.root)))
})

test('two directories that swap their names swap their entries', async () => {
  const at = watched()
  for (const name of ['x', 'y']) {
    mkdirSync(join(at.root, name))
    writeFileSync(join(at.root, name, `in-${name}`), name)
  }
  await follow(at)
  renameSync(join(at.root, 'x'), join(at.root, 't'))
  renameSync(join(at.root, 'y'), join(at.root, 'x'))
  renameSync(join(at.root, 't'), join(at.root, 'y'))
  await follow(at)
  expect([...known(at).keys()]).toEqual(['x', 'x/in-y', 'y', 'y/in-x'])
  writeFileSync(join(at.root, 'x/later'), 'later')
  await follow(at)
  expect(known(at)).toEqual(sorted(onDisk(at.root)))
})

test('a directory that becomes a link to itself is not followed', async () => {
  const at = watched()
  const elsewhere = tempDir()
  mkdirSync(join(at.root, 'd'))
  writeFileSync(join(at.root, 'd/f'), 'f')
  await follow(at)
  renameSync(join(at.root, 'd'), join(elsewhere, 'd'))
  symlinkSync(join(elsewhere, 'd'), join(at.root, 'd'))
  writeFileSync(join(elsewhere, 'd/g'), 'g')
  await follow(at)
  expect([...known(at)].map(([path, text]) => `${path} ${text.split(' ')[0]}`)).toEqual(['d link'])
})

test('names that can be no key are left out and told, and cost nothing else', async () => {
  const at = watched()
  writeFileSync(Buffer.concat([Buffer.from(`${at.root}/`), Buffer.from([0x66, 0xff, 0x66])]), 'not UTF-8')
  writeFileSync(join(at.root, 'line\nbreak'), 'control')
  writeFileSync(join(at.root, 'esc\u001b[2J'), 'control')
  let deep = at.root
  // 6 × 200 bytes: the disk takes the path, a key does not.
  for (let i = 0; i < 6; i++) {
    deep = join(deep, String(i).repeat(199))
    mkdirSync(deep)
  }
  writeFileSync(join(at.root, 'good'), 'good')
  await follow(at)
  const paths = [...known(at).keys()]
  expect(paths.filter((path) => path.length < 100)).toEqual(['good'])
  expect(paths.filter((path) => path.length >= 100)).toHaveLength(5)
  expect(at.troubles).toHaveLength(4)
  // They are left out by hints too.
  writeFileSync(join(at.root, 'tab\tname'), 'control')
  writeFileSync(join(at.root, 'better'), 'better')
  await follow(at)
  expect([...known(at).keys()].filter((path) => path.length < 100)).toEqual(['better', 'good'])
})

test('keys that others wrote are put right, also those that can be no path', async () => {
  const at = watched()
  mkdirSync(join(at.root, 'd'))
  writeFileSync(join(at.root, 'd/f'), 'f')
  mkdirSync(join(at.root, 'e/in'), { recursive: true })
  await follow(at)
  const foreign = ['/d', 'd//f', 'd/../d', '../outside', 'nowhere/at/all', 'd/f/below-a-file', 'd/', '.']
  for (const key of [...foreign, 'e']) at.known.apply({ type: 'node.added', key, data: { kind: 'file' } })
  at.known.apply({ type: 'note', key: 'd', data: 'mine now' })
  at.known.apply({ type: 'node.changed', key: 'd/f', data: { kind: 'dir', color: 'red' } })
  at.hints.touchEverything()
  const told = await follow(at)
  expect(known(at)).toEqual(sorted(onDisk(at.root)))
  expect([...at.known.strange]).toEqual([])
  expect(told.filter(({ type }) => type === 'node.removed')).toHaveLength(foreign.length)
})

test('what changes in a directory is found though another writer said that the directory is gone', async () => {
  const at = watched()
  mkdirSync(join(at.root, 'd/e'), { recursive: true })
  writeFileSync(join(at.root, 'd/e/f'), 'f')
  await follow(at)
  at.known.apply({ key: 'd', tombstone: true })
  at.known.apply({ type: 'note', key: 'd/e', data: 1 })
  writeFileSync(join(at.root, 'd/e/f'), 'changed')
  await follow(at)
  expect(known(at)).toEqual(sorted(onDisk(at.root)))
})

test('a root that went away is an error and not an empty tree', async () => {
  const at = watched()
  mkdirSync(join(at.root, 'in'))
  const looker = { ...at, root: join(at.root, 'in') }
  writeFileSync(join(looker.root, 'f'), 'f')
  const first = await look(looker, 'everything')
  expect(first.found.size).toBe(1)
  rmSync(looker.root, { recursive: true })
  await expect(look(looker, 'everything')).rejects.toMatchObject({ code: 'io-error' })
})

test('what is ignored is not in the tree, and leaves it when it was', async () => {
  const at = watched()
  mkdirSync(join(at.root, 'a/node_modules/x'), { recursive: true })
  mkdirSync(join(at.root, 'build/deep'), { recursive: true })
  for (const path of ['a/node_modules/x/f', 'build/deep/f', 'a/keep', 'a/x.tmp'])
    writeFileSync(join(at.root, path), 'f')
  await follow(at)
  expect(known(at).size).toBe(9)
  const strict = watched(at.root, ignoring(['node_modules', 'build/**', '*.tmp']))
  for (const path of at.known.below('')) strict.known.set(path, at.known.get(path)!)
  await follow(strict)
  expect([...known(strict).keys()]).toEqual(['a', 'a/keep', 'build'])
  unlinkSync(join(at.root, 'a/x.tmp'))
  writeFileSync(join(at.root, 'a/node_modules/x/g'), 'g')
  await follow(strict)
  expect([...known(strict).keys()]).toEqual(['a', 'a/keep', 'build'])
})

test('patterns speak of names, or with a slash of paths', () => {
  const cases: [string, string, boolean][] = [
    ['*.tmp', 'a/b.tmp', true],
    ['*.tmp', 'a/b.tmp/c', false],
    ['a?c', 'abc', true],
    ['a?c', 'a/c', false],
    ['a/*', 'a/b', true],
    ['a/*', 'a/b/c', false],
    ['a/**', 'a/b/c', true],
    ['**/c', 'a/b/c', true],
    ['**/c', 'c', true],
    ['/a', 'a', true],
    ['/a', 'b/a', false],
    ['a/', 'a', true],
    ['a.b', 'axb', false],
    ['(x|[y', '(x|[y', true],
  ]
  for (const [pattern, path, is] of cases)
    expect([pattern, path, ignoring([pattern])(path)]).toEqual([pattern, path, is])
  expect(() => ignoring(['x'.repeat(257)])).toThrow(expect.objectContaining({ code: 'bad-request' }))
})

test('a path within is told from one beside', () => {
  expect(pathWithin('/a/b', '/a/b/c/d')).toBe('c/d')
  expect(pathWithin('/a/b', '/a/bc')).toBeUndefined()
  expect(pathWithin('/a/b', '/a/b')).toBeUndefined()
})

test('appends hold at most so many events and bytes, in order', () => {
  const events = Array.from({ length: 2_500 }, (_, i) => ({ type: 'node.added', key: 'é'.repeat(i % 400), data: i }))
  const cut = [...batches(events, { events: 1_000, bytes: 64 * 1024 })]
  expect(cut.flat()).toEqual(events)
  for (const batch of cut) {
    expect(batch.length).toBeLessThanOrEqual(1_000)
    expect(Buffer.byteLength(JSON.stringify(batch))).toBeLessThan(80 * 1024)
  }
  expect([...batches([{ key: 'x'.repeat(200) }], { events: 10, bytes: 100 })]).toHaveLength(1)
})
