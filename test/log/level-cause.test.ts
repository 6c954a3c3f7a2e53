import { readdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { Level } from 'level'
import { expect, onTestFinished, test } from 'vitest'
import { isDiskFull, isOfStore, reasonOf } from '../../src/log/level/cause.ts'
import { tempDir } from '../parts.ts'

test('A table that can not be opened is the store failing, whether it is read at once or later', async () => {
  const dir = tempDir()
  const open = async (): Promise<Level> => {
    const db = new Level(dir)
    await db.open()
    return db
  }
  const made = await open()
  await made.put('a', 'x')
  await made.close()
  // An opening writes what the log file holds into a table, and keeps that one open.
  await (await open()).close()
  const db = await open()
  onTestFinished(() => db.close())
  const tables = readdirSync(dir).filter((name) => name.endsWith('.ldb'))
  expect(tables).not.toEqual([])
  for (const name of tables) renameSync(join(dir, name), join(dir, `${name}.away`))
  let atOnce: unknown
  try {
    db.getSync('a')
  } catch (error) {
    atOnce = error
  }
  const later: unknown = await db.get('a').catch((error: unknown) => error)
  for (const error of [atOnce, later]) {
    expect(isOfStore(error), reasonOf(error)).toBe(true)
    expect(isDiskFull(error)).toBe(false)
  }
  expect(isOfStore(new Error('anything else'))).toBe(false)
})
