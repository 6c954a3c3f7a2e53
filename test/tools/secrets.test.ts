/** Nothing that a server writes holds a credential, good or bad, wherever it was shown. */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { changeKeys, makeIssuer, makeKey } from '../../src/access/keysfile.ts'
import { signToken } from '../../src/access/tokens.ts'
import { tempDir } from '../parts.ts'
import { run, serving } from './program.ts'

/** All that lies below a directory, file by file. */
function* filesIn(dir: string): Generator<[string, string]> {
  for (const name of readdirSync(dir)) {
    const path = join(dir, name)
    if (statSync(path).isDirectory()) yield* filesIn(path)
    else yield [path, readFileSync(path, 'latin1')]
  }
}

test('a run with good and bad credentials at every door leaves none of them anywhere', async () => {
  const data = tempDir()
  const keys = join(tempDir(), 'keys.json')
  const [admin, publish, revoked, unknown] = (['admin', 'publish', 'publish', 'admin'] as const).map((kind) =>
    makeKey({ kind }),
  )
  const [issuer, stranger] = [makeIssuer({ iss: 'app' }), makeIssuer({ iss: 'app' })]
  changeKeys(keys, () => ({ keys: [admin!.entry, publish!.entry, revoked!.entry], issuers: [issuer] }))
  const facts = { sub: 'anna', perm: [{ ch: 'orders', ops: ['read', 'append', 'commit'] as const }], groups: [] }
  const good = await signToken(issuer, { ...facts, seconds: 600 })
  const expired = await signToken(issuer, { ...facts, seconds: -60 })
  const forged = await signToken(stranger, { ...facts, seconds: 600 })
  const secrets = {
    ...{ admin: admin!.text, publish: publish!.text, revoked: revoked!.text, unknown: unknown!.text },
    ...{ good, expired, forged, secret: issuer.secret!, strangeSecret: stranger.secret! },
    cut: admin!.text.slice(0, -4),
    signature: good.split('.')[2]!,
    typed: 'hunter2-hunter2-hunter2',
  }
  const shown = [
    admin!.text,
    publish!.text,
    revoked!.text,
    unknown!.text,
    good,
    expired,
    forged,
    secrets.cut,
    secrets.typed,
  ]

  const server = await serving(['--keys', keys, '--log-level', 'trace'], data)
  const { url } = server
  const said: string[] = []
  const ask = async (path: string, credential: string, init: RequestInit = {}): Promise<void> => {
    const headers = { authorization: `Bearer ${credential}`, 'content-type': 'application/json' }
    said.push(await (await fetch(url + path, { headers, ...init })).text())
  }
  for (const credential of shown) {
    await ask('/v1/channels/orders/events', credential, { method: 'POST', body: '{"data":"a canary"}' })
    await ask('/v1/channels/orders/events', credential)
    await ask('/v1/admin/status', credential)
    await ask('/v1/admin/settings', credential)
    await ask('/v1/poll', credential, { method: 'POST', body: '{"channels":{"orders":{"after":0}}}' })
    await ask('/metrics', credential)
    await ask(`/v1/channels?token=${credential}`, '')
    await ask(`/v1/session`, credential, { method: 'POST' })
    for (const [headers, hello] of [
      [{ authorization: `Bearer ${credential}` }, {}],
      [{}, { token: credential }],
    ] as const) {
      const ws = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, { headers })
      await new Promise<void>((resolve) => {
        ws.on('open', () => ws.send(JSON.stringify({ op: 'hello', ...hello })))
        ws.on('message', (text) => {
          said.push(String(text))
          ws.send(JSON.stringify({ op: 'refresh', token: expired }))
          ws.close()
        })
        ws.on('close', () => resolve()).on('error', () => resolve())
      })
    }
  }
  await ask('/v1/channels/orders/trim', admin!.text, { method: 'POST', body: '{"upTo":1}' })
  changeKeys(keys, (all) => ({ ...all, keys: all.keys.filter(({ kid }) => kid !== revoked!.entry.kid) }))
  await server.until(() => server.values.filter(({ msg }) => msg === 'Keys are in force').length === 2)
  // A file of keys that is wrong is told of, without its text.
  const { length } = server.values
  writeFileSync(keys, `{ "keys": "${admin!.text}" `)
  await server.until(() => server.values.slice(length).some(({ level }) => level === 'error'))
  await ask('/v1/channels/_audit/events?limit=1000', admin!.text)
  expect(said.at(-1)).toContain('"type":"start"')
  const token = join(tempDir(), 'token')
  writeFileSync(token, secrets.unknown, { mode: 0o600 })
  const refused = await run(['tail', 'orders', '--url', url, '--token-file', token, '--patience', '0s'])
  // Too many bad ones came from here before.
  expect(refused.code).toBe(69)
  expect(await server.kill('SIGTERM')).toBe(0)

  const written: [string, string][] = [
    ...filesIn(data),
    ['stdout', server.out],
    ['stderr', server.err],
    ['tail', refused.out + refused.err],
    ['answers', said.join('\n')],
  ]
  // What is looked for would be found: what was appended is, and so are the callers' names.
  expect(written.some(([path, text]) => path.startsWith(data) && text.includes('a canary'))).toBe(true)
  expect(written.some(([path, text]) => path.startsWith(data) && text.includes(admin!.entry.kid))).toBe(true)
  expect(server.out.split('\n').length).toBeGreaterThan(shown.length)
  const found = Object.entries(secrets).flatMap(([name, secret]) =>
    written.flatMap(([path, text]) => (text.includes(secret) ? [`${name} in ${path}`] : [])),
  )
  expect(found).toEqual([])
})
