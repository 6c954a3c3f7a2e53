/** How much a page loads. */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'

/**
 * Most bytes, gzip. client.js is all that follows and commits over a socket; the others are loaded when they are
 * needed: with the first append, with the first state, for what goes over HTTP (soon after the start), for msgpack, and by a page that polls.
 */
const BUDGET = {
  'client.js': 6_000,
  'client-append.js': 900,
  'client-poll.js': 2_050,
  'client-msgpack.js': 3_900,
  'client-state.js': 1_200,
  'client-bell.js': 1_650,
}

const built = (name: string) => readFileSync(resolve(import.meta.dirname, '../../dist', name))

test('what a page loads stays within its budget', () => {
  const sizes = Object.keys(BUDGET).map((name) => {
    const bytes = built(name)
    return [name, bytes.length, gzipSync(bytes, { level: 9 }).length] as const
  })
  console.log(sizes.map(([name, bytes, packed]) => `${name} ${bytes} bytes, ${packed} gzip`).join('; '))
  for (const [name, , packed] of sizes) expect(packed, name).toBeLessThanOrEqual(BUDGET[name as keyof typeof BUDGET])
})

test('what is not needed is not loaded, and parts share with the core what is named here', () => {
  const core = String(built('client.js'))
  // Words of each part, and of no other.
  for (const [part, word] of [
    ['append', 'idempotency-key'],
    ['poll', 'retry-after'],
    ['msgpack', 'Float64'],
    ['bell', 'BroadcastChannel'],
    ['state', 'begins with the state'],
  ]) {
    expect(core).toContain(`import(\`./client-${part}.js\`)`)
    expect(core).not.toContain(word)
    expect(String(built(`client-${part}.js`))).toContain(word)
  }
  const exported = /export\{([^}]*)\}/
    .exec(core)![1]!
    .replaceAll(/[\w$]+ as /g, '')
    .split(',')
  // By their names, never by letters: a page that stays open loads a part of the server's next version.
  const shared = ['errorOf', 'hintOf', 'isPassing', 'jsonFrame', 'newBackoff', 'pause']
  expect(exported.filter((name) => !/^TidemarkError\$\d$/.test(name)).sort()).toEqual(
    ['Tidemark', 'TidemarkError', ...shared].sort(),
  )
})
