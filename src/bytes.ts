/** Big-endian integers in byte arrays, as blocks and keys hold them. A u64 here is at most 2^53 − 1. */

export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24
  bytes[at + 1] = value >>> 16
  bytes[at + 2] = value >>> 8
  bytes[at + 3] = value
}

export function putU64(bytes: Uint8Array, at: number, value: number): void {
  putU32(bytes, at, Math.floor(value / 2 ** 32))
  putU32(bytes, at + 4, value % 2 ** 32)
}

export function getU32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
}

export function getU64(bytes: Uint8Array, at: number): number {
  return getU32(bytes, at) * 2 ** 32 + getU32(bytes, at + 4)
}
