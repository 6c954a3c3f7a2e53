import { randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type Command, Option } from 'commander'
import type { Http } from '../src/client/http.ts'
import { isPassing } from '../src/client/refusal.ts'
import { TidemarkError } from '../src/errors.ts'
import { BLOCK_BYTES_MAX, checkIdempotencyKey, checkSeq } from '../src/event.ts'
import type { AppendedJson } from '../src/wire.ts'
import { askPatiently, channelOf, connect, mayHaveArrived, pathOf, wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { type Batch, linesOf, Outbox } from './lines.ts'
import type { Terminal } from './terminal.ts'

export const appendCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'append <CHANNEL>',
      summary: 'append one event, or many from stdin',
      more:
        'With --data, --file, --type or --tombstone: one event. With none of them: one event per line of stdin, each a ' +
        'JSON object { data?, type?, key?, id?, contentType?, dataBase64? }, appended as they come in atomic batches of ' +
        'up to 1,000. Prints the channel and the first and last seq. Asks again under the same idempotency key while ' +
        'the server gives no answer, so that nothing is appended twice. Who stops asking (--patience, Ctrl-C) is told ' +
        'whether that may have been appended: of one event with its key, of lines with their numbers.',
      settings: ['url', 'tokenFile', 'json', 'patience'],
      options: [
        new Option('--data <JSON>', 'data of the event, a JSON value'),
        new Option('--file <FILE>', 'data of the event, the bytes of a file (- is stdin)').conflicts('data'),
        new Option('--content-type <TYPE>', 'what the file holds (default application/octet-stream)'),
        new Option('--type <TYPE>', 'what kind of event it is'),
        new Option('--key <KEY>', 'what the event is about; its newest event is the state of a key'),
        new Option('--id <ID>', 'your own name for the event'),
        new Option('--tombstone', 'the key is gone: an event with a key and no data').conflicts(['data', 'file']),
        new Option('--expected-seq <SEQ>', 'append only if this is the head'),
        new Option('--idempotency-key <KEY>', 'take up an earlier try of this same append (default: a new one)'),
      ],
      examples: [
        [`tidemark append orders --type order.placed --data '{"id":7}'`, 'one event'],
        ['tidemark append photos --key a.jpg --file a.jpg --content-type image/jpeg', 'bytes'],
        ['tidemark append orders --key order/7 --tombstone', 'the key is gone'],
        ['tidemark append orders < events.ndjson', 'many'],
      ],
    },
    terminal,
    append,
  )

export async function append(run: Run): Promise<void> {
  const channel = channelOf(run.args[0])
  const event = await eventOf(run)
  await (event === undefined ? appendLines(run, channel) : appendOne(run, channel, event))
}

