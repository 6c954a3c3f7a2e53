/** A message as NATS holds it, whichever way it comes. */
import type { StoredMsg } from '@nats-io/jetstream'
import type { Msg, MsgHdrs } from '@nats-io/transport-node'
import { RECEIPT_HEADER, RECORD_HEADER, TRY_HEADER } from './record.ts'

/** A message of a stream. */
export interface Stored {
  readonly seq: number
  readonly subject: string
  readonly data: Uint8Array
  readonly record: string
  readonly receipt: string
  readonly attempt: string
  /** When the server took it, ms. */
  readonly storedAt: number
  /** Of a key-value bucket: DEL and PURGE mark what is gone. */
  readonly operation: string
}

export const storedOf = ({ seq, subject, data, header, time }: StoredMsg): Stored =>
  ofHeaders(header, { seq, subject, data, storedAt: time.getTime() })

/** A message that came in a batch. */
export function batched({ headers, data }: Msg): Stored {
  const given = headers!
  const [seq, storedAt] = [Number(given.get('Nats-Sequence')), Date.parse(given.get('Nats-Time-Stamp'))]
  return ofHeaders(given, { seq, subject: given.get('Nats-Subject'), data, storedAt })
}

export const ofHeaders = (
  headers: MsgHdrs,
  message: Pick<Stored, 'seq' | 'subject' | 'data' | 'storedAt'>,
): Stored => ({
  ...message,
  record: headers.get(RECORD_HEADER),
  receipt: headers.get(RECEIPT_HEADER),
  attempt: headers.get(TRY_HEADER),
  operation: headers.get('KV-Operation'),
})
