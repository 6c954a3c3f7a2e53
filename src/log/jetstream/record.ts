/**
 * What NATS holds of a channel: one subject, and on it messages that each say all there is to know of the channel as it
 * is with them. A message is a block, or a change without one (trimmed, settings, deleted). So the newest message of a
 * subject is the channel, of one moment, in one read; and a write that names the message it follows, and is refused
 * when another one stands there, is right about epoch, head, trimmed and settings alike.
 */
import { TidemarkError } from '../../errors.ts'
import type { Settings } from '../log.ts'

/** Stands in each message, as JSON, under this header. */
export const RECORD_HEADER = 'Tidemark'
/** Tells one try of a write from all others: who got no answer finds out whether it was stored. */
export const TRY_HEADER = 'Tidemark-Try'
/** Of an append with an idempotency key: its crc and its answers. */
export const RECEIPT_HEADER = 'Tidemark-Receipt'

/** A channel as it is with one of its messages. */
export interface ChannelRecord {
  /** The second half of its epoch. */
  readonly life: string
  /** Messages of this history stand behind this place in the stream. */
  readonly base: number
  readonly head: number
  readonly trimmed: number
  readonly time: number
  readonly settings: Settings
}

/** What stands in the header; `gone`: the channel was deleted with this message. */
interface Written extends Omit<ChannelRecord, 'settings'> {
  readonly settings?: Settings
  readonly gone?: true
}

/** A channel as it was when message `seq` of the stream was the newest on its subject; 0 when there is none. */
export interface Known {
  readonly name: string
  readonly seq: number
  readonly record: ChannelRecord | undefined
}

export interface Receipt {
  readonly crc: number
  readonly answers: readonly { channel: string; epoch: string; first: number; last: number }[]
}

/** As JSON of ASCII alone, as headers want it. @param gone the record of a channel that ends here */
export function encodeRecord({ settings, ...record }: ChannelRecord, gone = false): string {
  const isSet = Object.keys(settings).length > 0
  const written: Written = { ...record, ...(isSet && { settings }), ...(gone && { gone: true }) }
  return ascii(JSON.stringify(written))
}

/** The channel that a message leaves; undefined when it deletes it. */
export function decodeRecord(text: string): ChannelRecord | undefined {
  const { gone, settings = {}, ...record } = JSON.parse(text) as Written
  return gone ? undefined : { ...record, settings }
}

/** Bytes of a receipt at most: NATS takes headers of 64 KiB in all. */
const RECEIPT_BYTES_MAX = 48 * 1024

/** @throws too-large */
export function encodeReceipt(receipt: Receipt): string {
  const text = ascii(JSON.stringify(receipt))
  if (text.length <= RECEIPT_BYTES_MAX) return text
  throw new TidemarkError('too-large', 'An append with an idempotency key is to fewer channels over NATS', {
    bytes: RECEIPT_BYTES_MAX,
  })
}

export const decodeReceipt = (text: string): Receipt => JSON.parse(text) as Receipt

const ascii = (json: string): string =>
  json.replace(/[\u0080-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)

/** Any name as one token of a subject. */
export const token = (name: string): string => Buffer.from(name).toString('base64url')
export const nameOf = (token: string): string => Buffer.from(token, 'base64url').toString()
