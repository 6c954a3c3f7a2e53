/** Logs for those who carry them: one of many kinds of channels, and all that a stopped log holds. */
import { join } from 'node:path'
import { expect } from 'vitest'
import { encodeBody } from '../../src/body.ts'
import { isSystemChannel, type NewEvent } from '../../src/event.ts'
import type { ChannelInfo, Cursor } from '../../src/log/log.ts'
import { openLog, verifyStopped } from '../../src/log/open.ts'
import { list, readAll } from '../log/reading.ts'
import { event, range, SEED, tempDir } from '../parts.ts'
import { randomFrom } from './disk.ts'

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)

/** Events of every kind; JSON as no program would write it. */
function randomEvent(random: (below: number) => number): NewEvent {
  const key = random(3) === 0 ? `k/${random(5)} "é"` : null
  const kinds: readonly Partial<NewEvent>[] = [
    { data: bytesOf(`{"a" :1.50, "a":[1E2,"\\u00e9\\/"]}`) },
    { data: bytesOf('null') },
    { data: bytesOf(`"${'é'.repeat(random(500))}"`), type: 'node.added', id: `id ${random(100)}` },
    { contentType: 'text/plain', data: bytesOf('line\nline\u0001') },
    { contentType: 'text/plain; charset=latin1', data: Uint8Array.of(0xe9, 0xff) },
    { contentType: 'application/octet-stream', data: Uint8Array.from(range(0, random(300)).map((i) => i & 255)) },
    { contentType: 'application/octet-stream', data: new Uint8Array() },
    { type: 'marker', data: null },
    { data: bytesOf('{"x":1}'), to: { users: ['anna', 'ü'], groups: ['/staff'] } },
    { key: 'gone', data: null },
  ]
  const kind = kinds[random(kinds.length)]!
  return event(undefined, { ...(kind.to || kind.key ? {} : { key }), ...kind })
}

/** A log of many channels: random, empty, trimmed, trimmed to empty, set; with cursors, some of histories that are over. */
export async function filled(seed = SEED): Promise<string> {
  console.log(`seed ${seed}`)
  const random = randomFrom(seed)
  const dir = join(tempDir(), 'log')
  const log = await openLog({ dir })
  for (const name of ['orders', 'orders/1', 'logs/a', 'files', 'old']) {
    for (const _ of range(1, 5 + random(20)))
      await log.append([{ channel: name, body: encodeBody(range(0, random(8)).map(() => randomEvent(random))) }])
    const { head, epoch } = await log.info(name)
    for (const client of ['web-1', 'anna~web', 'a:b']) await log.commit(client, name, { seq: random(head + 1), epoch })
    await log.commit('at-head', name, { seq: head, epoch })
  }
  await log.delete('old')
  await log.append([{ channel: 'old', body: encodeBody([randomEvent(random)]) }])
  await log.configure('empty', { note: 'nothing yet', retention: {} })
  await log.configure('orders', { note: 'ä', retention: { maxEvents: 1_000_000 } })
  await log.trim('files', random((await log.info('files')).head))
  await log.trim('logs/a', (await log.info('logs/a')).head)
  await log.append([{ channel: '_own', body: encodeBody([event(1)]) }])
  await log.close()
  return dir
}

export interface Held {
  readonly info: ChannelInfo
  readonly events: unknown
  readonly cursors: readonly Cursor[]
}

/** Everything that a stopped log tells, but for its epochs where they are not asked for. */
export async function heldBy(dir: string, withEpochs = false, system = false): Promise<Held[]> {
  const log = await openLog({ dir, create: false })
  const held: Held[] = []
  for (const info of await list(log.channels(''))) {
    if (isSystemChannel(info.channel) && !system) continue
    const events = await readAll(log, info.channel, { after: info.trimmed })
    const cursors = await list(log.cursors({ channel: info.channel }))
    // Of a channel's own epoch, or of one that is over.
    const told = (epoch: string) => (withEpochs ? epoch : epoch === info.epoch ? 'own' : 'other')
    held.push({
      info: { ...info, epoch: told(info.epoch) },
      events: events.map((event) => ({ ...event, data: event.data && Buffer.from(event.data).toString('hex') })),
      cursors: cursors.map((cursor) => ({ ...cursor, epoch: told(cursor.epoch) })),
    })
  }
  await log.close()
  expect(await verifyStopped(dir)).toMatchObject({ whole: true })
  return held
}

/** Every place in every channel is read on from as it was: no seq has moved. */
export async function expectEveryPlace(dir: string, original: string): Promise<void> {
  const [log, before] = [await openLog({ dir, create: false }), await openLog({ dir: original, create: false })]
  for (const { channel, trimmed, head } of await list(before.channels('')))
    if (!isSystemChannel(channel))
      for (const after of range(trimmed, head))
        expect((await readAll(log, channel, { after })).map(({ seq }) => seq)).toEqual(
          (await readAll(before, channel, { after })).map(({ seq }) => seq),
        )
  await log.close()
  await before.close()
}
