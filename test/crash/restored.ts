/**
 * A directory that is not what it was: put back from a copy, emptied, taken for another, with another file system over
 * it. It is refused by a code, and opened only when that is accepted, under new epochs; or, where nothing on the disk
 * can tell (all of it put back, all of it gone, all of it another's), readers with a place in the old history hear `reset`.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { decodeBlock } from '../../src/block.ts'
import { encodeBody } from '../../src/body.ts'
import { type ErrorCode, hasCode, toTidemarkError } from '../../src/errors.ts'
import { Follower, infoOrNone } from '../../src/log/follow.ts'
import type { Log } from '../../src/log/log.ts'
import { type LogOptions, openLog } from '../../src/log/open.ts'
import { dice } from './dice.ts'
import { type FaultClass, NOTHING } from './tally.ts'
import { unmount } from './volume.ts'

const CHANNEL = 'c'
const LIMITS = { events: 10_000, bytes: 1 << 20 }

/** `log`: where the log was left, `old`: a copy from before its newest events, `other`: another log. */
interface Scene {
  readonly log: string
  readonly old: string
  readonly other: string
}

interface Harm {
  readonly name: string
  harm(scene: Scene): void
  /** The code that it is refused with; absent where nothing on the disk can tell. */
  readonly refused?: ErrorCode
  readonly accept?: { acceptCopy: true } | { acceptDataLoss: true }
  /** What is left: everything, what the old copy held, or nothing. */
  readonly left: 'all' | 'old' | 'none'
  /** There is no log any more: refused to whoever expects one. */
  readonly isEmpty?: true
  /** The history goes on under its epoch: only places beyond the head are told. */
  readonly sameEpoch?: true
}

export const copy = (from: string, to: string): void => void execFileSync('cp', ['-a', from, to])

/** Every file of `from` written into the file of that name, which stays the same file; what is not in `from` goes. */
export function writeBack(from: string, to: string): void {
  const names = new Set(readdirSync(from))
  for (const name of readdirSync(to)) if (!names.has(name)) rmSync(join(to, name), { recursive: true })
  for (const name of names) {
    const [source, target] = [join(from, name), join(to, name)]
    if (!statSync(source).isDirectory()) writeFileSync(target, readFileSync(source))
    else {
      mkdirSync(target, { recursive: true })
      writeBack(source, target)
    }
  }
}

const HARMS: readonly Harm[] = [
  {
    name: 'an old copy in its place',
    harm: ({ log, old }) => {
      rmSync(log, { recursive: true })
      copy(old, log)
    },
    ...{ refused: 'wrong-config', accept: { acceptCopy: true }, left: 'old' },
  },
  {
    name: 'an old copy moved to its place',
    harm: ({ log, old }) => {
      rmSync(log, { recursive: true })
      renameSync(old, log)
    },
    ...{ refused: 'wrong-config', accept: { acceptCopy: true }, left: 'old' },
  },
  {
    // As a snapshot of the whole disk that is put back: every file is the one that it was, with the bytes of then.
    name: 'an old copy written back into its files',
    harm: ({ log, old }) => writeBack(old, log),
    ...{ left: 'old', sameEpoch: true },
  },
  {
    name: 'an old store written back beside the mark',
    harm: ({ log, old }) => writeBack(join(old, 'store'), join(log, 'store')),
    ...{ refused: 'data-loss', accept: { acceptDataLoss: true }, left: 'old' },
  },
  {
    // The mark is behind, as it may be after a power cut: nothing is missing.
    name: 'an old mark written back beside the store',
    harm: ({ log, old }) =>
      writeFileSync(join(log, 'high-water'), readFileSync(join(old, 'high-water')), { flag: 'r+' }),
    ...{ left: 'all', sameEpoch: true },
  },
  {
    name: 'the store is gone, the mark is left',
    harm: ({ log }) => rmSync(join(log, 'store'), { recursive: true }),
    ...{ refused: 'data-loss', accept: { acceptDataLoss: true }, left: 'none' },
  },
  {
    name: 'the mark is gone, the store is left',
    harm: ({ log }) => rmSync(join(log, 'high-water')),
    ...{ refused: 'data-loss', accept: { acceptDataLoss: true }, left: 'all' },
  },
  {
    name: "another log's store beside the mark",
    harm: ({ log, other }) => {
      rmSync(join(log, 'store'), { recursive: true })
      renameSync(join(other, 'store'), join(log, 'store'))
    },
    ...{ refused: 'data-loss', accept: { acceptDataLoss: true }, left: 'none' },
  },
  {
    name: "another log's mark beside the store",
    harm: ({ log, other }) => renameSync(join(other, 'high-water'), join(log, 'high-water')),
    ...{ refused: 'data-loss', accept: { acceptDataLoss: true }, left: 'all' },
  },
  {
    name: 'an emptied directory',
    harm: ({ log }) => {
      for (const name of readdirSync(log)) rmSync(join(log, name), { recursive: true })
    },
    ...{ left: 'none', isEmpty: true },
  },
  {
    name: 'another log in its place',
    harm: ({ log, other }) => {
      rmSync(log, { recursive: true })
      renameSync(other, log)
    },
    ...{ left: 'none' },
  },
]

