import { pino } from 'pino'
import { expect, onTestFinished, test, vi } from 'vitest'
import { decodeBlock } from '../../src/block.ts'
import { LogSwitch, STREAMER_CHANNEL } from '../../src/doors/switch.ts'
import type { Log } from '../../src/log/log.ts'
import { openLog } from '../../src/log/open.ts'
import { body, tempDir, tempLog } from '../parts.ts'
import { loggerTo } from './calls.ts'
import { logWith } from './serve.ts'

async function open(log: Log, logger = pino({ enabled: false })): Promise<LogSwitch> {
  const opened = await LogSwitch.open(log, logger)
  onTestFinished(() => opened.close())
  return opened
}

test('it is on until somebody turns it off', async () => {
  const log = await tempLog()
  const streamer = await open(log)
  expect(streamer.on).toBe(true)
  expect(streamer.changedAt).toBe(0)
  await expect(log.info(STREAMER_CHANNEL)).rejects.toMatchObject({ code: 'no-channel' })
  await streamer.set(true)
  await expect(log.info(STREAMER_CHANNEL)).rejects.toMatchObject({ code: 'no-channel' })
})

test('where it stands survives a restart', async () => {
  const dir = tempDir()
  const log = await openLog({ dir })
  const streamer = await LogSwitch.open(log, pino({ enabled: false }))
  await streamer.set(false)
  expect(streamer.on).toBe(false)
  await streamer.close()
  await log.close()
  const again = await openLog({ dir })
  onTestFinished(() => again.close())
  const restarted = await open(again)
  expect(restarted.on).toBe(false)
  expect(restarted.changedAt).toBe(0)
})

test('all gateways of one log follow it', async () => {
  const log = await tempLog()
  const [one, two] = [await open(log), await open(log)]
  const told = two.changed(new AbortController().signal)
  await one.set(false)
  await told
  expect(two.on).toBe(false)
  expect(two.changedAt).toBeGreaterThan(0)
  const back = one.changed(new AbortController().signal)
  await two.set(true)
  await back
  expect(one.on).toBe(true)
})

test('of settings called at once, the last one stays, here and after a restart', async () => {
  const log = await tempLog()
  const streamer = await open(log)
  const other = await open(log)
  for (const settings of [
    [false, true],
    [false, true, true, false],
    [true, false, true],
  ]) {
    await Promise.all(settings.map((on) => streamer.set(on)))
    const last = settings.at(-1)!
    expect(streamer.on).toBe(last)
    await vi.waitFor(() => expect(other.on).toBe(last))
    expect((await open(log)).on).toBe(last)
  }
})

test('an answer that comes late does not bring back what another gateway changed meanwhile', async () => {
  const log = await tempLog()
  let answer = () => {}
  const late = new Promise<void>((resolve) => {
    answer = resolve
  })
  const append: Log['append'] = async (...entries) => {
    const appended = await log.append(...entries)
    await late
    return appended
  }
  const one = await open(logWith(log, { append }))
  const two = await open(log)
  const forever = new AbortController().signal
  const told = [one.changed(forever), two.changed(forever)]
  const set = one.set(false)
  await Promise.all(told)
  const back = one.changed(forever)
  await two.set(true)
  await back
  answer()
  await set
  expect([one.on, two.on]).toEqual([true, true])
})

test('only its newest event is kept', async () => {
  const log = await tempLog()
  const streamer = await open(log)
  for (let i = 0; i < 10; i++) await streamer.set(i % 2 === 1)
  const { head, trimmed, epoch } = await log.info(STREAMER_CHANNEL)
  expect({ head, trimmed }).toEqual({ head: 10, trimmed: 9 })
  const page = await log.read(STREAMER_CHANNEL, { epoch, after: 9 }, { events: 10, bytes: 1e6 })
  const [event] = decodeBlock(page.blocks[0]!, 9)
  expect(event!.type).toBe('streamer.switched')
  expect(new TextDecoder().decode(event!.data!)).toBe('{"on":true}')
})

test('a waiting change ends with its signal, and is told when it comes', async () => {
  const streamer = await open(await tempLog())
  const gone = new AbortController()
  const waiting = streamer.changed(gone.signal)
  gone.abort(new Error('gone'))
  await expect(waiting).rejects.toThrow('gone')
  await expect(streamer.changed(gone.signal)).rejects.toThrow('gone')
  const told = streamer.changed(new AbortController().signal)
  await streamer.set(false)
  await told
})

test('what is no switch in its channel is told to the operator and changes nothing', async () => {
  const log = await tempLog()
  const lines: Record<string, unknown>[] = []
  const streamer = await open(log, loggerTo(lines))
  await streamer.set(false)
  await log.append([{ channel: STREAMER_CHANNEL, body: body({ off: 'yes' }) }])
  await vi.waitFor(() => expect(lines.some(({ level }) => level === 50)).toBe(true))
  expect(streamer.on).toBe(false)
  await streamer.set(true)
  expect(streamer.on).toBe(true)
  expect((await open(log)).on).toBe(true)
})