/** The one event that the options tell, as JSON; undefined when events come from stdin. */
async function eventOf({ options, terminal }: Run): Promise<string | undefined> {
  const { data, file, contentType, type, key, id, tombstone, expectedSeq, idempotencyKey } = options
  if (contentType !== undefined && file === undefined) throw wrongUsage('--content-type is about --file')
  if ([data, file, type, key, id, tombstone].every((given) => given === undefined)) {
    if (expectedSeq !== undefined || idempotencyKey !== undefined)
      throw wrongUsage('--expected-seq and --idempotency-key are about one event: give --data or --file')
    if (terminal.input.isTTY) throw wrongUsage('nothing to append: give --data, --file, or JSON lines on stdin')
    return undefined
  }
  const hasData = data !== undefined || file !== undefined
  // A key without data deletes. Whoever forgets --data must not find that out later.
  if (key !== undefined && !hasData && !tombstone) throw wrongUsage('--key needs --data or --file (or --tombstone)')
  if (tombstone && key === undefined) throw wrongUsage('--tombstone needs --key')
  const fields = Object.entries({ type, key, id }).filter(([, given]) => given !== undefined)
  if (file !== undefined) {
    fields.push(['contentType', contentType ?? 'application/octet-stream'])
    fields.push(['dataBase64', (await bytesOf(String(file), terminal)).toString('base64')])
  }
  const texts = fields.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`)
  // As it was given: parsed and written again, a long number would be another one.
  if (data !== undefined) texts.push(`"data":${checkJson(String(data))}`)
  return `{${texts.join(',')}}`
}

function checkJson(text: string): string {
  try {
    JSON.parse(text)
    return text
  } catch (cause) {
    const why = '--data takes a JSON value; a text stands in quotes of its own: --data \'"hello"\''
    throw new TidemarkError('bad-request', why, {}, { cause })
  }
}

async function bytesOf(file: string, { input }: Terminal): Promise<Buffer> {
  const pieces: Uint8Array[] = []
  let size = 0
  try {
    for await (const piece of file === '-' ? input : createReadStream(file)) {
      pieces.push(piece)
      size += piece.length
      if (size > BLOCK_BYTES_MAX)
        throw new TidemarkError('too-large', `An append holds at most ${BLOCK_BYTES_MAX} bytes`, {
          limit: BLOCK_BYTES_MAX,
        })
    }
  } catch (cause) {
    if (cause instanceof TidemarkError) throw cause
    const { code } = cause as NodeJS.ErrnoException
    const why = `${file} can not be read (${code})`
    throw new TidemarkError(code === 'ENOENT' ? 'bad-request' : 'io-error', why, {}, { cause })
  }
  return Buffer.concat(pieces)
}

async function appendOne({ options, settings, terminal }: Run, channel: string, event: string): Promise<void> {
  const { expectedSeq } = options
  const key = options.idempotencyKey === undefined ? randomUUID() : checkIdempotencyKey(options.idempotencyKey)
  const query = expectedSeq === undefined ? '' : `?expectedSeq=${checkSeq(expectedSeq, '--expected-seq')}`
  const { patience, json } = settings
  const request = { http: connect(settings), channel, query, body: event, key, patience, signal: terminal.stopped() }
  const appended = await appendUnder(request).catch((error: unknown) => {
    throw toldOne(error, key)
  })
  const text = shown(channel, appended.first, appended.last)
  await terminal.print(json ? JSON.stringify(appended) : text, `appended ${text}`)
}

/** Who may not know that the event is there is told how to make sure. */
function toldOne(error: unknown, key: string): unknown {
  if (!(error instanceof TidemarkError)) return error
  const isUnknown = error.details.outcome === 'unknown'
  const how = isUnknown ? `: try again with --idempotency-key ${key}` : ''
  const details = isUnknown ? { ...error.details, idempotencyKey: key } : error.details
  return new TidemarkError(error.code, `${error.message}${outcomeOf(error, 'it was')}${how}`, details, { cause: error })
}

/** Appends what comes on stdin until it ends, or Ctrl-C; what was taken until then is still sent and told. */
async function appendLines({ settings, terminal }: Run, channel: string): Promise<void> {
  const http = connect(settings)
  const done = { channel, epoch: '', first: 0, last: 0, events: 0 }
  const stopped = terminal.stopped()
  const outbox = new Outbox(async (batch) => {
    const events = eventsOf(batch)
    if (events.length === 0) return
    const { epoch, first, last } = await appendEvents(http, channel, events, settings.patience)
    if (done.events === 0) done.first = first
    Object.assign(done, { epoch, last, events: done.events + events.length })
  })
  try {
    for await (const lines of until(stopped, linesOf(terminal.input))) {
      for (const line of lines) await outbox.add(line)
      outbox.flush()
    }
  } finally {
    const { unanswered } = outbox
    if (stopped.aborted && unanswered !== undefined)
      terminal.say(`tidemark: ${linesText(...unanswered)}: no answer yet; Ctrl-C again ends without it`)
    await outbox.end().finally(async () => {
      const text = `${shown(channel, done.first, done.last)} (${done.events} events)`
      if (done.events > 0) await terminal.print(settings.json ? JSON.stringify(done) : text, `appended ${text}`)
    })
  }
}

interface Line {
  readonly text: string
  readonly number: number
}

/** Lines that hold an event. @throws bad-request naming the line, before anything of the batch is sent */
function eventsOf({ lines, number }: Batch): Line[] {
  const events = lines.map((text, i) => ({ text, number: number + i })).filter(({ text }) => text.trim() !== '')
  for (const { text, number: line } of events) {
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch (cause) {
      throw new TidemarkError('bad-request', `Line ${line} is not JSON`, { line }, { cause })
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new TidemarkError('bad-request', `Line ${line} is no event: { "data": … }`, { line })
  }
  return events
}

async function appendEvents(http: Http, channel: string, events: readonly Line[], patience: number) {
  try {
    const body = `[${events.map(({ text }) => text).join(',')}]`
    return await appendUnder({ http, channel, query: '', body, key: randomUUID(), patience })
  } catch (error) {
    if (!(error instanceof TidemarkError)) throw error
    const { event, outcome } = error.details
    const first = events[typeof event === 'number' ? event : 0]!.number
    const last = typeof event === 'number' ? first : events.at(-1)!.number
    const what = first === last ? 'it was' : 'they were'
    const before = outcome === 'unknown' && first > 1 ? ', those before were' : ''
    const why = `${linesText(first, last)}: ${error.message}${outcomeOf(error, what)}${before}`
    throw new TidemarkError(error.code, why, { ...error.details, line: first }, { cause: error })
  }
}

interface Request {
  readonly http: Http
  readonly channel: string
  readonly query: string
  /** An event or a list of them, as JSON. */
  readonly body: string
  readonly key: string
  readonly patience: number
  readonly signal?: AbortSignal
}

/**
 * One append, asked again under its key while there is no answer.
 * @throws the refusal; the last failure, with `outcome: 'unknown'` when a try may have been taken
 */
async function appendUnder({ http, channel, query, body, key, patience, signal }: Request): Promise<AppendedJson> {
  let isUnknown = false
  try {
    const path = `${pathOf(channel)}/events${query}`
    const call = { method: 'POST', path, body, headers: { 'idempotency-key': key }, signal } as const
    return await askPatiently<AppendedJson>(http, call, patience, (error) => {
      isUnknown ||= mayHaveArrived(error)
    })
  } catch (cause) {
    const isLeft = signal?.aborted && !(cause instanceof TidemarkError)
    const error = isLeft ? new TidemarkError('unavailable', 'Left without an answer') : cause
    if (!isPassing(error)) throw error
    const { code, message, details } = error
    throw new TidemarkError(code, message, isUnknown ? { ...details, outcome: 'unknown' } : details, { cause })
  }
}

/** What a failed append has done, as far as anybody can say. Empty where its refusal says it. */
function outcomeOf(error: TidemarkError, what: 'it was' | 'they were'): string {
  if (error.details.outcome === 'unknown') return `; whether ${what} appended is unknown`
  return isPassing(error) ? `; ${what} not appended` : ''
}

const linesText = (first: number, last: number): string => (first === last ? `Line ${first}` : `Lines ${first}–${last}`)

const shown = (channel: string, first: number, last: number): string =>
  first === last ? `${channel} ${first}` : `${channel} ${first}–${last}`

/** The items of a source until it ends or the signal aborts. */
async function* until<T>(signal: AbortSignal, source: AsyncIterable<T>): AsyncGenerator<T, void> {
  const iterator = source[Symbol.asyncIterator]()
  const stopped = new Promise<{ done: true; value: undefined }>((resolve) => {
    signal.addEventListener('abort', () => resolve({ done: true, value: undefined }))
  })
  for (;;) {
    const { done, value } = await Promise.race([iterator.next(), stopped])
    if (done) return
    yield value
  }
}
