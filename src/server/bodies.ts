/** Pages as answers, each made once for all who are given it in this form. */
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { JSON_TYPE } from '../event.ts'
import {
  areLarge,
  blocksHead,
  bufferOf,
  bytesIn,
  countOn,
  cutPage,
  eventLines,
  eventsOn,
  type Pieces,
  pageFields,
  pageJson,
  pageJsonPieces,
  type Rendered,
} from '../formats/render.ts'
import type { Page } from '../log/log.ts'
import { ALWAYS, type READ_TYPES } from './http.ts'

export type ReadType = (typeof READ_TYPES)[number]

/** Larger bodies are left where they are. */
const TEXT_BYTES_MAX = 16 * 1024

/** Bytes to be sent: few of them as a text, each character a byte, which leaves with the head of its answer as one. */
export type Bytes = string | Buffer

export const asBytes = (bytes: Buffer): Bytes => (bytes.length > TEXT_BYTES_MAX ? bytes : bytes.toString('latin1'))

/** The body of an answer: as one, or in pieces, of which others may send some, too. */
export type Body = Bytes | Pieces

const isInPieces = (body: Body): body is Pieces => Array.isArray(body)
const piecesIn = (body: Body): readonly Bytes[] => (isInPieces(body) ? body : [body])

/** `parts` behind one another. */
export function joined(parts: readonly Body[]): Bytes {
  const all = parts.flatMap(piecesIn)
  if (all.every((part) => typeof part === 'string')) return all.join('')
  return Buffer.concat(all.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
}

/** Without its first byte. */
export function behindFirst(body: Body): readonly Bytes[] {
  const [first, ...rest] = piecesIn(body)
  return [typeof first === 'string' ? first.slice(1) : first!.subarray(1), ...rest]
}

/** What an answer of events depends on beside its address. */
const VARY = 'Accept, Accept-Encoding, Authorization, Cookie, Origin'

/** The body of an answer, and what its head says of it. */
export interface Answer {
  readonly bytes: Body
  readonly length: number
  readonly headers: OutgoingHttpHeaders
}

export function answerOf(type: string, bytes: Body): Answer {
  const length = isInPieces(bytes) ? bytesIn(bytes) : bytes.length
  return { bytes, length, headers: { 'Content-Type': type, 'Content-Length': length, ...ALWAYS, Vary: VARY } }
}

/** Sends it, with `headers` beside or in place of its own. */
export function sendAnswer(res: ServerResponse, answer: Answer, headers?: OutgoingHttpHeaders): void {
  res.writeHead(200, headers ? { ...answer.headers, ...headers } : answer.headers)
  const pieces = piecesIn(answer.bytes)
  for (let i = 0; i < pieces.length - 1; i++) res.write(pieces[i], 'latin1')
  res.end(pieces.at(-1), 'latin1')
}

/** A page's answer. */
export interface PageAnswer extends Answer, Pick<Rendered, 'last' | 'count'> {}

/** As Rendered. */
type Made = Pick<PageAnswer, 'bytes' | 'last' | 'count'>

/** The page as `type`; followers at one place share what was made once, unless their limits cut it. */
export function pageAnswer(page: Page, type: ReadType, limit: number): PageAnswer {
  const make = (all: Page): PageAnswer => {
    const { bytes, last, count } = render(all, type, limit)
    const answer = answerOf(type, bytes)
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

function render(page: Page, type: ReadType, limit: number): Made {
  const isWhole = page.last - page.after <= limit
  switch (type) {
    case JSON_TYPE:
      // What all at one place share is made once as it is; of blocks in memory what was made of each is shared.
      return page.hasBlockForms && !page.isShared && isWhole
        ? ofPieces(pageJsonPieces(page), page.last, countOn(page))
        : asOne(pageJson(page, { limit, withTo: WITH_TO }))
    case 'application/x-ndjson':
      return asOne(eventLines(page, { limit, withTo: WITH_TO }))
    case 'application/msgpack': {
      // Blocks that reach over the page's edges are sent as they are, unless that would be too much.
      const cut = isWhole ? page : cutPage(page, limit)
      const head = blocksHead(pageFields(cut, cut.last), cut.blocks)
      return ofPieces([head, ...cut.blocks.map(bufferOf)], cut.last, eventsOn(cut))
    }
  }
}

const asOne = (rendered: Rendered): Made => ({ ...rendered, bytes: asBytes(rendered.bytes) })

const ofPieces = (pieces: Pieces, last: number, count: number): Made => ({
  bytes: areLarge(pieces) ? pieces : asBytes(Buffer.concat(pieces)),
  last,
  count,
})