const mount = (...args: readonly string[]): void => void execFileSync('mount', args)

/** What lies over the directory goes again, and the log is found as it was. */
const COVERS: readonly (Omit<Harm, 'left' | 'harm' | 'accept'> & { cover(scene: Scene): string })[] = [
  {
    name: 'an empty file system over the store',
    cover: ({ log }) => {
      mount('-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', join(log, 'store'))
      return join(log, 'store')
    },
    refused: 'data-loss',
  },
  {
    name: 'an empty file system over the directory',
    cover: ({ log }) => {
      mount('-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', log)
      return log
    },
    isEmpty: true,
  },
  {
    name: 'another log mounted over the directory',
    cover: ({ log, other }) => {
      mount('--bind', other, log)
      return log
    },
  },
]

export const restored: FaultClass = {
  name: 'restored copies',
  missing: () => undefined,
  async cycle(seed, dir) {
    const harm = HARMS[seed % HARMS.length]!
    const { scene, acknowledged, then, now } = await stage(seed, dir)
    harm.harm(scene)
    await refuses(scene.log, harm)
    const log = await openLog({ dir: scene.log, ...harm.accept })
    const held = { all: now.head, old: then.head, none: 0 }[harm.left]
    try {
      await holds(log, harm, held)
      await tellsReaders(log, now, harm.sameEpoch === true, held)
    } finally {
      await log.close()
    }
    // What was accepted once is not asked for again.
    await (await openLog({ dir: scene.log })).close()
    return { ...NOTHING, cycles: 1, acknowledged }
  },
}

export const mounted: FaultClass = {
  name: 'swapped mounts',
  missing() {
    if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'root on Linux, to mount'
    try {
      execFileSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], { stdio: 'ignore' })
      return undefined
    } catch {
      return 'the right to mount'
    }
  },
  async cycle(seed, dir) {
    const harm = COVERS[seed % COVERS.length]!
    const { scene, acknowledged, now } = await stage(seed, dir)
    const place = harm.cover(scene)
    try {
      await refuses(scene.log, harm)
      if (!harm.refused) {
        const log = await openLog({ dir: scene.log })
        try {
          await tellsReaders(log, now, false, 0)
        } finally {
          await log.close()
        }
      }
    } finally {
      await unmount(place)
    }
    const log = await openLog({ dir: scene.log })
    try {
      await holds(log, harm, now.head)
      await tellsReaders(log, now, true, now.head)
    } finally {
      await log.close()
    }
    return { ...NOTHING, cycles: 1, acknowledged }
  },
}

const bodyOf = (first: number, count: number) =>
  encodeBody(
    Array.from({ length: count }, (_, i) => ({
      ...{ type: null, key: null, id: null, contentType: null, to: null },
      data: Buffer.from(`${first + i}`),
    })),
  )

