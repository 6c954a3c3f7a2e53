/**
 * Receipts: an append under an idempotency key happens once. One row for each such append, written in the same batch as
 * its events and filed under the day, the channel and the key; kept for the id window at least, whatever trim and
 * compaction remove meanwhile. An append to several channels has one row in each: any that is left answers for all.
 *
 * Asked for when the append's turn comes: a retry stands behind the first try in the writer's queue, so it finds the
 * first one's row, on disk or in its own group.
 */
import { TidemarkError } from '../../errors.ts'
import { crcOf } from '../entries.ts'
import type { Append } from '../log.ts'
import type { Group } from './group.ts'
import { dayOf, decodeReceipt, type ReceiptRow, receiptKey } from './keys.ts'
import type { Store } from './store.ts'

export class Receipts {
  readonly #store: Store
  readonly #idWindow: number

  constructor(store: Store, idWindow: number) {
    this.#store = store
    this.#idWindow = idWindow
  }

  /**
   * The first answer, when this append was made before.
   * @throws key-reused when the key stands for another append
   */
  find(group: Group, entries: readonly Append[], key: string): ReceiptRow['answers'] | undefined {
    for (const { channel: name } of entries) {
      const channel = group.find(name)
      if (!channel) continue
      const receipt = group.receipt(receiptKey(group.day, channel.number, key)) ?? this.#onDisk(channel.number, key)
      if (!receipt) continue
      if (receipt.crc === crcOf(entries)) return receipt.answers
      throw new TidemarkError('key-reused', 'This idempotency key was used for another append')
    }
    return undefined
  }

  /** Keeps the answer of an append whose channels exist in this group. */
  put(group: Group, entries: readonly Append[], key: string, answers: ReceiptRow['answers']): void {
    const receipt = { crc: crcOf(entries), answers }
    for (const { channel } of entries)
      group.setReceipt(receiptKey(group.day, group.find(channel)!.number, key), receipt)
  }

  #onDisk(channel: number, key: string): ReceiptRow | undefined {
    const now = this.#store.now()
    for (let day = dayOf(now); day >= dayOf(now - this.#idWindow); day--) {
      const row = receiptKey(day, channel, key)
      const value = this.#store.db.getSync(row)
      if (value) return decodeReceipt(row, value)
    }
    return undefined
  }
}
