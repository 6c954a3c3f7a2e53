/** How much a page loads. */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'

/** Most bytes of /client.js, gzip: all that follows, appends and commits. */
const CORE_BYTES = 7_250
/** Most bytes of what is loaded beside it for the msgpack subprotocol, gzip. */
const MSGPACK_BYTES = 4_000

const built = (name: string) => readFileSync(resolve(import.meta.dirname, '../../dist', name))
const packed = (bytes: Buffer) => gzipSync(bytes, { level: 9 }).length

test('what a page loads stays within its budget', () => {
  const [core, msgpack] = [built('client.js'), built('client-msgpack.js')]
  console.log(
    `client.js ${core.length} bytes, ${packed(core)} gzip; client-msgpack.js ${msgpack.length}, ${packed(msgpack)} gzip`,
  )
  expect(packed(core)).toBeLessThanOrEqual(CORE_BYTES)
  expect(packed(msgpack)).toBeLessThanOrEqual(MSGPACK_BYTES)
})

test('without msgpack nothing of it is loaded', () => {
  expect(String(built('client.js'))).toContain('import(`./client-msgpack.js`)')
  // Words of a decoder.
  for (const word of ['Float64', 'BigInt', 'TextDecoder']) {
    expect(String(built('client-msgpack.js'))).toContain(word)
    expect(String(built('client.js'))).not.toContain(word)
  }
})
