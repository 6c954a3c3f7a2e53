/**
 * A keyless server trusts its machine, not the pages that a browser on it happens to show; one with keys trusts nobody
 * because of a cookie that the browser brings along. Real Chromium, four hostile pages: another site, another port of
 * this machine (to a browser the same site, cookies and all), a file, and a host name that was rebound to loopback.
 */
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { hasCode } from '../../src/errors.ts'
import { CHROMIUM, launch } from '../chromium.ts'
import { body, tempDir } from '../parts.ts'
import { call } from './calls.ts'
import { startGuarded } from './guarded.ts'
import { startTestServer } from './serve.ts'

const REBOUND = 'rebound.example'
const EVIL = 'evil.example'

/** Runs in the page: tries every way in, and tells what came of each. */
async function attack(base: string): Promise<Record<string, string>> {
  const events = `${base}/v1/channels/stolen/events`
  const secrets = `${base}/v1/channels/secrets/events?after=0`
  const said: Record<string, string> = {}
  const attempt = async (name: string, what: () => Promise<string>): Promise<void> => {
    said[name] = await what().catch((error) => `refused: ${error}`)
  }
  const post = (type: string, mode: RequestMode) => async () => {
    const answer = await fetch(events, {
      method: 'POST',
      mode,
      credentials: 'include',
      headers: { 'content-type': type },
      body: '{"data":"stolen"}',
    })
    return `${answer.status} ${await answer.text()}`
  }
  await attempt('text/plain', post('text/plain', 'cors'))
  await attempt('text/plain without cors', post('text/plain', 'no-cors'))
  await attempt('json', post('application/json', 'cors'))
  await attempt('read', async () => (await fetch(secrets, { credentials: 'include' })).text())
  await attempt('read without cors', async () =>
    (await fetch(secrets, { mode: 'no-cors', credentials: 'include' })).text(),
  )
  await attempt('poll', async () =>
    (
      await fetch(`${base}/v1/poll`, {
        method: 'POST',
        credentials: 'include',
        body: '{"channels":{"secrets":{"after":0}}}',
      })
    ).text(),
  )
  await attempt(
    'script',
    () =>
      new Promise((resolve, reject) => {
        const script = document.createElement('script')
        script.src = secrets
        script.onload = () => resolve('loaded')
        script.onerror = () => reject(new Error('did not load'))
        document.head.append(script)
      }),
  )
  await attempt(
    'form',
    () =>
      new Promise((resolve) => {
        const frame = document.createElement('iframe')
        frame.name = 'form-target'
        document.body.append(frame)
        const form = document.createElement('form')
        Object.assign(form, { method: 'POST', action: events, enctype: 'text/plain', target: 'form-target' })
        const field = document.createElement('input')
        Object.assign(field, { name: '{"data":"', value: '"}' })
        form.append(field)
        document.body.append(form)
        frame.onload = () => resolve('sent')
        form.submit()
      }),
  )
  await attempt(
    'stream',
    () =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(`${base.replace('http', 'ws')}/v1/stream`, 'tidemark.v1.json')
        socket.onopen = () => resolve('open')
        socket.onerror = () => reject(new Error('did not open'))
      }),
  )
  await attempt(
    'sse',
    () =>
      new Promise((resolve, reject) => {
        const source = new EventSource(secrets, { withCredentials: true })
        source.onopen = () => resolve('open')
        source.onerror = () => {
          source.close()
          reject(new Error('did not open'))
        }
      }),
  )
  return said
}

