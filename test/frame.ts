/** A frame as a client sends it; its mask is zero, so that the payload stands in it as it is. */
export function clientFrame(payload: string | Uint8Array, { opcode = 1, fin = true, masked = true } = {}): Buffer {
  const bytes = Buffer.from(payload)
  const length = bytes.length < 126 ? Buffer.from([bytes.length]) : Buffer.alloc(bytes.length < 0x10000 ? 3 : 9)
  if (length.length === 3) length.writeUInt16BE(bytes.length, 1)
  if (length.length === 9) length.writeUInt32BE(bytes.length, 5)
  if (length.length > 1) length[0] = length.length === 3 ? 126 : 127
  if (masked) length[0]! |= 0x80
  return Buffer.concat([Buffer.from([(fin ? 0x80 : 0) | opcode]), length, Buffer.alloc(masked ? 4 : 0), bytes])
}
