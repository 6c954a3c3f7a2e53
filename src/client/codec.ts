/** How messages become WebSocket frames. JSON is built in; MessagePack is loaded when it is asked for. */
import type { ClientMessage, NewEventJson, ServerMessage } from '../wire.ts'
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
  encode(message: Exclude<ClientMessage, { op: 'append' }>): string | Uint8Array
  encodeAppend(ref: number, append: AppendText): string | Uint8Array
  /** @throws anything when the frame is none of ours. */
  decode(data: unknown): ServerMessage
  /** The events of an `events` message; `size` of its frame. */
  frame(message: EventsMessage, size: number): Frame
}

export const jsonCodec: Codec = {
  encode: (message) => JSON.stringify(message),
  encodeAppend: (ref, { channel, events, expectedSeq, idempotencyKey }) =>
    `{"op":"append","ref":${ref},"channel":${JSON.stringify(channel)},"events":${events}` +
    `${expectedSeq === undefined ? '' : `,"expectedSeq":${expectedSeq}`},"idempotencyKey":${JSON.stringify(idempotencyKey)}}`,
  decode: (data) => JSON.parse(data as string),
  frame: (message, size) => jsonFrame(message as Extract<EventsMessage, { events: unknown }>, size),
}

/** Events as the JSON text of an array, as every door takes them. */
export const eventsText = (events: NewEventJson | readonly NewEventJson[]): string =>
  JSON.stringify(Array.isArray(events) ? events : [events])
