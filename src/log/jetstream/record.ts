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

const NOT_OURS = 'A message in NATS is damaged, or somebody else wrote it'

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
  /** Its whole epoch, where it was kept from elsewhere. */
  readonly epoch?: string
  /** Readers of an older run of its epoch who stand below this, not at 0, take their state anew. */
  readonly cleaned?: number
  /** Events that were lost where it comes from: (after, upTo]. */
  readonly lost?: readonly (readonly [after: number, upTo: number])[]
  /** Where it comes from, and how far it went there; all of it came, or nobody sees the channel yet. */
  readonly came?: {
    readonly from: string
    readonly upTo: number
    readonly sameEpoch: boolean
    readonly isWhole: boolean
  }
}

/** Nobody sees a channel of which only a part came. */
export const isArriving = (record: ChannelRecord | undefined): boolean => record?.came?.isWhole === false

/** @param life of the log */
export const epochOf = (life: string, record: Pick<ChannelRecord, 'epoch' | 'life'>): string =>
  record.epoch ?? `${life}.${record.life}`

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

/** The channel that a message leaves; undefined when it deletes it. @throws data-loss when it is none of ours */
export function decodeRecord(text: string): ChannelRecord | undefined {
  const { gone, settings = {}, ...record } = parsed(text)
  return gone ? undefined : { ...record, settings }
}

function parsed(text: string): Written {
  try {
    const written = JSON.parse(text) as Written | null
    if (typeof written?.life === 'string' && Number.isSafeInteger(written.head)) return written
  } catch (cause) {
    throw new TidemarkError('data-loss', NOT_OURS, {}, { cause })
  }
  throw new TidemarkError('data-loss', NOT_OURS)
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