/** A log that went on after it was copied, and another one. Event seq holds the number seq. */
async function stage(seed: number, dir: string) {
  const random = dice(seed)
  const scene: Scene = { log: join(dir, 'log'), old: join(dir, 'old'), other: join(dir, 'other') }
  let head = 0
  const goOn = async (path: string): Promise<{ epoch: string; head: number }> => {
    const log = await openLog({ dir: path, writeBufferBytes: 64 * 1024 })
    let epoch = ''
    for (let appends = 1 + random(60); appends > 0; appends--) {
      const answers = await log.append([{ channel: CHANNEL, body: bodyOf(head + 1, 1 + random(200)) }])
      ;({ epoch, head } = answers[0]!)
    }
    await log.commit('web', CHANNEL, { seq: head })
    await log.close()
    return { epoch, head }
  }
  const then = await goOn(scene.log)
  copy(scene.log, scene.old)
  const now = await goOn(scene.log)
  head = 0
  const other = await openLog({ dir: scene.other })
  await other.append([{ channel: 'other', body: bodyOf(1, 10) }])
  await other.close()
  return { scene, then, now, acknowledged: now.head + 10 }
}

/** Refused with its code, also when something else is accepted; or not refused. */
async function refuses(dir: string, { name, refused, accept, isEmpty }: Omit<Harm, 'left' | 'harm'>): Promise<void> {
  // Nothing is left to tell what was there, but whoever says that there is a log is told that there is none.
  if (isEmpty) await isRefused(dir, name, 'data-loss', [{ create: false }])
  if (!refused) return
  const others = [{}, { acceptCopy: true }, { acceptDataLoss: true }].filter(
    (it) => JSON.stringify(it) !== JSON.stringify(accept),
  )
  await isRefused(dir, name, refused, accept ? others : [{}])
}

async function isRefused(
  dir: string,
  name: string,
  refused: string,
  ways: readonly Omit<LogOptions, 'dir'>[],
): Promise<void> {
  for (const options of ways) {
    const code = await openLog({ dir, ...options }).then(
      async (log) => {
        await log.close()
        return 'nothing'
      },
      (error) => toTidemarkError(error).code,
    )
    if (code !== refused) throw new Error(`${name}: ${code} with ${JSON.stringify(options)}, not ${refused}`)
  }
}

/** The events 1 … head, and nothing else. */
async function holds(log: Log, { name }: Pick<Harm, 'name'>, head: number): Promise<void> {
  const info = await infoOrNone(log, CHANNEL)
  if ((info?.head ?? 0) !== head) throw new Error(`${name}: the head is ${info?.head}, not ${head}`)
  for (let after = 0; after < head; ) {
    const page = await log.read(CHANNEL, { after }, LIMITS)
    for (const block of page.blocks)
      for (const { seq, data } of decodeBlock(block, after)) {
        if (seq !== after + 1 || Buffer.from(data!).toString() !== `${seq}`)
          throw new Error(`${name}: ${seq} behind ${after} holds ${Buffer.from(data!)}`)
        after = seq
      }
  }
}

/** Who has a place in what is no more hears `reset`; who has one in what is left goes on from there. */
async function tellsReaders(
  log: Log,
  now: { epoch: string; head: number },
  same: boolean,
  held: number,
): Promise<void> {
  for (const after of [0, 1, Math.max(held, 1), held + 1, now.head].filter((seq) => seq <= now.head)) {
    const { follower } = await Follower.open(log, CHANNEL, { after: { at: 'seq', seq: after }, epoch: now.epoch })
    const item = await follower.next(LIMITS)
    const reset = !same || after > held
    if ((item?.is === 'reset') !== reset) throw new Error(`A reader at ${after}, head ${held}, is told ${item?.is}`)
    if (held === 0) continue
    const code = await log.commit('app', CHANNEL, { seq: after, epoch: now.epoch }).then(
      () => undefined,
      (error) => toTidemarkError(error).code,
    )
    if ((code === undefined) === reset) throw new Error(`A commit of ${after}, head ${held}, is told ${code}`)
  }
  // Reading on from a place that is gone never waits, and never finds later events under its seq.
  const refusal = await log.read(CHANNEL, { epoch: now.epoch, after: now.head }, LIMITS).then(
    () => undefined,
    (error) => error as unknown,
  )
  const isGone = ['epoch-changed', 'ahead-of-head', 'no-channel'].some((code) => hasCode(refusal, code as ErrorCode))
  if (isGone !== (!same || now.head > held)) throw new Error(`A read at ${now.head}, head ${held}: ${refusal}`)
}

/** As many kinds of harm as there are, so that a row of seeds meets each. */
export const KINDS = { restored: HARMS.length, mounted: COVERS.length }
