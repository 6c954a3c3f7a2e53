/** What stands before the payload of a WebSocket frame of a server (RFC 6455: FIN, opcode, length, unmasked). */
import { putU32 } from '../bytes.ts'

export const TEXT = 0x81
export const BINARY = 0x82
export const PONG = 0x8a

/** Bytes of the frame header before a payload of this length. */
export const headerBytes = (length: number): number => (length < 126 ? 2 : length < 0x10000 ? 4 : 10)

/** Writes the header at 0; the payload begins at headerBytes(length). */
export function putHeader(frame: Buffer, first: number, length: number): void {
  frame[0] = first
  if (length < 126) {
    frame[1] = length
  } else if (length < 0x10000) {
    frame[1] = 126
    frame[2] = length >> 8
    frame[3] = length & 255
  } else {
    frame[1] = 127
    putU32(frame, 2, 0)
    putU32(frame, 6, length)
  }
}

/** Heads by the first byte and the length of what follows, below the length that takes eight bytes. */
const HEADS: Record<number, string[]> = { [TEXT]: [], [BINARY]: [] }

/** The header as text, each character a byte, of a small frame. */
export function frameHead(first: typeof TEXT | typeof BINARY, length: number): string {
  const heads = HEADS[first]!
  const known = heads[length]
  if (known !== undefined) return known
  const bytes = Buffer.alloc(headerBytes(length))
  putHeader(bytes, first, length)
  const head = bytes.toString('latin1')
  heads[length] = head
  return head
}
