/**
 * Damage on disk: a bit flipped, bytes cut, zeroed or written over, a file gone, anywhere in any file of a store. What
 * is read afterwards is what was written, or the loss is told: at open with a code, or by `data-loss` with channel and
 * range. `verify` sees what readers see, and `salvage` makes a whole log of everything else.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeBlock } from '../../src/block.ts'
import { type Body, encodeBody } from '../../src/body.ts'
import { TidemarkError } from '../../src/errors.ts'
import { Mark } from '../../src/log/level/mark.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog, salvageStopped, verifyStopped } from '../../src/log/open.ts'
import { type Dice, dice as diceOf } from './dice.ts'
import { type FaultClass, NOTHING, type Tally } from './tally.ts'

const CHANNELS = ['a', 'b', 'c', 'd', 'e'] as const
/** Most events that one bit may cost: its own block's, or, where it hits a length, those of a run of LevelDB's 16 rows. */
const FLIP_EVENTS = 16 * 4
const LIMITS = { events: 1_000, bytes: 64 * 1024 }

/** A store as it was written: its files, and what a reader must get. */
interface Original {
  readonly files: ReadonlyMap<string, Uint8Array>
  readonly life: string
  readonly commit: number
  readonly channels: ReadonlyMap<string, { readonly trimmed: number; readonly events: readonly string[] }>
  readonly cursors: ReadonlyMap<string, number>
  readonly key: { readonly channel: string; readonly body: Body; readonly first: number }
  readonly events: number
}

const bodyOf = (...texts: string[]): Body =>
  encodeBody(
    texts.map((text) => ({
      ...{ type: null, key: null, id: null, to: null, contentType: 'text/plain', data: Buffer.from(text) },
    })),
  )

async function makeOriginal(seed: number): Promise<Original> {
  const dice = diceOf(seed)
  const dir = mkdtempSync(join(tmpdir(), 'tidemark-flips-'))
  const channels = new Map<string, { trimmed: number; events: string[] }>(
    CHANNELS.map((name) => [name, { trimmed: 0, events: [] }]),
  )
  const cursors = new Map<string, number>()
  let key: Original['key'] | undefined
  try {
    for (let session = 0; session < 3; session++) {
      const log = await openLog({ dir, writeBufferBytes: 64 * 1024, minFreeBytes: 0 })
      for (let i = 0; i < 50; i++) {
        const name = CHANNELS[dice(CHANNELS.length)]!
        const { events } = channels.get(name)!
        const texts = Array.from({ length: 1 + dice(4) }, () => textOf(name, dice))
        const body = bodyOf(...texts)
        if (session === 1 && i === 30) key = { channel: name, body, first: events.length + 1 }
        const options = key?.body === body ? { idempotencyKey: 'once' } : {}
        await log.append([{ channel: name, body }], options)
        events.push(...texts)
        if (i % 10 === 0) {
          await log.commit(`client-${i}`, name, { seq: events.length })
          cursors.set(`client-${i}/${name}`, events.length)
        }
      }
      await log.append([{ channel: 'gone', body: bodyOf('x'.repeat(500)) }])
      await log.delete('gone')
      for (const name of ['b', 'd']) {
        const channel = channels.get(name)!
        channel.trimmed = Math.floor(channel.events.length / 3)
        await log.trim(name, channel.trimmed)
      }
      await log.close()
    }
    const files = new Map<string, Uint8Array>()
    for (const name of readdirSync(dir, { recursive: true }) as string[])
      if (statSync(join(dir, name)).isFile()) files.set(name, readFileSync(join(dir, name)))
    const { life, commit } = Mark.peek(join(dir, 'high-water'))!
    const events = [...channels.values()].reduce((sum, { events, trimmed }) => sum + events.length - trimmed, 0)
    return { files, life, commit, channels, cursors, key: key!, events }
  } finally {
    rmSync(dir, { recursive: true })
  }
}

const textOf = (name: string, dice: Dice): string =>
  `${name} ${dice(1e9)} ${String.fromCharCode(97 + dice(26)).repeat(50 + dice(1_500))}`

/** The store on disk again. Its mark remembers its own inode, so that it is no copy. */
function restore({ files, life, commit }: Original, dir: string): void {
  mkdirSync(join(dir, 'store'), { recursive: true })
  for (const [name, bytes] of files) if (name !== 'high-water') writeFileSync(join(dir, name), bytes)
  // As after LevelDB ended two processes over what it met: the next one looks closely before it opens.
  writeFileSync(
    join(dir, 'holder.json'),
    `${JSON.stringify({ pid: 1, since: '2026-11-22T00:00:00.000Z', badEnds: 1 })}\n`,
  )
  const mark = Mark.create(join(dir, 'high-water'), () => {})
  for (const each of [commit - 1, commit]) mark.write(life, each)
  mark.close()
}

