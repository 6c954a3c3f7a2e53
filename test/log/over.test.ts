/** Epochs that were kept from elsewhere, and ended here: whatever happens to the log since, none of their seqs is used twice. */
import { cpSync } from 'node:fs'
import { crc32 } from 'node:zlib'
import { expect, onTestFinished, test } from 'vitest'
import { sealBlock } from '../../src/block.ts'
import { overKey } from '../../src/log/level/keys.ts'
import type { Log } from '../../src/log/log.ts'
import { type LogOptions, openLog, salvageStopped, verifyStopped } from '../../src/log/open.ts'
import { body, tempDir } from '../parts.ts'
import { append, refusal } from './reading.ts'
import { flip, withRows } from './stored.ts'

const FROM = 'aaaaaaaaaa.bbbbbbbbbb'
const OVER = { code: 'epoch-changed', channel: 'c' }

async function opened(dir: string, options: Partial<LogOptions> = {}): Promise<Log> {
  const log = await openLog({ dir, ...options })
  onTestFinished(() => log.close())
  return log
}

const beginning = (log: Log, from: string, channel = 'c') =>
  log.arrive!(channel, { from, head: 2, trimmed: 0, sameEpoch: true })

/** Takes two events of `c` in under the epoch that they have, from then on they are this log's. */
async function moveIn(log: Log, from = FROM): Promise<void> {
  const piece = { from, head: 2, trimmed: 0, sameEpoch: true }
  await log.arrive!('c', piece)
  await log.arrive!('c', { ...piece, blocks: [sealBlock('c', [body(1, 2)], { after: 0, time: 1 }, crc32)] })
  expect(await log.arrive!('c', { ...piece, end: { settings: {}, time: 1 } })).toMatchObject({ epoch: from })
}

test('A history that moved here, went on and was deleted does not move here again under its epoch', async () => {
  const dir = tempDir()
  let log = await opened(dir)
  await moveIn(log)
  expect(await append(log, 'c', [3])).toMatchObject({ epoch: FROM, first: 3 })
  // In one write with the next one.
  const [, again] = await Promise.all([log.delete('c'), refusal(beginning(log, FROM))])
  expect(again).toMatchObject(OVER)
  for (const stage of ['at once', 'opened again', 'as a copy']) {
    if (stage !== 'at once') await log.close()
    if (stage === 'opened again') log = await opened(dir)
    if (stage === 'as a copy') {
      const copy = tempDir()
      cpSync(dir, copy, { recursive: true })
      log = await opened(copy, { acceptCopy: true })
    }
    for (const from of [FROM, `${FROM}~4`]) expect(await refusal(beginning(log, from))).toMatchObject(OVER)
    // The name is free all the same, for others and for a new epoch.
    expect(await log.arrive!('c', { from: FROM, head: 2, trimmed: 0 })).toMatchObject({ head: 0 })
    await log.arrive!('c', { from: FROM, head: 2, trimmed: 0, drop: true })
    const other = `aaaaaaaaaa.${stage.replaceAll(' ', '')}`
    await moveIn(log, other)
    await log.delete('c')
    expect(await refusal(beginning(log, other))).toMatchObject(OVER)
    await append(log, 'c', ['mine'])
    await log.delete('c')
    expect(await refusal(beginning(log, FROM))).toMatchObject(OVER)
    // What never was here is not over.
    expect(await beginning(log, FROM, 'd')).toMatchObject({ epoch: FROM })
    await log.delete('d')
    expect(await beginning(log, FROM, 'd')).toMatchObject({ epoch: FROM })
    await log.delete('d')
  }
  await log.close()
  expect(await verifyStopped(dir)).toMatchObject({ whole: true })
})

test('Nor does one that the log made in a life before, also when it was salvaged since', async () => {
  const dir = tempDir()
  const log = await opened(dir)
  const { epoch } = await append(log, 'c', [1, 2, 3])
  await log.delete('c')
  await moveIn(log)
  await log.delete('c')
  await log.close()
  const copy = tempDir()
  cpSync(dir, copy, { recursive: true })
  const accepted = await opened(copy, { acceptCopy: true })
  const { epoch: second } = await append(accepted, 'c', [1])
  await accepted.delete('c')
  await accepted.close()
  const saved = `${tempDir()}/saved`
  await salvageStopped(copy, saved)
  for (const at of [copy, saved]) {
    const again = await opened(at)
    for (const from of [epoch, second, FROM]) expect(await refusal(beginning(again, from))).toMatchObject(OVER)
    await again.close()
  }
})

test('A damaged row of them is told, and costs its own name only', async () => {
  const dir = tempDir()
  const log = await opened(dir)
  await moveIn(log)
  await log.delete('c')
  await log.close()
  await withRows(dir, (rows) => flip(rows, overKey('c'), 9))
  expect(await verifyStopped(dir)).toMatchObject({ whole: false, findings: [{ part: 'row' }] })
  const again = await opened(dir)
  expect(await refusal(beginning(again, FROM))).toMatchObject({ code: 'data-loss' })
  expect(await append(again, 'c', ['mine'])).toMatchObject({ first: 1 })
  expect(await beginning(again, FROM, 'd')).toMatchObject({ epoch: FROM })
})
