import { chmodSync, cpSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { checkBlock, decodeBlock } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { openLog } from '../../src/log/open.ts'
import { list, readAll, refusal } from '../log/reading.ts'
import { event, tempDir } from '../parts.ts'
import { codeOf } from '../random.ts'
import { type BlockRecord, record, type StoreRecord } from './make.ts'

const golden = new URL('.', import.meta.url).pathname
const formats = readdirSync(golden).filter((name) => /^format-\d+$/.test(name))

test('There are golden files of format 1', () => expect(formats).toContain('format-1'))

describe.each(formats)('%s', (format) => {
  const read = (name: string): unknown => JSON.parse(readFileSync(join(golden, format, name), 'utf8'))

  for (const { what, channel, header, events, hex } of read('blocks.json') as BlockRecord[])
    test(`A block is read as it was written: ${what}`, () => {
      const block = Buffer.from(hex, 'hex')
      expect(checkBlock(channel, block, crc32)).toMatchObject({ ...header, length: block.length })
      expect(decodeBlock(block).map(record)).toEqual(events)
      expect(codeOf(() => checkBlock('another', block, crc32))).toBe('data-loss')
    })

  test('A log opens as the copy that it is, and holds every event, cursor and receipt', async () => {
    const { time, channels, cursors, receipts } = read('log.json') as StoreRecord
    const dir = join(tempDir(), 'log')
    cpSync(join(golden, format, 'log'), dir, { recursive: true })
    // A checkout may be read-only.
    for (const name of readdirSync(dir, { recursive: true }) as string[])
      chmodSync(join(dir, name), statSync(join(dir, name)).isDirectory() ? 0o700 : 0o600)
    // Receipts are remembered for a day, and this one has long passed.
    vi.useFakeTimers({ toFake: ['Date'], now: time })
    onTestFinished(() => void vi.useRealTimers())
    expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'wrong-config' })
    const log = await openLog({ dir, acceptCopy: true })
    onTestFinished(() => log.close())

    expect(await list(log.channels(''))).toEqual(
      channels.map(({ events: _, epoch, ...info }) => ({ ...info, epoch: expect.not.stringMatching(epoch) })),
    )
    for (const { channel, trimmed, events } of channels)
      expect((await readAll(log, channel, { after: trimmed })).map(record)).toEqual(events)
    const found = await Promise.all(channels.map(({ channel }) => list(log.cursors({ channel }))))
    expect(found.flat()).toEqual(cursors)
    for (const client of new Set(cursors.map(({ client }) => client)))
      expect(await list(log.cursors({ client }))).toEqual(cursors.filter((cursor) => cursor.client === client))
    for (const { key, entries, answers } of receipts) {
      const appends = entries.map(({ channel, data }) => ({ channel, body: encodeBody([event(JSON.parse(data))]) }))
      const again = await log.append(appends, { idempotencyKey: key })
      expect(again).toMatchObject(answers.map((answer) => ({ ...answer, duplicate: true })))
    }
    for (const { channel, head } of channels)
      expect(await log.append([{ channel, body: encodeBody([event('next')]) }])).toMatchObject([{ first: head + 1 }])
  })
})