describe.skipIf(!CHROMIUM)('pages that may not call', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launch(
      // The browser's own wall against such pages is down: the server must refuse them by itself.
      '--disable-features=LocalNetworkAccessChecks',
      `--host-resolver-rules=MAP ${REBOUND} 127.0.0.1, MAP ${EVIL} 127.0.0.1`,
    )
  })
  afterAll(() => browser?.close())

  /** @param isGuarded with keys; the browser has the session of somebody who may do all that is tried */
  async function server(isGuarded: boolean) {
    const guarded = isGuarded ? await startGuarded() : undefined
    const { url, log, port } = guarded ?? (await startTestServer())
    await log.append([{ channel: 'secrets', body: body('a secret') }])
    const context = await browser.newContext()
    onTestFinished(() => context.close())
    if (guarded) {
      const bearer = `Bearer ${await guarded.token('anna', ['secrets', 'stolen'])}`
      const signedIn = await call(`${url}/v1/session`, 'POST', undefined, { authorization: bearer })
      const [, name, value] = /^([^=]+)=([^;]+)/.exec(signedIn.headers.get('set-cookie')!)!
      for (const domain of ['127.0.0.1', REBOUND])
        await context.addCookies([
          { name: name!, value: value!, domain, path: '/', httpOnly: true, sameSite: 'Strict' as const },
        ])
    }
    return { url, log, port, page: await context.newPage() }
  }

  /** Another web server of this machine. */
  async function otherPort(): Promise<number> {
    const other = createServer((_, res) => res.setHeader('content-type', 'text/html').end('<body>hostile</body>'))
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void other.close())
    return (other.address() as AddressInfo).port
  }

  async function expectRefused(
    page: Page,
    base: string,
    log: Awaited<ReturnType<typeof server>>['log'],
  ): Promise<void> {
    const said = await page.evaluate(attack, base)
    for (const [way, what] of Object.entries(said)) {
      expect(what, way).not.toContain('a secret')
      expect(what, way).not.toMatch(/^(?:20|open|loaded)/)
    }
    await expect(log.info('stolen')).rejects.toSatisfy((error) => hasCode(error, 'no-channel'))
  }

  for (const isGuarded of [false, true]) {
    const whose = isGuarded ? 'with a session, of a server with keys' : 'of a server without keys'

    test(`a page on another port can neither append, read nor open the stream, ${whose}`, async () => {
      const { url, log, page } = await server(isGuarded)
      await page.goto(`http://127.0.0.1:${await otherPort()}/`)
      await expectRefused(page, url, log)
    })

    test(`a page of another site can neither append, read nor open the stream, ${whose}`, async () => {
      const { url, log, page } = await server(isGuarded)
      await page.goto(`http://${EVIL}:${await otherPort()}/`)
      await expectRefused(page, url, log)
    })

    test(`a file can neither append, read nor open the stream, ${whose}`, async () => {
      const { url, log, page } = await server(isGuarded)
      const file = join(tempDir(), 'hostile.html')
      writeFileSync(file, '<body>hostile</body>')
      await page.goto(`file://${file}`)
      await expectRefused(page, url, log)
    })

    test(`a host name that was rebound to this machine can neither append, read nor open the stream, ${whose}`, async () => {
      const { log, port, page } = await server(isGuarded)
      const base = `http://${REBOUND}:${port}`
      // The page itself came from the attacker's server, before the name was rebound.
      await page.route(`${base}/`, (route) => route.fulfill({ contentType: 'text/html', body: '<body>hostile</body>' }))
      await page.goto(`${base}/`)
      await expectRefused(page, base, log)
    })
  }

  async function attackOwn(isGuarded: boolean) {
    const { url, log, page } = await server(isGuarded)
    await page.route(`${url}/own.html`, (route) =>
      route.fulfill({ contentType: 'text/html', body: '<body>own</body>' }),
    )
    await page.goto(`${url}/own.html`)
    return { log, said: await page.evaluate(attack, url) }
  }

  test('a page of the server itself appends, reads and opens the stream', async () => {
    const { log, said } = await attackOwn(false)
    expect(said.json).toMatch(/^201/)
    expect(said.read).toContain('a secret')
    expect(said.stream).toBe('open')
    expect(said.sse).toBe('open')
    expect((await log.info('stolen')).head).toBeGreaterThan(0)
  })

  test('with a session a page of a server with keys reads, and appends nothing', async () => {
    const { log, said } = await attackOwn(true)
    expect(said.read).toContain('a secret')
    expect(said.sse).toBe('open')
    expect(said.json).toMatch(/^401/)
    expect(said.poll).not.toContain('a secret')
    await expect(log.info('stolen')).rejects.toSatisfy((error) => hasCode(error, 'no-channel'))
  })
})
