/**
 * W6: from starting the program to its first answer, after a clean end and after kill -9: with many events stored, with
 * ten times as many, and with the same number in many channels.
 */
import { join } from 'node:path'
import { HOME } from '../../src/server/home.ts'
import { Child } from './child.ts'
import type { Count, Measure } from './figures.ts'
import { fill, fillBy, fillChannels, fillQuickly, headCount, headsCount } from './fill.ts'
import { grouped, type Lab } from './lab.ts'
import type { Peer } from './peer.ts'
import { makeChannel, removeDir, startTidemark, type Target } from './target.ts'

const CHANNEL = 'bench'
/** Of the many channels. */
const PREFIX = 'many'
const BOOT = 'node -e 0'
const IMPORTS = 'node + node:http, level, ws'
const ENDS = [
  ['after kill -9', 'SIGKILL'],
  ['after a clean end', 'SIGTERM'],
] as const

interface Shape {
  /** Behind the names of its rows. */
  readonly suffix: string
  /** Stores what is there before the first end. */
  fill(lab: Lab, target: Target): Promise<void>
  counts(target: Target): Promise<readonly Count[]>
}

function shapes({ stored, storedMany, storedChannels }: Lab['scale']): readonly Shape[] {
  const inOne = (suffix: string, events: number): Shape => ({
    suffix,
    fill: async (lab, target) => {
      await fillQuickly(lab, target, 'stored', events)
    },
    counts: async (target) => [await headCount(target, 'stored', events, 'stored events after the restart')],
  })
  const inMany: Shape = {
    suffix: `, in ${grouped(storedChannels)} channels`,
    fill: async (lab, target) => {
      await fillChannels(lab, target, PREFIX, storedChannels, stored / storedChannels)
    },
    counts: (target) => headsCount(target, PREFIX, storedChannels, stored),
  }
  const many = storedMany === undefined ? [] : [inOne(`, ${grouped(storedMany)} events`, storedMany)]
  return [inOne('', stored), ...many, inMany]
}

export const title = (lab: Lab): string =>
  `W6  restart to the first answer, ${grouped(lab.scale.stored)} stored events in one channel, if not named otherwise`

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  for (const shape of shapes(lab.scale)) yield* restarts(lab, shape)
  for (const peer of lab.peersIn('W6')) yield* peerRestarts(lab, peer)
  yield await lifetime(BOOT, ['-e', '0'])
  yield await lifetime(IMPORTS, ['--input-type=module', '-e', "import 'node:http'; import 'level'; import 'ws'"])
}

async function* restarts(lab: Lab, shape: Shape): AsyncGenerator<Measure> {
  const wanted = ENDS.filter(([name]) => lab.wants(name + shape.suffix))
  if (wanted.length === 0) return
  const dir = lab.newDir()
  const data = join(dir, 'log')
  let target = await startTidemark({ data })
  const durability = await makeChannel(target.port, CHANNEL)
  await shape.fill(lab, target)
  let appended = 1
  for (const [name, signal] of wanted) {
    // Something newly appended stands in LevelDB's log each time, so that there is something to recover.
    appended += (await fill(lab, target, CHANNEL, lab.scale.batch * lab.scale.producers)).events
    await target.child.stop(signal)
    const started = performance.now()
    target = await startTidemark({ data })
    const ms = performance.now() - started
    const base = shape.suffix === '' ? [] : [name]
    yield {
      name: name + shape.suffix,
      subject: 'tidemark',
      figure: ms,
      unit: 'ms',
      durability,
      limits: [BOOT, IMPORTS, ...base],
      work: name + shape.suffix,
      counts: [
        await headCount(target, CHANNEL, appended, 'newly appended events after the restart'),
        ...(await shape.counts(target)),
      ],
    }
  }
  await target.child.stop('SIGKILL')
  removeDir(dir)
}

/** The same of a peer that keeps its events. */
async function* peerRestarts(lab: Lab, peer: Peer): AsyncGenerator<Measure> {
  const wanted = ENDS.filter(([work]) => lab.wants(`${peer.name}, ${work}`))
  if (wanted.length === 0) return
  yield* lab.ofPeer(peer, async function* (server) {
    const sending = peer.sending(lab.scale.batch)!
    let stored = (await fillBy(lab, server, sending, lab.scale.stored)).events
    let target: Target = server
    for (const [work, signal] of wanted) {
      stored += (await fillBy(lab, target, sending, lab.scale.batch * lab.scale.producers)).events
      await target.child.stop(signal)
      const started = performance.now()
      target = await peer.start(server.data)
      const figure = performance.now() - started
      const got = await peer.stored?.(target.port)
      const counts = got === undefined ? [] : [{ what: 'events in the log after the restart', wanted: stored, got }]
      const row = { name: `${peer.name}, ${work}`, subject: 'peer', work, durability: peer.durability } as const
      yield { ...row, figure, unit: 'ms', counts }
    }
    await target.child.stop('SIGKILL')
  })
}

/** From the start of a node process to its end. */
async function lifetime(name: string, args: readonly string[]): Promise<Measure> {
  const started = performance.now()
  const child = Child.start(name, [process.execPath, ...args], process.env, HOME)
  await child.ended()
  return { name, subject: 'limit', figure: performance.now() - started, unit: 'ms', durability: '-' }
}
