/** How messages become WebSocket frames. JSON is built in; MessagePack is loaded when it is asked for. */
import type { ClientMessage, ServerMessage } from '../wire.ts'
import { type Frame, jsonFrame } from './subscription.ts'

/** An append as it goes out, and again if it has to: its events as one JSON text. */
export interface AppendText {
  readonly channel: string
  readonly events: string
  readonly expectedSeq: number | undefined
  readonly idempotencyKey: string
}

export type EventsMessage = Extract<ServerMessage, { op: 'events' }>

export interface Codec {
  /** Fields that are `undefined` are not sent. */
  encode(message: Exclude<ClientMessage, { op: 'append' }>): string | Uint8Array
  /** Where an append is not as `jsonAppend` (append.ts) makes it. */
  encodeAppend?(ref: number, append: AppendText): string | Uint8Array
  /** @throws anything when the frame is none of ours. */
  decode(data: unknown): ServerMessage
  /** The events of an `events` message; `size` of its frame. */
  frame(message: EventsMessage, size: number): Frame
}

export const jsonCodec: Codec = {
  encode: JSON.stringify,
  decode: JSON.parse as Codec['decode'],
  frame: jsonFrame as Codec['frame'],
}