interface Damage {
  readonly file: string
  readonly what: string
}

function damage(dir: string, dice: Dice, kind: Kind): Damage {
  const files = (readdirSync(dir, { recursive: true }) as string[])
    .filter((name) => statSync(join(dir, name)).isFile() && statSync(join(dir, name)).size > 0)
    .sort()
  // By size, so that most damage hits what is large; and now and then each of them.
  const sizes = files.map((name) => statSync(join(dir, name)).size)
  let left = dice(sizes.reduce((sum, size) => sum + size, 0))
  let bySize = files[0]!
  for (const [i, size] of sizes.entries()) {
    bySize = files[i]!
    if (left < size) break
    left -= size
  }
  const file = dice(3) > 0 ? bySize : files[dice(files.length)]!
  const path = join(dir, file)
  const bytes = readFileSync(path)
  const from = dice(bytes.length)
  const length = 1 + dice(Math.min(3_000, bytes.length - from))
  if (kind === 'gone') rmSync(path)
  else if (kind === 'cut') writeFileSync(path, bytes.subarray(0, from))
  else {
    if (kind === 'flip') bytes[from]! ^= 1 << dice(8)
    if (kind === 'zero') bytes.fill(0, from, from + length)
    if (kind === 'garbage') for (let i = from; i < from + length; i++) bytes[i] = dice(256)
    writeFileSync(path, bytes)
  }
  return { file, what: `${kind} of ${file} at ${from} of ${bytes.length}${kind === 'flip' ? '' : ` (${length})`}` }
}

/** What readers were told is gone: by channel, (after, upTo]. */
type Told = Map<string, [after: number, upTo: number][]>

class Broken extends Error {}
const broken = (why: string): never => {
  throw new Broken(why)
}

/** Reads all there is. Wrong bytes, holes that are not told, and things that vanished throw. */
async function readAll(log: Log, original: Original, isSameLife: boolean): Promise<Told> {
  const told: Told = new Map()
  const names: string[] = []
  for await (const { channel } of listed(log)) names.push(channel)
  // Where the record of a deletion can not be read, salvage keeps the channel: it tells of the record.
  for (const name of names)
    if (!original.channels.has(name) && (isSameLife || name !== 'gone'))
      broken(`channel ${name} is there and should not be`)
  for (const [name, { trimmed, events }] of original.channels) {
    const losses: [number, number][] = []
    const info = await coded(log.info(name))
    if (info instanceof TidemarkError) {
      // A new log may lack a channel whose every row was in the file that is gone; salvage has told it then.
      const isGone = info.code === 'no-channel' && !isSameLife
      if (isGone) told.set(name, [[trimmed, events.length]])
      if (isGone) continue
      if (info.code !== 'data-loss') broken(`info of ${name}: ${info.code}`)
      told.set(name, [[0, events.length]])
      continue
    }
    if (isSameLife && (info.head !== events.length || info.trimmed !== trimmed))
      broken(`${name} is ${info.trimmed}–${info.head}, not ${trimmed}–${events.length}`)
    for (let after = info.trimmed; after < info.head; ) {
      const page = await coded(log.read(name, { after }, LIMITS))
      if (page instanceof TidemarkError) {
        const { upTo } = page.details as { upTo?: number }
        if (page.code !== 'data-loss' || upTo === undefined || upTo <= after || upTo > info.head)
          return broken(`read of ${name} after ${after}: ${page.code} ${page.message}`)
        losses.push([after, upTo])
        after = upTo
        continue
      }
      for (const block of page.blocks)
        for (const event of decodeBlock(block, after, page.last)) {
          if (event.seq !== after + 1) broken(`${name}: ${event.seq} follows ${after}`)
          if (Buffer.from(event.data!).toString() !== events[event.seq - 1])
            broken(`${name}: wrong bytes at ${event.seq}`)
          after = event.seq
        }
      if (after !== page.last) broken(`${name}: a page ends at ${page.last}, its events at ${after}`)
    }
    // What a new life does not have, it tells nobody about: the caller compares with what salvage told.
    if (info.head < events.length) losses.push([info.head, events.length])
    if (info.trimmed > trimmed) losses.push([trimmed, info.trimmed])
    if (losses.length > 0) told.set(name, losses)
  }
  return told
}

async function* listed(log: Log): AsyncIterable<{ channel: string }> {
  try {
    yield* log.channels('')
  } catch (error) {
    if (!(error instanceof TidemarkError && error.code === 'data-loss')) throw error
  }
}

const coded = <T>(promise: Promise<T>): Promise<T | TidemarkError> =>
  promise.catch((error: unknown) => (error instanceof TidemarkError ? error : broken(`not ours: ${String(error)}`)))

