/** W9: what many channels cost a nats-server and a gateway over it: memory, starts, the first calls. */
import { join } from 'node:path'
import type { Measure, Unit } from './figures.ts'
import { fillChannels, headsCount } from './fill.ts'
import { type Gateways, overNats } from './gateways.ts'
import { grouped, type Lab } from './lab.ts'
import { NATS_DURABILITY, type Nats } from './nats.ts'
import { nameInTurn } from './requests.ts'
import { makeChannel, removeDir, startTidemark, type Target } from './target.ts'

const PREFIX = 'many'
const SYNC = 'default'
const MIB = 2 ** 20
/** Channels of a page of the listing: the most that there may be. */
const PAGE = 1_000

const FIGURES: Readonly<Record<string, Unit>> = {
  'restart of nats-server': 'ms',
  'start of a gateway': 'ms',
  'first append to a channel that is there': 'ms',
  'a first page of the listing': 'ms',
  'nats-server, restarted': 'MiB',
  'nats-server, all channels listed': 'MiB',
  'gateway, started': 'MiB',
  'gateway, all channels listed': 'MiB',
}

const nameOf = (figure: string, channels: number): string =>
  `${figure}, ${grouped(channels)} ${channels === 1 ? 'channel' : 'channels'}`

export async function* holding(lab: Lab, gateways: Gateways): AsyncGenerator<Measure> {
  const numbers = lab.scale.heldChannels
  const first = numbers[0]!
  if (!Object.keys(FIGURES).some((figure) => numbers.some((n) => lab.wants(nameOf(figure, n))))) return
  const dir = lab.newDir()
  const serve = (nats: Nats): Promise<Target> => startTidemark({ data: join(dir, 'log'), flags: overNats(nats, SYNC) })
  let nats = await gateways.start(dir, SYNC)
  let gateway = await serve(nats)
  let events = 0
  for (const channels of numbers) {
    events += await fillChannels(lab, gateway, PREFIX, channels, 1)
    await gateway.child.stop()
    await nats.child.stop()
    const [newNats, restart] = await timed(() => gateways.start(dir, SYNC))
    nats = newNats
    const restarted = residentMiB(nats)
    const [newGateway, start] = await timed(() => serve(newNats))
    gateway = newGateway
    const started = residentMiB(gateway)
    const [, append] = await timed(() => makeChannel(gateway.port, nameInTurn(PREFIX, 0)))
    const [, listing] = await timed(() => listed(gateway))
    events++
    const counts = await headsCount(gateway, PREFIX, channels, events)
    const figures: Record<keyof typeof FIGURES, number> = {
      'restart of nats-server': restart,
      'start of a gateway': start,
      'first append to a channel that is there': append,
      'a first page of the listing': listing,
      'nats-server, restarted': restarted,
      'nats-server, all channels listed': residentMiB(nats),
      'gateway, started': started,
      'gateway, all channels listed': residentMiB(gateway),
    }
    for (const [figure, unit] of Object.entries(FIGURES)) {
      const name = nameOf(figure, channels)
      if (!lab.wants(name)) continue
      const limits = channels === first ? [] : [nameOf(figure, first)]
      const row = { name, figure: figures[figure]!, unit, limits, counts }
      yield { ...row, subject: 'tidemark', durability: NATS_DURABILITY[SYNC] }
    }
  }
  await gateway.child.stop('SIGKILL')
  await nats.child.stop('SIGKILL')
  removeDir(dir)
}

async function timed<T>(work: () => Promise<T>): Promise<[T, number]> {
  const started = performance.now()
  const result = await work()
  return [result, performance.now() - started]
}

const residentMiB = ({ child }: Target): number => (child.usage()?.rss ?? Number.NaN) / MIB

async function listed({ port }: Target): Promise<void> {
  const response = await fetch(`http://127.0.0.1:${port}/v1/channels?limit=${PAGE}`)
  const text = await response.text()
  if (response.status !== 200) throw new Error(`GET channels: ${response.status} ${text}`)
}
