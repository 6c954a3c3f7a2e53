/** What the Node forms of load, drain and send share: flags, a histogram, connections that open as the C ones do, frames. */
import { connect, type Socket } from 'node:net'
import { parseArgs } from 'node:util'

/** The flags of this process; each takes a text. */
export function flags<Name extends string>(names: readonly Name[]): Partial<Record<Name, string>> {
  const options = Object.fromEntries(names.map((name) => [name, { type: 'string' as const }]))
  return parseArgs({ options }).values as Partial<Record<Name, string>>
}

/** As in events.ts and load.c. */
export const STAMP = '"t":'
export const STAMP_DIGITS = 16
export const MASK = 0x5a
/** First bytes of a payload that tell what a message is. */
export const KEPT = 128

/** Microseconds since 1970. */
export const epochMicros = (): number => (performance.timeOrigin + performance.now()) * 1_000
/** Microseconds of a clock that never jumps. */
export const nowMicros = (): number => performance.now() * 1_000

export function cpuSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** A digest of stamps that knows their order, as in drain.c: 32 bits. */
export const orderAfter = (order: number, stamp: number): number =>
  (Math.imul(order, 16_777_619) + (stamp % 2 ** 32)) >>> 0

/** The digest of many channels: `orders` of their stamps. */
export const orderOfAll = (orders: readonly number[]): number =>
  orders.reduce((all, order, i) => (all + Math.imul(order, 2 * i + 1)) >>> 0, 0)

/** Which slots of a histogram hold how many values. */
export type Slots = readonly (readonly [slot: number, count: number])[]

/** Microseconds, 64 slots to each doubling: percentiles are exact to 1.6 %. */
export class Histogram {
  readonly #slots = new Float64Array(64 * 40)
  count = 0
  max = 0

  /** Of several programs as one. */
  static of(...parts: readonly { readonly slots: Slots; readonly maxus: number }[]): Histogram {
    const all = new Histogram()
    for (const { slots, maxus } of parts) {
      for (const [slot, count] of slots) {
        all.#slots[slot]! += count
        all.count += count
      }
      all.max = Math.max(all.max, maxus)
    }
    return all
  }

  get slots(): Slots {
    return [...this.#slots.entries()].filter(([, count]) => count > 0)
  }

  add(micros: number): void {
    const value = Math.max(0, Math.floor(micros))
    const shift = value < 64 ? 0 : Math.floor(Math.log2(value)) - 6
    const slot = value < 64 ? value : (shift + 1) * 64 + Math.floor(value / 2 ** shift) - 64
    this.#slots[Math.min(slot, this.#slots.length - 1)]!++
    this.count++
    this.max = Math.max(this.max, value)
  }

  /** Below which the share `p` of the values lies. */
  at(p: number): number {
    const want = Math.floor(this.count * p)
    let seen = 0
    for (let i = 0; i < this.#slots.length && this.count > 0; i++) {
      seen += this.#slots[i]!
      if (seen > want) return i < 64 ? i : ((i % 64) + 64) * 2 ** (Math.floor(i / 64) - 1)
    }
    return this.max
  }
}

/**
 * Connects, sends the opening and, when `upgrade`, takes the 101 answer off; all later bytes go to `onBytes`.
 */
export async function dial(
  port: number,
  opening: Uint8Array,
  upgrade: boolean,
  onBytes: (bytes: Buffer) => void,
): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.once('connect', resolve)
  })
  if (opening.length > 0) socket.write(opening)
  if (!upgrade) return socket.on('data', onBytes)
  let head = Buffer.alloc(0)
  await new Promise<void>((resolve, reject) => {
    socket.once('close', () => reject(new Error('closed before the upgrade')))
    socket.on('data', function take(bytes) {
      head = Buffer.concat([head, bytes])
      const end = head.indexOf('\r\n\r\n')
      if (end < 0) return
      if (!head.toString('latin1', 0, 12).startsWith('HTTP/1.1 101')) return reject(new Error(head.toString('latin1')))
      socket.off('data', take).on('data', onBytes)
      if (head.length > end + 4) onBytes(head.subarray(end + 4))
      resolve()
    })
  })
  return socket
}

/** Walks the frames of a server's stream, however reads cut it. */
export class Walker {
  #head: number[] = []
  #left = 0
  #kept: Buffer[] = []
  #keeps = 0
  readonly #onFrame: (opcode: number, kept: Buffer) => void

  /** `kept` is the beginning of the payload: KEPT bytes, or more when they came at once. */
  constructor(onFrame: (opcode: number, kept: Buffer) => void) {
    this.#onFrame = onFrame
  }

  walk(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#head.length < this.#need()) {
        this.#head.push(bytes[at++]!)
        if (this.#head.length < this.#need()) continue
        const code = this.#head[1]! & 127
        this.#left = code < 126 ? code : this.#head.slice(2).reduce((size, byte) => size * 256 + byte, 0)
      }
      const part = bytes.subarray(at, at + this.#left)
      if (this.#keeps < KEPT) {
        this.#kept.push(part)
        this.#keeps += part.length
      }
      at += part.length
      this.#left -= part.length
      if (this.#left > 0) return
      const [opcode, kept] = [this.#head[0]! & 15, this.#kept]
      this.#head = []
      this.#kept = []
      this.#keeps = 0
      this.#onFrame(opcode, kept.length === 1 ? kept[0]! : Buffer.concat(kept))
    }
  }

  /** Bytes of the frame's head, as far as it is known. */
  #need(): number {
    const code = (this.#head[1] ?? 0) & 127
    return code === 127 ? 10 : code === 126 ? 4 : 2
  }
}

export function pong(socket: Socket, payload: Buffer): void {
  const masked = payload.map((byte) => byte ^ MASK)
  socket.write(Buffer.concat([Uint8Array.of(0x8a, 0x80 | payload.length, MASK, MASK, MASK, MASK), masked]))
}
