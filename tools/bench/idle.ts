/** W5: what a socket costs that follows a channel in which nothing happens. */

import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Measure } from './figures.ts'
import { grouped, type Lab, type Server } from './lab.ts'
import type { Receiving } from './peer.ts'
import { subscription } from './requests.ts'
import { channelState, makeChannel, removeDir, startBare, startTidemark, type Target } from './target.ts'

const CHANNEL = 'bench'
/** Sockets that come and go before the first look, so that code which is loaded with the first is not counted. */
const FIRST_SOCKETS = 50
const REST_MS = 1_000
/** Allows a server to collect garbage when it is told to. */
const NODE = ['--expose-gc', '--import', fileURLToPath(new URL('./collect.js', import.meta.url))]

export const title = (): string => 'W5  resident memory per idle subscriber, after collecting garbage'

export async function* run(lab: Lab): AsyncGenerator<Measure> {
  const most = Math.max(...lab.scale.idle)
  for (const sockets of lab.scale.idle) {
    const [name, bareName] = [`WebSocket JSON, ${grouped(sockets)} sockets`, `bare ws, ${grouped(sockets)} sockets`]
    if (lab.wants(name)) {
      const dir = lab.newDir()
      const target = await startTidemark({ data: join(dir, 'log'), node: NODE })
      await makeChannel(target.port, CHANNEL)
      // Its router is loaded behind the start, or by the first call that needs it: here, and not amid the sockets.
      await channelState(target.port, CHANNEL)
      const work = `${grouped(sockets)} sockets`
      yield { ...(await measure(lab, target, sockets)), name, subject: 'tidemark', limits: [bareName], work }
      await target.child.stop('SIGKILL')
      removeDir(dir)
    }
    if (lab.wants(bareName)) {
      const dir = lab.newDir()
      const target = await startBare('ws', dir, NODE)
      yield { ...(await measure(lab, target, sockets)), name: bareName, subject: 'limit' }
      await target.child.stop('SIGKILL')
      removeDir(dir)
    }
    if (sockets === most) yield* peerRows(lab, sockets)
  }
}

async function* peerRows(lab: Lab, sockets: number): AsyncGenerator<Measure> {
  const work = `${grouped(sockets)} sockets`
  for (const peer of lab.peersIn('W5')) {
    const name = `${peer.name}, ${work}`
    if (!lab.wants(name)) continue
    const isNode = peer.isNode === true
    const measured = async function* (server: Server): AsyncGenerator<Measure> {
      const figures = await measure(lab, server, sockets, peer.receiving(server), isNode)
      yield { ...figures, name, subject: 'peer', work }
    }
    yield* lab.ofPeer(peer, measured, isNode ? NODE : [])
  }
}

/** A subscriber of Tidemark, or of a server that looks like it. */
const subscriber = (port: number): Receiving => ({
  mode: 'ws',
  opening: subscription(port, 'json', CHANNEL, 'head'),
  ready: 'caughtup',
})

async function measure(
  lab: Lab,
  target: Target,
  sockets: number,
  receiving = subscriber(target.port),
  collects = true,
): Promise<Pick<Measure, 'figure' | 'unit' | 'durability' | 'facts'>> {
  const open = (connections: number) => lab.drive.drain({ port: target.port, connections, ...receiving })
  await (await open(Math.min(FIRST_SOCKETS, sockets))).stop()
  const before = await residentBytes(target, collects)
  const drain = await open(sockets)
  const after = await residentBytes(target, collects)
  await drain.stop()
  return {
    figure: (after - before) / sockets,
    unit: 'B/socket',
    durability: '-',
    facts: { residentBefore: before, residentAfter: after },
  }
}

/** What can't be told to collect garbage is given a moment to come to rest. */
async function residentBytes(target: Target, collects: boolean): Promise<number> {
  if (collects) {
    target.child.signal('SIGWINCH')
    await target.child.json('collected')
  } else await new Promise((resolve) => setTimeout(resolve, REST_MS))
  return target.child.usage()?.rss ?? Number.NaN
}
