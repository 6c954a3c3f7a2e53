import { expect, test } from 'vitest'
import { type Batch, LINE_BYTES_MAX, linesOf, Outbox } from '../../tools/lines.ts'
import { printable, table } from '../../tools/terminal.ts'
import { range, SEED } from '../parts.ts'
import { randomFrom } from './disk.ts'

async function* pieces(bytes: Buffer, sizes: () => number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const size = sizes()
    yield bytes.subarray(at, at + size)
    at += size
  }
}

async function all(input: AsyncIterable<Uint8Array>): Promise<string[]> {
  const lines: string[] = []
  for await (const some of linesOf(input)) lines.push(...some)
  return lines
}

test('lines are the same however the input is cut, also amid a character', async () => {
  const random = randomFrom(SEED)
  const lines = range(1, 300).map((n) => 'aé€😀'.repeat(random(6)) + n)
  for (const end of ['', '\n'])
    for (let i = 0; i < 20; i++)
      expect(await all(pieces(Buffer.from(lines.join('\n') + end), () => 1 + random(40)))).toEqual(lines)
  expect(await all(pieces(Buffer.from('\n\na'), () => 1))).toEqual(['', '', 'a'])
  expect(await all(pieces(Buffer.alloc(0), () => 1))).toEqual([])
})

test('input that is not UTF-8, and a line without end, are refused', async () => {
  await expect(all(pieces(Buffer.from([0x61, 0xff, 0x0a]), () => 3))).rejects.toMatchObject({ code: 'bad-request' })
  const endless = Buffer.alloc(LINE_BYTES_MAX + 1, 0x61)
  await expect(all(pieces(endless, () => 65_536))).rejects.toMatchObject({ code: 'too-large' })
  const short = Buffer.concat([Buffer.alloc(LINE_BYTES_MAX - 1, 0x61), Buffer.from('\nnext')])
  expect((await all(pieces(short, () => 65_536))).map((line) => line.length)).toEqual([LINE_BYTES_MAX - 1, 4])
})

test('what is wrong with a line names it, after every line before it was given out', async () => {
  const input = Buffer.concat([Buffer.from('a\né\n'), Buffer.from([0x61, 0xff, 0x0a]), Buffer.from('b\n')])
  for (const size of [1, 4, 100]) {
    const lines: string[] = []
    const reading = async () => {
      for await (const some of linesOf(pieces(input, () => size))) lines.push(...some)
    }
    await expect(reading()).rejects.toMatchObject({ code: 'bad-request', details: { line: 3 } })
    expect(lines).toEqual(['a', 'é'])
  }
  const endless = Buffer.concat([Buffer.from('a\n'), Buffer.alloc(LINE_BYTES_MAX + 1, 0x61)])
  await expect(all(pieces(endless, () => 65_536))).rejects.toMatchObject({ code: 'too-large', details: { line: 2 } })
})

test('a byte order mark at the beginning is none of the first line', async () => {
  for (const size of [1, 100]) {
    expect(await all(pieces(Buffer.from('\ufeffa\n\ufeffb'), () => size))).toEqual(['a', '\ufeffb'])
    expect(await all(pieces(Buffer.from('\ufeff'), () => size))).toEqual([''])
  }
})

test('a long line joins no batch that waits, also behind one that is on its way', async () => {
  const sent: Batch[] = []
  const outbox = new Outbox(async (batch) => {
    await new Promise(setImmediate)
    sent.push(batch)
  })
  const long = 'x'.repeat(900_000)
  for (const line of ['1', '2', '3', long, '5', long, '7']) await outbox.add(line)
  await outbox.end()
  expect(sent.flatMap(({ lines }) => lines.map(({ length }) => length))).toEqual([1, 1, 1, 900_000, 1, 900_000, 1])
  for (const { lines, number } of sent) {
    if (lines.includes(long)) expect(lines).toHaveLength(1)
    expect(lines.includes(long)).toBe(number === 4 || number === 6)
  }
})

test('batches leave in order, one at a time, each line once, and none is kept back when the input is idle', async () => {
  const sent: Batch[] = []
  let underWay = 0
  const outbox = new Outbox(async (batch) => {
    expect(++underWay).toBe(1)
    await new Promise(setImmediate)
    sent.push(batch)
    underWay--
  })
  for (const n of range(1, 5_000)) {
    await outbox.add(String(n))
    if (n % 700 === 0) outbox.flush()
  }
  await outbox.end()
  expect(sent.flatMap(({ lines }) => lines)).toEqual(range(1, 5_000).map(String))
  for (const { lines, number } of sent) {
    expect(lines[0]).toBe(String(number))
    expect(lines.length).toBeLessThanOrEqual(1_000)
  }
})

test('a batch that fails ends the rest', async () => {
  let sent = 0
  const outbox = new Outbox(async () => {
    if (++sent === 2) throw new Error('refused')
  })
  const adding = async () => {
    for (const n of range(1, 100_000)) await outbox.add(String(n))
  }
  await expect(adding()).rejects.toThrow('refused')
  await expect(outbox.end()).rejects.toThrow('refused')
  expect(sent).toBe(2)
})

test('a table is aligned, numbers to the right, and shows no control character as it is', () => {
  expect(
    table(
      ['NAME', 'N'],
      [
        ['a', 1],
        ['bcd', 100],
        ['x\u001b[2J', 20],
      ],
    ),
  ).toBe(['NAME          N', 'a             1', 'bcd         100', 'x\\u001b[2J   20'].join('\n'))
  expect(table(undefined, [['head', '1']])).toBe('head  1')
  expect(table(['A', 'B'], [])).toBe('A  B')
  expect(printable('a\u009b\u202eb\u0000é')).toBe('a\\u009b\\u202eb\\u0000é')
})
