import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
/** What is found in LevelDB's own files before it opens over it. */
import { readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { listFiles } from '../../src/log/level/files.ts'
import { headKey } from '../../src/log/level/keys.ts'
import { Rows } from '../../src/log/level/merge.ts'
import { damageIn, maskedCrc, Reader, RunningCrc, scanLog, scanRecords, versionsOf } from '../../src/log/level/scan.ts'
import { Table, versionsIn } from '../../src/log/level/table.ts'
import { type LogOptions, openLog } from '../../src/log/open.ts'
import { range, tempDir } from '../parts.ts'
import { ALL, append, BLOCKWISE, eventsOf, readAll, refusal, valueIn } from './reading.ts'
import { withRows } from './stored.ts'

const READER = fileURLToPath(new URL('../../dist/test/log/reader.js', import.meta.url))

async function opened(dir: string, options: Partial<LogOptions> = {}) {
  const log = await openLog({ dir, ...options })
  onTestFinished(() => log.close())
  return log
}

const filesOf = (dir: string, end: string): string[] =>
  readdirSync(join(dir, 'store'))
    .filter((name) => name.startsWith('MANIFEST') || name.endsWith(end))
    .filter((name) => (end === '' ? name.startsWith('MANIFEST') : name.endsWith(end)))
    .sort()
    .map((name) => join(dir, 'store', name))

/** Thirty blocks of ten events in each of two channels. With `tables`, opened once more, so that they lie in a table. */
async function fill(tables: boolean): Promise<string> {
  const dir = tempDir()
  const log = await opened(dir)
  for (const i of range(0, 29)) for (const c of ['c', 'd']) await append(log, c, range(i * 10 + 1, i * 10 + 10))
  await log.commit('web', 'c', { seq: 7 })
  await log.close()
  if (tables) await (await opened(dir)).close()
  return dir
}

function flipAt(path: string, offset: number, bit = 3): void {
  const bytes = readFileSync(path)
  bytes[offset]! ^= 1 << bit
  writeFileSync(path, bytes)
}

describe('the files of a level log', () => {
  test('crc32c is the one of the books', () => {
    const unmask = (masked: number): number => {
      const turned = (masked - 0xa282ead8) >>> 0
      return ((turned << 15) | (turned >>> 17)) >>> 0
    }
    expect(unmask(maskedCrc(Buffer.from('123456789'), 0, 9))).toBe(0xe3069283)
    expect(unmask(maskedCrc(Buffer.alloc(32), 0, 32))).toBe(0x8a9136aa)
    const bytes = randomBytes(64)
    for (const from of range(0, 9))
      for (const to of range(from, 64)) {
        const one = new RunningCrc()
        for (const byte of bytes.subarray(from, to)) one.add(byte)
        expect(maskedCrc(bytes, from, to)).toBe(one.masked)
      }
  })

  test('a write-ahead file and a table hold what LevelDB says they hold', async () => {
    const dir = await fill(false)
    const path = filesOf(dir, '.log').at(-1)!
    const scan = scanLog(readFileSync(path))
    expect(scan.bad).toEqual([])
    const newest = new Map<string, string | undefined>()
    for (const { data } of scan.records)
      for (const { key, value } of versionsOf(data))
        newest.set(Buffer.from(key).toString('hex'), value && Buffer.from(value).toString('hex'))
    const rows = await withRows(dir, (db) => db.iterator().all())
    const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
    const said = rows.map(([key, value]) => [hex(key), hex(value)])
    expect([...newest].filter(([, value]) => value !== undefined).sort()).toEqual(said)
    // Now the same rows lie in a table.
    const table = new Table(filesOf(dir, '.ldb').at(-1)!)
    expect(table.faults).toEqual([])
    const inTable = table.blocks.flatMap((block) => {
      const { content, isWhole } = table.read(block)
      expect(isWhole).toBe(true)
      return [...versionsIn(content)]
    })
    table.close()
    const newestIn = new Map<string, { seq: number; value: string | undefined }>()
    for (const { key, seq, value } of inTable)
      if ((newestIn.get(hex(key))?.seq ?? -1) < seq) newestIn.set(hex(key), { seq, value: value && hex(value) })
    expect([...newestIn].map(([key, { value }]) => [key, value])).toEqual(said)
  })

  test('A flipped bit amid a log file is refused with file and offset, and opens only when the loss is accepted', async () => {
    const dir = await fill(false)
    const path = filesOf(dir, '.log').at(-1)!
    const at = Math.floor(statSync(path).size / 2)
    flipAt(path, at)
    const told = await refusal(openLog({ dir }))
    expect(told).toMatchObject({ code: 'data-loss', file: path.split('/').at(-1) })
    expect(told.offset).toBeLessThanOrEqual(at)
    // Nothing was changed by the refusal.
    expect(damageIn(scanLog(readFileSync(path)))).toBeDefined()
    const log = await opened(dir, { acceptDataLoss: true })
    const { epoch } = await log.info('d')
    await append(log, 'd', ['goes on'])
    await log.close()
    expect(await (await opened(dir)).info('d')).toMatchObject({ epoch })
  })

  test('A write that was torn at the end of the log file is not damage; the high-water mark judges it', async () => {
    const dir = await fill(false)
    const path = filesOf(dir, '.log').at(-1)!
    const { records } = scanLog(readFileSync(path))
    const whole = readFileSync(path)
    const newest = records.at(-1)!
    const begun = whole.subarray(newest.offset)
    for (const tail of [
      begun.subarray(0, 5),
      begun.subarray(0, 30),
      Buffer.alloc(5_000),
      Buffer.alloc(300, 'garbage'),
    ]) {
      writeFileSync(path, Buffer.concat([whole, tail]))
      expect(damageIn(scanLog(readFileSync(path)))).toBeUndefined()
    }
    writeFileSync(path, Buffer.concat([whole, begun.subarray(0, 30)]))
    const told: string[] = []
    const log = await opened(dir, { onNotice: (level) => told.push(level) })
    expect(told).toEqual(['info'])
    expect((await readAll(log, 'c')).map(valueIn)).toEqual(range(1, 300))
    await log.close()
  })

  test('A record of another log inside an event is not taken for one', async () => {
    const dir = tempDir()
    const donor = await fill(false)
    const stolen = readFileSync(filesOf(donor, '.log').at(-1)!)
    const log = await opened(dir)
    await append(log, 'c', range(1, 10))
    await append(log, 'c', [stolen.subarray(0, 20_000).toString('latin1')])
    await log.close()
    const path = filesOf(dir, '.log').at(-1)!
    const { records } = scanLog(readFileSync(path))
    // Cut amid the event that holds the foreign records: torn, for this log's own records have all been read.
    truncateSync(path, records.at(-1)!.offset + 15_000)
    expect(damageIn(scanLog(readFileSync(path)))).toBeUndefined()
  })

  test('A damaged MANIFEST, CURRENT, filter, index or row of a table is refused; a cut or missing table too', async () => {
    const damages: [string, (dir: string) => void][] = [
      ['MANIFEST', (dir) => flipAt(filesOf(dir, '').at(-1)!, 20)],
      ['CURRENT', (dir) => writeFileSync(join(dir, 'store', 'CURRENT'), 'MANIFEST-000099\n')],
      ['CURRENT without its line', (dir) => writeFileSync(join(dir, 'store', 'CURRENT'), 'MANIFEST')],
      ['rows', (dir) => flipAt(filesOf(dir, '.ldb').at(-1)!, 30)],
      ['footer', (dir) => flipAt(filesOf(dir, '.ldb').at(-1)!, statSync(filesOf(dir, '.ldb').at(-1)!).size - 3)],
      ['index', (dir) => flipAt(filesOf(dir, '.ldb').at(-1)!, statSync(filesOf(dir, '.ldb').at(-1)!).size - 48 - 30)],
      ['cut', (dir) => truncateSync(filesOf(dir, '.ldb').at(-1)!, 1_000)],
      ['emptied', (dir) => truncateSync(filesOf(dir, '.ldb').at(-1)!, 0)],
    ]
    for (const [name, damage] of damages) {
      const dir = await fill(true)
      damage(dir)
      expect({ name, ...(await refusal(openLog({ dir }))) }).toMatchObject({ name, code: 'data-loss' })
    }
  })

  test('A record of MANIFEST whose length runs over the end is damage where others follow it', async () => {
    const dir = await fill(true)
    // As it is while it grows: what was opened wrote its records behind the first one.
    const path = filesOf(dir, '').at(-1)!
    const whole = readFileSync(path)
    const { records } = scanRecords(whole, () => true)
    expect(records.length).toBeGreaterThan(1)
    for (const { offset } of records.slice(0, -1)) {
      // LevelDB would pass over all that follows, and delete tables that it has not heard of.
      flipAt(path, offset + 5, 6)
      expect(listFiles(join(dir, 'store')).faults).toMatchObject([{ file: basename(path), offset }])
      expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'data-loss' })
      expect(readFileSync(path).length).toBe(whole.length)
      writeFileSync(path, whole)
    }
  })

  test('Without its footer or index a table still tells every row, no more, and where each is', async () => {
    const all = { gte: new Uint8Array(), lte: Buffer.alloc(300, 0xff) }
    const rowsOf = (rows: Rows): string[] => [...rows.range(all)].map((row) => Buffer.concat(row).toString('hex'))
    const manyBlocks = tempDir()
    const log = await opened(manyBlocks)
    for (const i of range(1, 100)) for (const c of ['c', 'd', 'e']) await append(log, c, [`${i} ${'x'.repeat(2_000)}`])
    await log.close()
    await (await opened(manyBlocks)).close()
    const fewBlocks = tempDir()
    const small = await opened(fewBlocks)
    await append(small, 'c', [1])
    await small.close()
    await (await opened(fewBlocks)).close()
    const spots = [
      { behind: 3, what: 'its footer is damaged' },
      { behind: 48 + 8, what: 'its index is damaged' },
    ]
    for (const dir of [manyBlocks, fewBlocks]) {
      const path = filesOf(dir, '.ldb').at(-1)!
      const bytes = readFileSync(path)
      const table = new Table(path)
      const known = table.blocks.map(({ offset, size }) => ({ offset, size }))
      table.close()
      const before = new Rows(join(dir, 'store'))
      const rows = rowsOf(before)
      before.close()
      for (const { behind, what } of spots) {
        flipAt(path, bytes.length - behind)
        const damaged = new Table(path)
        expect(damaged.blocks.map(({ offset, size }) => ({ offset, size }))).toEqual(known)
        damaged.close()
        const found = new Rows(join(dir, 'store'))
        const read = vi.spyOn(Table.prototype, 'read')
        expect(found.get(headKey(1))).toBeDefined()
        // One block, and a second where a key may stand at the end of one and the start of the next.
        expect(read.mock.calls.length).toBeLessThanOrEqual(2)
        read.mockRestore()
        expect(rowsOf(found)).toEqual(rows)
        expect(found.faults).toMatchObject([{ file: basename(path), what }])
        found.close()
        writeFileSync(path, bytes)
      }
    }
  })

  test('Blocks of rows are found without a look at the blocks of events between them', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    for (const i of range(1, 40)) {
      await append(log, `a${i}`, [`${i} ${'x'.repeat(20_000)}`])
      for (const of of ['first', 'second']) await log.commit(`${of}-${i}-${'y'.repeat(200)}`, `a${i}`, { seq: 1 })
    }
    await log.close()
    await (await opened(dir)).close()
    const table = new Table(filesOf(dir, '.ldb').at(-1)!)
    const isEvent = (key: Uint8Array | undefined) => key?.[0] === 0x65
    const beside = table.blocks.filter(({ before, upTo }) => !(isEvent(before) && isEvent(upTo)))
    // On both sides of the events, and not all there are.
    expect(beside.some(({ upTo }) => upTo[0]! < 0x65)).toBe(true)
    expect(beside.some(({ upTo }) => upTo[0]! > 0x65)).toBe(true)
    expect(table.blocks.length).toBeGreaterThan(beside.length + 20)
    const found = new Table(table.path).blocksBeside(0x65)
    expect(found).toEqual(expect.arrayContaining([...beside]))
    expect(found.length).toBeLessThanOrEqual(beside.length + 1)
    for (const first of [0x00, 0x63, 0x68, 0xff]) {
      const kind = (key: Uint8Array | undefined) => key?.[0] === first
      const rest = table.blocks.filter(({ before, upTo }) => !(kind(before) && kind(upTo)))
      expect(new Table(table.path).blocksBeside(first)).toEqual(expect.arrayContaining([...rest]))
    }
    table.close()
  })

  test('An index that claims what no file holds is a damaged block, whatever it claims', async () => {
    const dir = await fill(true)
    const path = filesOf(dir, '.ldb').at(-1)!
    const bytes = readFileSync(path)
    const footer = new Reader(bytes, bytes.length - 48)
    const [, , offset, size] = [footer.varint(), footer.varint(), footer.varint(), footer.varint()]
    // Of the first entry: shared, fresh and value lengths, the key, and the value, which is an offset and a size.
    const keyBytes = bytes[offset + 1]!
    const valueBytes = bytes[offset + 2]!
    const end = offset + 3 + keyBytes + valueBytes
    // The value grows at the cost of the key: its size becomes one of eight bytes and more.
    bytes[offset + 1] = keyBytes - 6
    bytes[offset + 2] = valueBytes + 6
    bytes.fill(0xff, end - valueBytes - 5, end - 1)
    bytes[end - valueBytes - 6] = 0
    bytes[end - 1] = 0x3f
    bytes.writeUInt32LE(maskedCrc(bytes, offset, offset + size + 1), offset + size + 1)
    writeFileSync(path, bytes)
    expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'data-loss', file: basename(path), offset: 0 })
  })

  test('Bytes behind a bad spot that look like records, however many, are compared with the record before it, which is put together once', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    // Sixteen bytes, each time a fragment by its type and length, a batch by its count and its number.
    const trap = Buffer.from([0, 0, 0, 0, 9, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1])
    await append(log, 'c', ['x'.repeat(200_000)])
    await append(log, 'c', [1])
    await log.close()
    const path = filesOf(dir, '.log').at(-1)!
    const bytes = readFileSync(path)
    const long = scanLog(bytes).records.at(-2)!
    expect(long.data.length).toBeGreaterThan(200_000)
    const behind = Buffer.concat(Array<Buffer>(3_000).fill(trap))
    const joined = vi.spyOn(Buffer, 'concat')
    onTestFinished(() => joined.mockRestore())
    const end = scanLog(bytes).records.at(-1)!.offset
    const scan = scanLog(Buffer.concat([bytes.subarray(0, end), Buffer.from([1]), behind]))
    expect(scan.records.at(-1)!.offset).toBe(long.offset)
    expect(joined.mock.calls.length).toBeLessThan(10)
  })

  test('A flipped bit in the filter, by which LevelDB would not find a row that is there, is refused', async () => {
    const dir = await fill(true)
    const path = filesOf(dir, '.ldb').at(-1)!
    const table = new Table(path)
    const last = table.blocks.at(-1)!
    table.close()
    // The filter follows the data blocks.
    flipAt(path, last.offset + last.size + 5 + 2)
    expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'data-loss' })
  })

  test('A block of events over which LevelDB ends the process does so twice; then the log is refused, and names it', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    for (const i of range(1, 60)) await append(log, 'c', [`${i} ${'x'.repeat(2_000)}`])
    await log.close()
    await (await opened(dir)).close()
    const path = filesOf(dir, '.ldb').at(-1)!
    const table = new Table(path)
    const events = table.blocks.filter(({ before, upTo }) => before?.[0] === 0x65 && upTo?.[0] === 0x65)
    const sound = events.map((block) => table.isSound(block))
    table.close()
    expect(new Set(sound)).toEqual(new Set([true]))
    const bytes = readFileSync(path)
    // A garbled key: LevelDB is built with its assertions on.
    bytes.fill(0, events[1]!.offset, events[1]!.offset + 8)
    writeFileSync(path, bytes)
    const read = () => spawnSync(process.execPath, [READER, dir], { encoding: 'utf8' })
    expect([read(), read()].map(({ signal }) => signal)).toEqual(['SIGABRT', 'SIGABRT'])
    expect(read().stderr).toContain('data-loss')
    expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'data-loss', file: basename(path) })
  })

  test('The first block of a table is one of events where the table begins with one, and is checked where it begins with a row', async () => {
    for (const begins of ['event', 'row']) {
      const dir = tempDir()
      const log = await opened(dir)
      for (const i of range(1, 60)) await append(log, 'c', [`${i} ${'x'.repeat(1_000)}`])
      if (begins === 'row') await log.commit('web', 'c', { seq: 7 })
      await log.close()
      await (await opened(dir)).close()
      const { name, firstKey } = listFiles(join(dir, 'store')).tables.at(-1)!
      const path = join(dir, 'store', name)
      const table = new Table(path, firstKey)
      expect(table.blocks[0]).toMatchObject({ offset: 0, before: firstKey })
      expect(table.blocks[0]!.upTo[0]).toBe(0x65)
      table.close()
      expect(firstKey![0] === 0x65).toBe(begins === 'event')
      // In the value of the first event; in the cursor, which stands ahead of it.
      flipAt(path, begins === 'event' ? 500 : 30)
      if (begins === 'row') expect(await refusal(openLog({ dir }))).toMatchObject({ code: 'data-loss', file: name })
      else {
        const again = await opened(dir)
        expect(await refusal(again.read('c', { after: 0 }, ALL))).toMatchObject({
          code: 'data-loss',
          after: 0,
          upTo: 1,
        })
        expect((await readAll(again, 'c', { after: 1 })).map(({ seq }) => seq)).toEqual(range(2, 60))
      }
    }
  })

  test('Damage among events is not refused: it costs its own range alone, however it is read', async () => {
    const dir = tempDir()
    const log = await opened(dir)
    for (const i of range(1, 100)) for (const c of ['c', 'd']) await append(log, c, [`${i} ${'x'.repeat(1_000)}`])
    await log.close()
    await (await opened(dir)).close()
    const path = filesOf(dir, '.ldb').at(-1)!
    const table = new Table(path)
    const block = table.blocks.find(({ before, upTo }) => before?.[0] === 0x65 && upTo?.[0] === 0x65)!
    const rows = [...versionsIn(table.read(block).content)].length
    table.close()
    // In an event; and in what says how the block is compressed, over which LevelDB gives up on all of it.
    for (const { at, lost } of [
      { at: block.offset + 5_500, lost: 1 },
      { at: block.offset + block.size, lost: rows },
    ]) {
      flipAt(path, at)
      for (const limits of [ALL, BLOCKWISE, { events: 7, bytes: ALL.bytes }]) {
        const again = await opened(dir)
        const told: unknown[] = []
        const seen = { c: 0, d: 0 }
        for (const channel of ['c', 'd'] as const)
          for (let after = 0; after < 100; ) {
            const page = await again.read(channel, { after }, limits).catch((error) => error)
            if (page.code === 'data-loss') {
              told.push({ channel, events: page.details.upTo - page.details.after })
              after = page.details.upTo
            } else {
              seen[channel] += eventsOf(page).length
              after = page.last
            }
          }
        expect({ told, seen }).toEqual({ told: [{ channel: 'c', events: lost }], seen: { c: 100 - lost, d: 100 } })
        await again.close()
      }
      flipAt(path, at)
    }
  })
})
