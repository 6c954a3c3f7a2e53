/** An app that is slower than the server: bounded memory, nothing missed, nobody else held up. */
import { expect, test } from 'vitest'
import { NodeSocket } from '../../src/client/node.ts'
import type { SocketClass } from '../../src/client/stream.ts'
import { HELD_EVENTS_MAX } from '../../src/client/subscription.ts'
import { range } from '../parts.ts'
import { clientOf, type Peer, Scripted, seqs } from './scripted.ts'

/** Sends frames without end while the channel is subscribed, from the asked place at each `subscribe`. */
async function flood(peer: Peer, channel: string, frameEvents: number): Promise<void> {
  while (!peer.isClosed) {
    const { after } = await peer.accept()
    let last = typeof after === 'number' ? after : 0
    let isLeft = false
    void peer.next('unsubscribe').then(() => {
      isLeft = true
    })
    while (!isLeft && !peer.isClosed) {
      peer.events(channel, last + 1, last + frameEvents)
      last += frameEvents
      await new Promise<void>((resolve) => peer.socket.send('{"op":"heartbeat"}', () => setImmediate(resolve)))
    }
  }
}

/** Events in one read of a socket, 64 KiB of frames, at most. */
const READ_EVENTS = 2_000

/** As in a browser, where nobody can stop reading. */
class PauselessSocket extends NodeSocket {
  override hold = undefined as unknown as () => void
}

for (const [name, WebSocket] of [
  ['in Node', NodeSocket],
  ['in a browser', PauselessSocket],
] as const)
  test(`an app that stops taking events ${name} costs a bounded number of them, and misses none`, async () => {
    const server = await Scripted.start()
    const tidemark = clientOf(server, { WebSocket: WebSocket as unknown as SocketClass })
    const loop = tidemark.channel('a').follow()
    const peer = await server.peer()
    const frameEvents = 500
    void flood(peer, 'a', frameEvents)
    expect(await seqs(loop, 1)).toEqual([1])
    // The app holds still until the client has left the channel; then it goes on, and so does the client.
    await peer.until(() => peer.received.some(({ op }) => op === 'unsubscribe'))
    expect(await seqs(loop, 3 * HELD_EVENTS_MAX)).toEqual(range(2, 3 * HELD_EVENTS_MAX + 1))
    const places = peer.received.filter(({ op }) => op === 'subscribe').map(({ after }) => after)
    expect(places.length).toBeGreaterThan(1)
    // It held its bound, and at most what was read from the socket by then.
    expect(places[1]).toBeLessThanOrEqual(HELD_EVENTS_MAX + frameEvents + READ_EVENTS)
  })

test('a loop body may append over a socket that its own backlog has stopped', async () => {
  const server = await Scripted.start()
  const tidemark = clientOf(server)
  const loop = tidemark.channel('a').follow()
  const peer = await server.peer()
  void flood(peer, 'a', 1_000)
  await loop.next()
  void (async () => {
    for (let seq = 1; ; seq++) {
      const { ref, channel } = await peer.next('append')
      peer.say({ op: 'appended', ref, channel, epoch: 'e1', first: seq, last: seq, head: seq, durability: 'fsync' })
    }
  })()
  // The loop has still only one event when the client stops reading and, for these answers, leaves the channel.
  for (const seq of range(1, 50)) expect((await tidemark.channel('b').append({ data: seq })).last).toBe(seq)
  await peer.until(() => peer.received.some(({ op }) => op === 'unsubscribe'))
  expect((await tidemark.channel('b').append({ data: 51 })).last).toBe(51)
})
