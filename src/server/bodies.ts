/** Pages as answers, each made once for all who are given it in this form. */
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { JSON_TYPE } from '../event.ts'
import { blocksMap, cutPage, eventLines, eventsOn, pageFields, pageJson, type Rendered } from '../formats/render.ts'
import type { Page } from '../log/log.ts'
import { ALWAYS, type READ_TYPES } from './http.ts'

export type ReadType = (typeof READ_TYPES)[number]

/** Larger bodies are left where they are. */
const TEXT_BYTES_MAX = 16 * 1024

/** Bytes to be sent: few of them as a text, each character a byte, which leaves with the head of its answer as one. */
export type Bytes = string | Buffer

export const asBytes = (bytes: Buffer): Bytes => (bytes.length > TEXT_BYTES_MAX ? bytes : bytes.toString('latin1'))

/** `parts` behind one another. */
export function joined(parts: readonly Bytes[]): Bytes {
  if (parts.every((part) => typeof part === 'string')) return parts.join('')
  return Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
}

/** What an answer of events depends on beside its address. */
const VARY = 'Accept, Accept-Encoding, Authorization, Cookie, Origin'

/** The body of an answer, and what its head says of it. */
export interface Answer {
  readonly bytes: Bytes
  readonly length: number
  readonly headers: OutgoingHttpHeaders
}

export function answerOf(type: string, bytes: Bytes): Answer {
  const { length } = bytes
  return { bytes, length, headers: { 'Content-Type': type, 'Content-Length': length, ...ALWAYS, Vary: VARY } }
}

/** Sends it, with `headers` beside or in place of its own. */
export function sendAnswer(res: ServerResponse, answer: Answer, headers?: OutgoingHttpHeaders): void {
  res.writeHead(200, headers ? { ...answer.headers, ...headers } : answer.headers)
  res.end(answer.bytes, 'latin1')
}

/** A page's answer. */
export interface PageAnswer extends Answer, Pick<Rendered, 'last' | 'count'> {}

/** The page as `type`; followers at one place share what was made once, unless their limits cut it. */
export function pageAnswer(page: Page, type: ReadType, limit: number): PageAnswer {
  const make = (all: Page): PageAnswer => {
    const { bytes, last, count } = render(all, type, limit)
    const answer = answerOf(type, asBytes(bytes))
    // Lines have no place for what stands around the events.
    const headers = type === 'application/x-ndjson' ? { ...answer.headers, ...factsOf(all, last) } : answer.headers
    return { ...answer, headers, last, count }
  }
  return page.last - page.after <= limit ? page.form(FORM_NAMES[type], make) : make(page)
}

function factsOf(page: Page, end: number): OutgoingHttpHeaders {
  const { epoch, after, last, head, trimmed, at } = pageFields(page, end)
  return {
    ...(at !== undefined && { 'Tidemark-At': at }),
    'Tidemark-Epoch': epoch,
    'Tidemark-After': after,
    'Tidemark-Last': last,
    'Tidemark-Head': head,
    'Tidemark-Trimmed': trimmed,
  }
}

const FORM_NAMES = {
  [JSON_TYPE]: 'read.json',
  'application/x-ndjson': 'read.ndjson',
  'application/msgpack': 'read.msgpack',
} as const satisfies Record<ReadType, string>

/** Without keys every caller is an admin, who is told whom an event is addressed to. */
export const WITH_TO = true

function render(page: Page, type: ReadType, limit: number): Rendered {
  switch (type) {
    case JSON_TYPE:
      return pageJson(page, { limit, withTo: WITH_TO })
    case 'application/x-ndjson':
      return eventLines(page, { limit, withTo: WITH_TO })
    case 'application/msgpack': {
      // Blocks that reach over the page's edges are sent as they are, unless that would be too much.
      const cut = page.last - page.after <= limit ? page : cutPage(page, limit)
      const bytes = blocksMap(pageFields(cut, cut.last), cut.blocks)
      return { bytes, length: bytes.length, last: cut.last, count: eventsOn(cut) }
    }
  }
}
