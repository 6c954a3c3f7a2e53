/**
 * Concurrent clients over HTTP, server-sent events and WebSocket, while the server is killed, started again and made to
 * stand still; then what they were told is checked (history.ts) against what is kept. The same over other grounds:
 * test/crash/cluster.test.ts.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { decodeBlock } from '../../src/block.ts'
import { connect } from '../../src/client/node.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { committer, follower, listener, pipeliner, producer, reader, type World } from './clients.ts'
import { type Dice, dice } from './dice.ts'
import { type Broken, check, type Final } from './history.ts'
import { Server } from './server.ts'
import { type FaultClass, NOTHING, retries, type Tally } from './tally.ts'
import { mustHold } from './verdict.ts'

const CHANNELS = ['a', 'b', 'e']
/** The first is a kill. */
const FAULTS = 2
/** A server that answers again is followed to the head within this, ms. */
const CATCH_UP_MS = 30_000

const LOST: readonly Broken[] = ['lost', 'cursor-behind']
const DUPLICATED: readonly Broken[] = ['duplicated', 'answered-twice']

/** What a history is played on. */
export interface Ground {
  /** Where the next call goes. */
  readonly url: string
  /** Where clients with a socket go. */
  readonly streamerUrl: string
  /** What befalls it while clients are there. */
  trouble(world: World, random: Dice): Promise<void>
}

export const histories: FaultClass = {
  name: 'histories',
  missing: () => undefined,
  async cycle(seed, dir) {
    const data = `${dir}/log`
    const server = new Server(data)
    try {
      await server.start()
      const { url } = server
      const world = await play(seed, {
        url,
        streamerUrl: url,
        trouble: (world, random) => befall(server, world, random),
      })
      await server.kill()
      return judge(seed, world, await finalOf(await openLog({ dir: data })))
    } finally {
      await server.kill()
    }
  },
}

async function befall(server: Server, world: World, random: Dice): Promise<void> {
  for (let fault = 0; fault < FAULTS && !world.over.aborted; fault++) {
    await answered(world, 50 + random(100))
    await delay(random(30))
    if (fault > 0 && random(3) > 0) await server.pause(50 + random(600))
    else {
      await server.kill()
      await server.start()
    }
  }
}

/** What concurrent clients asked and were told, until trouble was over and every follower at the head. */
export async function play(seed: number, ground: Ground): Promise<World> {
  const random = dice(seed)
  // While the first fetch of a process loads its parser, Node 20 does not see that a connection is closed, and what was
  // to go over it is never sent nor refused: a server that is killed then would leave its callers waiting for ever.
  await (await fetch(`${ground.url}/livez`)).text()
  const [over, end] = [new AbortController(), new AbortController()]
  const world: World = {
    ...{ seed, over: over.signal, end: end.signal },
    ...{ calls: [], heads: new Map(), followed: new Map(), appends: { answered: 0, retried: 0 } },
    get url() {
      return ground.url
    },
  }
  const subprotocol = random(2) === 0 ? 'json' : 'msgpack'
  const sockets = ['w1', 'w2'].map((client) => connect(ground.streamerUrl, { client, subprotocol }))
  const producing = [
    producer(world, { who: 'plain', channels: ['a'], keyed: 0 }),
    producer(world, { who: 'keyed', channels: ['a'], keyed: 1 }),
    producer(world, { who: 'mixed', channels: ['b'], keyed: 0.5 }),
    producer(world, { who: 'several', channels: CHANNELS, keyed: 0.5 }),
    ...['x1', 'x2', 'x3'].map((who) => producer(world, { who, channels: ['e'], keyed: 0.5, expects: true })),
    pipeliner(world, 'piped', 'b', sockets[0]!),
    reader(world, 'r1', 'a', false),
    reader(world, 'r2', 'e', true),
    committer(world, 'h1', 'a', 'h1, once'),
    committer(world, 'h1', 'a', 'h1, twice'),
  ]
  const following = [
    follower(world, 'w1', 'a', sockets[0]!),
    follower(world, 'w2', 'e', sockets[1]!),
    listener(world, 's1', 'b'),
    listener(world, 's2', 'e'),
  ]
  const all = Promise.all([...producing, ...following])
  // A client that fails ends the history; it is heard of below.
  all.catch(() => over.abort())
  try {
    await ground.trouble(world, random)
    await answered(world, 50 + random(100))
    over.abort()
    await Promise.race([Promise.all(producing), all])
    await Promise.race([caughtUp(world), all])
  } finally {
    over.abort()
    end.abort()
    await Promise.allSettled(sockets.map((socket) => socket.close()))
  }
  await all
  return world
}

/** So many appends more are answered. */
export async function answered({ over, appends }: World, more: number): Promise<void> {
  const enough = appends.answered + more
  while (appends.answered < enough && !over.aborted) await delay(2)
}

/** Every follower comes to the newest head that anybody was told of. */
async function caughtUp({ followed, heads }: World): Promise<void> {
  const late = performance.now() + CATCH_UP_MS
  for (const name of ['w1 a', 'w2 e', 's1 b', 's2 e'])
    while ((followed.get(name) ?? 0) < (heads.get(name.split(' ')[1]!) ?? 0)) {
      if (performance.now() > late) throw new Error(`${name} stands at ${followed.get(name)}, told: ${[...heads]}`)
      await delay(5)
    }
}

/** @param final what is kept in the end @throws Broken */
export function judge(seed: number, { calls, appends }: World, final: ReadonlyMap<string, Final>): Tally {
  const violations = check(calls, final)
  retries.answered += appends.retried
  const ids = new Set<string>()
  let acknowledged = 0
  for (const call of calls) {
    if (call.op !== 'append' || call.outcome !== 'answered' || ids.has(call.id)) continue
    ids.add(call.id)
    for (const { texts } of call.entries) acknowledged += texts.length
  }
  const [lost, duplicated] = [LOST, DUPLICATED].map(
    (kinds) => violations.filter((it) => kinds.includes(it.broken)).length,
  )
  const holes = violations.length - lost! - duplicated!
  const tally = { ...NOTHING, cycles: 1, acknowledged, lost: lost!, duplicated: duplicated!, holes }
  return mustHold(`history ${seed}`, tally, violations)
}

/** All that a log holds; closes it. */
export async function finalOf(log: Log): Promise<Map<string, Final>> {
  try {
    const final = new Map<string, Final>()
    for await (const { channel, epoch, head } of log.channels('')) {
      const events: string[] = []
      while (events.length < head) {
        const page = await log.read(channel, { epoch, after: events.length }, { events: 10_000, bytes: 1 << 20 })
        for (const block of page.blocks)
          for (const { data } of decodeBlock(block, events.length)) events.push(Buffer.from(data!).toString())
      }
      const cursors = new Map<string, number>()
      for await (const { client, seq } of log.cursors({ channel })) cursors.set(client, seq)
      final.set(channel, { epoch, events, cursors })
    }
    return final
  } finally {
    await log.close()
  }
}
