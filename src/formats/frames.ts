/**
 * Messages to a socket as whole WebSocket frames (RFC 6455, server side: FIN, opcode, length, unmasked), so that one
 * write gives one or many of them and a page's frame is built once for all its followers.
 */
import { Packr } from 'msgpackr'
import type { Appended, Durability, Page } from '../log/log.ts'
import { type ServerMessage, SUBPROTOCOL } from '../wire.ts'
import { jsonAppended, msgpackAppended, type Together } from './appended.ts'
import { BINARY, headerBytes, PONG, putHeader, TEXT } from './heads.ts'
import { areLarge, blocksHead, bufferOf, bytesIn, END, eventsPieces, type Pieces } from './render.ts'

/** One subprotocol's way to write. */
export interface Frames {
  readonly subprotocol: string
  /** Frames of this subprotocol are binary, from both sides. */
  readonly binary: boolean
  message(message: ServerMessage): Buffer
  /** The `appended` frames of appends that were made as one, each character a byte. @param answer to all of them */
  appended(together: Together, answer: Appended, durability: Durability): string
  /**
   * The `events` frame of a page, in pieces to be written together: one that is made once and shared by everyone who
   * stands at its place, or what the page already has in memory, uncopied.
   */
  page(page: Page): Pieces
  /** A `heartbeat` message. */
  readonly heartbeat: Buffer
}

/** A whole PING frame without a payload. */
export const PING: Buffer = Buffer.from([0x89, 0])

function textFrame(text: string): Buffer {
  const length = Buffer.byteLength(text)
  const at = headerBytes(length)
  const frame = Buffer.allocUnsafe(at + length)
  putHeader(frame, TEXT, length)
  frame.write(text, at)
  return frame
}

function frameOf(first: number, parts: readonly Uint8Array[], allocate = Buffer.allocUnsafe): Buffer {
  const length = bytesIn(parts)
  let at = headerBytes(length)
  const frame = allocate(at + length)
  putHeader(frame, first, length)
  for (const part of parts) {
    frame.set(part, at)
    at += part.length
  }
  return frame
}

/** The PONG that answers a PING with this payload, which is copied. */
export const pongFrame = (payload: Buffer): Buffer => frameOf(PONG, [payload])

/** A frame around `parts`, which are left where they are. */
function piecesOf(first: number, before: readonly Uint8Array[], parts: readonly Uint8Array[], end?: Buffer): Pieces {
  const length = bytesIn(before) + bytesIn(parts) + (end?.length ?? 0)
  const header = Buffer.alloc(headerBytes(length))
  putHeader(header, first, length)
  const pieces = [Buffer.concat([header, ...before]), ...parts.map(bufferOf)]
  return end ? [...pieces, end] : pieces
}

/** A frame that is kept with its page must not keep a slab of other frames alive. */
const keptFrame = Buffer.allocUnsafeSlow

function fieldsOf({ channel, epoch, after, last, at }: Page): object {
  const fields = { op: 'events', channel, epoch, after, last }
  return at === undefined ? fields : { ...fields, at }
}

function jsonPage(page: Page): Pieces {
  const head = JSON.stringify(fieldsOf(page))
  const start = Buffer.from(`${head.slice(0, -1)},"events":[`)
  // Without keys every caller is admin, who sees whom an event is for.
  const pieces = eventsPieces(page)
  if (!page.isShared && areLarge(pieces)) return piecesOf(TEXT, [start], pieces, END)
  return [frameOf(TEXT, [start, ...pieces, END], keptFrame)]
}

function msgpackPage(page: Page): Pieces {
  const { blocks } = page
  const head = blocksHead(fieldsOf(page), blocks)
  if (!page.isShared && areLarge(blocks)) return piecesOf(BINARY, [head], blocks)
  return [frameOf(BINARY, [head, ...blocks], keptFrame)]
}

/** Maps with their length in the first byte, as any decoder reads them. */
const packr = new Packr({ useRecords: false, variableMapSize: true })

const jsonMessage = (message: ServerMessage): Buffer => textFrame(JSON.stringify(message))
const msgpackMessage = (message: ServerMessage): Buffer => frameOf(BINARY, [packr.pack(withoutUndefined(message))])

/** As JSON.stringify does by itself. */
function withoutUndefined(message: ServerMessage): object {
  for (const name in message)
    if (message[name as keyof ServerMessage] === undefined)
      return Object.fromEntries(Object.entries(message).filter(([, value]) => value !== undefined))
  return message
}

const heartbeat: ServerMessage = { op: 'heartbeat' }

/** They are kept with the page, for all who read it. */
function pagePieces(page: Page, name: string, make: (page: Page) => Pieces): Pieces {
  return page.form(name, (all) => {
    const pieces = make(all)
    return { pieces, length: bytesIn(pieces) }
  }).pieces
}

export const JSON_FRAMES: Frames = {
  subprotocol: SUBPROTOCOL.json,
  binary: false,
  message: jsonMessage,
  appended: jsonAppended,
  page: (page) => pagePieces(page, 'ws.json', jsonPage),
  heartbeat: jsonMessage(heartbeat),
}

export const MSGPACK_FRAMES: Frames = {
  subprotocol: SUBPROTOCOL.msgpack,
  binary: true,
  message: msgpackMessage,
  appended: msgpackAppended,
  page: (page) => pagePieces(page, 'ws.msgpack', msgpackPage),
  heartbeat: msgpackMessage(heartbeat),
}
