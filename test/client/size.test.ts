/** How much a page loads. */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'

/**
 * Most bytes, gzip. client.js is all that follows, appends and commits, whatever the line; the others are loaded when
 * they are needed: by who asks for msgpack, and by a page that has to poll.
 */
const BUDGET = { 'client.js': 7_350, 'client-msgpack.js': 3_900, 'client-bell.js': 1_450 }

const built = (name: string) => readFileSync(resolve(import.meta.dirname, '../../dist', name))

test('what a page loads stays within its budget', () => {
  const sizes = Object.keys(BUDGET).map((name) => {
    const bytes = built(name)
    return [name, bytes.length, gzipSync(bytes, { level: 9 }).length] as const
  })
  console.log(sizes.map(([name, bytes, packed]) => `${name} ${bytes} bytes, ${packed} gzip`).join('; '))
  for (const [name, , packed] of sizes) expect(packed, name).toBeLessThanOrEqual(BUDGET[name as keyof typeof BUDGET])
})

test('what is not needed is not loaded, and what is shared is only what everybody may import', () => {
  const core = String(built('client.js'))
  // Words of each part, and of no other.
  for (const [part, word] of [
    ['msgpack', 'Float64'],
    ['bell', 'BroadcastChannel'],
  ]) {
    expect(core).toContain(`import(\`./client-${part}.js\`)`)
    expect(core).not.toContain(word)
    expect(String(built(`client-${part}.js`))).toContain(word)
  }
  expect(/export\{([^}]*)\}/.exec(core)![1]!.replaceAll(/\w+ as /g, '')).toBe('Tidemark,TidemarkError')
})
