/** A running server as a log that gives histories and takes them: everything over its calls, as an admin. */
import { unpack } from 'msgpackr'
import { splitBlocks } from '../src/block.ts'
import { baseOf } from '../src/client/client.ts'
import type { Call, Http } from '../src/client/http.ts'
import { errorOf } from '../src/client/refusal.ts'
import type { Settings } from '../src/config.ts'
import { TidemarkError } from '../src/errors.ts'
import { checkTime, formatTime } from '../src/event.ts'
import type { ArrivalPiece, Arrived } from '../src/log/arrival.ts'
import type { Giver } from '../src/log/give.ts'
import { type ChannelInfo, type Settings as ChannelSettings, Page } from '../src/log/log.ts'
import type { Taker } from '../src/log/take.ts'
import { type CursorsJson, READ_EVENTS_MAX } from '../src/wire.ts'
import { askPatiently, connect, credentialOf, pathOf } from './ask.ts'

/** Longest wait for one answer, ms: a piece that is written waits for the disk. */
const ANSWER_MS = 60_000
/** Channels asked for at once. */
const CHANNELS_PAGE = 1_000

type Given = Pick<Settings, 'url' | 'token' | 'tokenFile' | 'patience'>

interface InfoJson extends Omit<ChannelInfo, 'time'> {
  readonly time: string | null
}

const infoOf = ({ channel, epoch, head, trimmed, time, settings }: InfoJson): ChannelInfo => ({
  ...{ channel, epoch, head, trimmed, settings: settings as ChannelSettings },
  time: time === null ? 0 : checkTime(time),
})

/**
 * Each call is tried again for `patience` while the server can not be reached: reads and pieces may come twice.
 * @param signal ends what is under way
 * @throws unauthorized, forbidden for whoever is no admin: what is withheld from others would be missing
 */
export async function servedLog(settings: Given, signal: AbortSignal): Promise<Giver & Taker> {
  const json = connect(settings)
  const pages = pagesOf(settings)
  const asking = async <T>(http: Http, call: Call): Promise<T> => {
    try {
      return await askPatiently<T>(http, { ...call, signal, timeout: ANSWER_MS }, settings.patience)
    } catch (error) {
      signal.throwIfAborted()
      throw error
    }
  }
  await asking(json, { path: 'admin/status' })
  return {
    async *channels(prefix, _, onDamaged) {
      const query = new URLSearchParams({ prefix, limit: String(CHANNELS_PAGE) })
      for (;;) {
        const page = await asking<{ channels: InfoJson[]; next?: string; damaged?: string[] }>(json, {
          path: `channels?${query}`,
        })
        for (const channel of page.damaged ?? []) onDamaged?.(channel)
        yield* page.channels.map(infoOf)
        if (page.next === undefined) return
        query.set('after', page.next)
      }
    },
    info: async (channel) => infoOf(await asking<InfoJson>(json, { path: pathOf(channel) })),
    async read(channel, { epoch, after }, { events }) {
      const limit = String(Math.min(events, READ_EVENTS_MAX))
      const query = new URLSearchParams({ after: String(after), limit, ...(epoch !== undefined && { epoch }) })
      const page = await asking<PageMap>(pages, { path: `${pathOf(channel)}/events?${query}` })
      return new Page({ ...page, channel, blocks: splitBlocks(page.blocks) })
    },
    async *cursors(of, onDamaged) {
      const path = 'channel' in of ? `${pathOf(of.channel)}/cursors` : `cursors/${of.client}`
      const { cursors, damaged = [] } = await asking<CursorsJson>(json, { path })
      for (const name of damaged) onDamaged?.('channel' in of ? { ...of, client: name } : { ...of, channel: name })
      for (const { client, channel, epoch, seq, time } of cursors)
        yield { client, channel, epoch, seq, time: checkTime(time) }
    },
    arrive: (channel, piece) =>
      asking<Arrived>(json, { method: 'POST', path: 'admin/import', body: JSON.stringify(pieceJson(channel, piece)) }),
  }
}

interface PageMap extends Pick<Page, 'epoch' | 'after' | 'last' | 'head' | 'trimmed'> {
  readonly blocks: Uint8Array
}

/** A piece as the call takes it. */
const pieceJson = (channel: string, { blocks, cursors, end, ...piece }: ArrivalPiece) => ({
  ...{ channel, ...piece },
  ...(blocks && { blocks: Buffer.concat(blocks).toString('base64') }),
  ...(cursors && { cursors: cursors.map((cursor) => ({ ...cursor, time: formatTime(cursor.time) })) }),
  ...(end && { end: { settings: end.settings, time: end.time === 0 ? null : formatTime(end.time) } }),
})

/** Pages as blocks, which are no JSON. */
function pagesOf(settings: Given): Http {
  const base = baseOf(settings.url)
  const token = credentialOf(settings)
  return {
    async call({ path, signal, timeout = ANSWER_MS }) {
      const headers = {
        accept: 'application/msgpack',
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
      }
      const late = AbortSignal.timeout(timeout)
      try {
        const response = await fetch(new URL(path, base), {
          headers,
          signal: signal ? AbortSignal.any([signal, late]) : late,
        })
        const bytes = Buffer.from(await response.arrayBuffer())
        if (response.ok) return { value: unpack(bytes), size: bytes.length }
        if (response.headers.get('content-type')?.startsWith('application/problem+json'))
          throw errorOf(JSON.parse(bytes.toString()))
        throw new TidemarkError('unavailable', `Status ${response.status} from ${base.host}`)
      } catch (cause) {
        if (cause instanceof TidemarkError) throw cause
        signal?.throwIfAborted()
        throw new TidemarkError('unavailable', `No answer from ${base.host}`, {}, { cause })
      }
    },
  }
}