/** Cursors and receipts that vanished without a word. */
async function readRows(log: Log, { cursors, key }: Original): Promise<void> {
  for (const [id, seq] of cursors) {
    const [client, channel] = id.split('/') as [string, string]
    const cursor = await coded(log.cursor(client, channel))
    if (cursor instanceof TidemarkError ? cursor.code !== 'data-loss' : cursor?.seq !== seq)
      broken(`cursor ${id}: ${JSON.stringify(cursor)}, not ${seq}`)
  }
  const again = await coded(log.append([{ channel: key.channel, body: key.body }], { idempotencyKey: 'once' }))
  if (again instanceof TidemarkError) {
    if (again.code !== 'data-loss' && again.code !== 'unavailable') broken(`a retry: ${again.code}`)
  } else if (again[0]?.duplicate !== true || again[0].first !== key.first) broken('a retry was appended again')
}

/** Files that nothing of the log depends on. */
const isIdle = (file: string): boolean => /^(?:store\/(?:LOG(?:\.old)?|LOCK)|holder\.json)$/.test(file)

async function examine(dir: string, original: Original, { file, what }: Damage): Promise<Tally> {
  const state = { refused: false, told: false, falseAlarms: 0 }
  try {
    const report = await verifyStopped(dir)
    const saved = `${dir}-saved`
    const salvaged = await salvageStopped(dir, saved)
    try {
      const log = await openLog({ dir: saved, minFreeBytes: 0 })
      try {
        const missing = await readAll(log, original, false)
        for (const [name, ranges] of missing)
          for (const [after, upTo] of ranges) {
            const isTold =
              salvaged.lost.some((loss) => loss.channel === name && loss.after <= after && upTo <= loss.upTo) ||
              (!salvaged.whole &&
                salvaged.findings.some(({ part, channel }) => part === 'mark' || channel === name || part === 'file'))
            if (!isTold) broken(`salvage lost ${after + 1}–${upTo} of ${name} without a word`)
            const { trimmed } = original.channels.get(name)!
            if (
              what.startsWith('flip') &&
              upTo - Math.max(after, trimmed) > FLIP_EVENTS &&
              !/MANIFEST|CURRENT/.test(file)
            )
              broken(`salvage lost ${after + 1}–${upTo} of ${name} for one bit`)
          }
      } finally {
        await log.close()
      }
      const after = await verifyStopped(saved)
      if (!after.whole) broken(`what was salvaged is not whole: ${JSON.stringify(after.findings[0])}`)
    } finally {
      rmSync(saved, { recursive: true, force: true })
    }

    const log = await openLog({ dir, minFreeBytes: 0 }).catch((error: unknown) => {
      if (!(error instanceof TidemarkError)) return broken(`open: not ours: ${String(error)}`)
      if (!['data-loss', 'wrong-config'].includes(error.code)) broken(`open: ${error.code}`)
      return undefined
    })
    if (!log) {
      state.refused = true
      if (report.whole) broken('open refuses what verify calls whole')
    } else
      try {
        const told = await readAll(log, original, true)
        state.told = told.size > 0
        if (told.size > 0 && report.whole) broken('readers are told a loss that verify does not see')
        if (told.size > 2 && what.startsWith('flip')) broken(`one bit costs ${told.size} channels`)
        await readRows(log, original)
      } finally {
        await log.close()
      }
    if (isIdle(file) && (state.refused || state.told || !report.whole)) state.falseAlarms = 1
    return { ...NOTHING, cycles: 1, acknowledged: original.events, falseAlarms: state.falseAlarms }
  } catch (error) {
    throw new Error(`${what}: ${error instanceof Broken ? error.message : (error as Error).stack}`, { cause: error })
  }
}

const KINDS = ['flip', 'cut', 'zero', 'garbage', 'gone'] as const
type Kind = (typeof KINDS)[number]

const originals = new Map<number, Promise<Original>>()
/** Stores are made once each, and damaged many times. */
const ORIGINALS = 4

function original(seed: number): Promise<Original> {
  const which = seed % ORIGINALS
  const made = originals.get(which) ?? makeOriginal(which + 1)
  originals.set(which, made)
  return made
}

const damages = (name: string, pick: (dice: Dice) => Kind): FaultClass => ({
  name,
  missing: () => undefined,
  async cycle(seed, dir) {
    const dice = diceOf(seed)
    const whole = await original(seed)
    const log = join(dir, 'log')
    restore(whole, log)
    return examine(log, whole, damage(log, dice, pick(dice)))
  },
})

/** One bit, anywhere. */
export const flips = damages('bit flips', () => 'flip')
/** Files that are cut, zeroed or written over in part, or gone. */
export const holes = damages('cut, zeroed, overwritten, missing files', (dice) => KINDS[1 + dice(4)]!)
