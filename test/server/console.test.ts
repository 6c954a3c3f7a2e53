import { expect, test } from 'vitest'
import { call, problemOf } from './calls.ts'
import { startTestServer } from './serve.ts'

test('the console is a page under a strict policy, with tags that save its transfer', async () => {
  const { url } = await startTestServer({ path: '/tide/v1' })
  const moved = await call(`${url}/console`)
  expect([moved.status, moved.headers.get('location')]).toEqual([308, 'console/'])
  const page = await call(`${url}/console/`)
  expect(page.status).toBe(200)
  expect(Object.fromEntries(page.headers)).toMatchObject({
    'content-type': 'text/html; charset=utf-8',
    'cache-control': 'no-cache',
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
  })
  const policy = page.headers.get('content-security-policy')
  for (const rule of ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"])
    expect(policy).toContain(rule)
  expect(policy).not.toContain('unsafe')
  expect(page.text).toContain('data-api="../tide/v1/"')
  expect(page.text).not.toMatch(/<style|style=|<script>|\son\w+=/)
  const again = await call(`${url}/console/`, 'GET', undefined, { 'if-none-match': page.headers.get('etag')! })
  expect([again.status, again.text]).toEqual([304, ''])

  const assets = [...page.text.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map(([, name]) => name!)
  expect(assets.length).toBeGreaterThanOrEqual(2)
  for (const name of assets) {
    const { status, headers } = await call(`${url}/console/${name}`)
    expect([name, status]).toEqual([name, 200])
    expect(headers.get('cache-control')).toContain('immutable')
    expect(headers.get('content-type')).toMatch(/^text\/(?:javascript|css); charset=utf-8$/)
    expect(headers.get('x-content-type-options')).toBe('nosniff')
  }
})

test('nothing but the console lies there', async () => {
  const { url } = await startTestServer()
  for (const path of ['main.js', '__proto__', '..%2Fclient.js', '%2e%2e%2fclient.js', 'index.html%00', 'a/b'])
    expect([path, problemOf(await call(`${url}/console/${path}`)).code]).toEqual([path, 'not-found'])
  expect(problemOf(await call(`${url}/console/`, 'POST', {})).code).toBe('method-not-allowed')
})
